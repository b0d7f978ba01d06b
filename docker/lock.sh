#!/usr/bin/env bash
# Pins what the images hold, with the hash of every file: make locks. Run it after a change of dependencies.
# EXTRAS=tasks puts lm-evaluation-harness into the train images as well.
# The CPU build of torch stands on an index of its own: name it in UV_EXTRA_INDEX_URL, or its folder in UV_FIND_LINKS.
set -euo pipefail
cd "$(dirname "$0")"
uv=${UV:-uv}

lock() { # NAME, then what to resolve
  "$uv" pip compile --quiet --generate-hashes --no-annotate --custom-compile-command "make locks" \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraint ../constraints.txt \
    --output-file "$1.lock" "${@:2}"
}

stores=(--extra s3 --extra gcs --extra azure)
# DeepSpeed has a lock of its own: it is compiled against the torch of the other one.
training=("${stores[@]}" --extra train --no-emit-package deepspeed)
for extra in ${EXTRAS:-}; do training+=(--extra "$extra"); done
lock data "${stores[@]}" --extra signing ../pyproject.toml
lock train-cpu "${training[@]}" --constraint cpu.in ../pyproject.toml
(unset UV_EXTRA_INDEX_URL UV_FIND_LINKS && lock train-cuda "${training[@]}" ../pyproject.toml)
lock deepspeed --no-deps deepspeed.in
lock build build.in
lock build-cuda --constraint train-cuda.lock --no-emit-package nvidia-cuda-runtime build-cuda.in
