#!/usr/bin/env bash
# Builds images and their SBOMs from the commit that is checked out: docker/build.sh data train-cpu train-cuda
#   DOCKER      the engine's command: docker (20.10 or newer, with BuildKit), podman or buildah
#   REPOSITORY  what stands before /data and /train in the images' names
#   NO_CACHE    anything: build every layer anew
#   BASE, BUILD_BASE  other base images than the Dockerfiles', such as a mirror's
set -euo pipefail
cd "$(dirname "$0")/.."
export DOCKER_BUILDKIT=1
engine=${DOCKER:-docker}
python=${PYTHON:-python3}
repository=${REPOSITORY:-private-llm}

revision=$(git rev-parse HEAD)
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' components/__init__.py)-${revision:0:7}
[ -z "$(git status --porcelain)" ] || version+=-dirty
epoch=$(git log -1 --format=%ct)

fetch() { # LOCK: its files into build/wheels/LOCK, unless they are there
  local folder=build/wheels/$1 platform=()
  if cmp --silent "docker/$1.lock" "$folder/lock"; then return; fi
  rm -rf "$folder"
  mkdir -p "$folder"
  for tag in _2_28 _2_27 _2_26 _2_24 _2_17 2014 _2_12 2010 _2_5 1; do platform+=(--platform "manylinux${tag}_x86_64"); done
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --prefer-binary \
    --python-version 3.11 "${platform[@]}" --dest "$folder" --requirement "docker/$1.lock"
  cp "docker/$1.lock" "$folder/lock"
}

size() { # IMAGE: bytes and id
  case $engine in
    *buildah) "$engine" inspect --type image --format '{{.FromImageID}}' "$1" ;;
    *) "$engine" image inspect --format '{{.Size}} {{.Id}}' "$1" ;;
  esac
}

declare -A names
for image in "$@"; do
  name=$repository/${image%%-*}:$version
  arguments=(--file "docker/${image%%-*}.Dockerfile" --network=none --build-arg "SOURCE_DATE_EPOCH=$epoch")
  for base in BASE BUILD_BASE; do [ -z "${!base:-}" ] || arguments+=(--build-arg "$base=${!base}"); done
  [ -z "${NO_CACHE:-}" ] || arguments+=(--no-cache)
  case $image in
    data) locks=(build data) ;;
    train-cpu) locks=(build train-cpu deepspeed) name+=-cpu arguments+=(--build-arg VARIANT=cpu) ;;
    train-cuda) locks=(build train-cuda deepspeed build-cuda) ;;
    *) echo "build: image '$image' is unknown; allowed: data, train-cpu, train-cuda" >&2; exit 2 ;;
  esac
  for lock in "${locks[@]}"; do fetch "$lock"; done
  "$engine" build "${arguments[@]}" --target sbom --output "type=local,dest=build/sbom/$image" .
  "$engine" build "${arguments[@]}" --target image --tag "$name" --build-arg "VERSION=$version" \
    --build-arg "REVISION=$revision" --build-arg "CREATED=$(date --utc --date="@$epoch" +%FT%TZ)" .
  echo "$name $(size "$name")"
  names[${image%%-*}]=$name
done

# what pipeline.run --runner docker and pipeline.compile take as --profile
if [ -n "${names[data]:-}" ] && [ -n "${names[train]:-}" ]; then
  printf 'extends: local\ndata_image: %s\ntrain_image: %s\n' "${names[data]}" "${names[train]}" >build/images.yaml
fi
