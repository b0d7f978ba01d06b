# The data image: every step but train and evaluate, on CPU. It holds neither torch nor a compiler.
# docker/build.sh calls this; wheels come from build/wheels, so a build needs no network.
ARG BUILD_BASE=python:3.11.15-bookworm@sha256:a8f8fbe1a0edc9e4dddafa64ba73f7e04be7be5ebc23f332362e779e0a2e4e52
ARG BASE=python:3.11.15-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3

FROM ${BUILD_BASE} AS dependencies
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
WORKDIR /build
COPY docker/install.sh docker/prune.sh docker/build.lock docker/data.lock ./
RUN --mount=type=bind,source=build/wheels/build,target=/wheels/build \
    --mount=type=bind,source=build/wheels/data,target=/wheels/data \
    ./install.sh data && ./prune.sh

FROM dependencies AS project
ARG SOURCE_DATE_EPOCH=315532800
COPY pyproject.toml README.md LICENSE ./
COPY components components
COPY pipeline pipeline
RUN tools/bin/python -m pip install --quiet --no-index --no-deps --no-build-isolation --no-compile --target=/project/private-llm . \
    && tools/bin/cyclonedx-py environment --output-reproducible --pyproject=pyproject.toml --mc-type=application \
      --output-file=/sbom.cdx.json /opt/venv \
    && find /project/private-llm -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM scratch AS sbom
COPY --from=project /sbom.cdx.json /

FROM ${BASE} AS image
ARG BASE
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="private-llm data" \
      org.opencontainers.image.description="Steps of the private-llm pipeline that need no torch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
# whole folders below /opt: one that COPY makes itself would have the time of the build
COPY --from=dependencies /opt /opt
COPY --from=project /project /opt
# The root may be read-only and the user any: whatever a library keeps goes below /tmp, which must be writable.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/private-llm \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    LOGNAME=private-llm
WORKDIR /tmp
USER 10001:10001
