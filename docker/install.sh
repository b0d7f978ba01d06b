#!/bin/sh
# Makes the virtual environment /opt/venv out of a lock. Runs inside a build, without a network, on the files in /wheels.
set -eu
python3 -m venv tools
tools/bin/python -m pip install --quiet --no-index --find-links=/wheels/build --no-deps --require-hashes -r build.lock
# the few packages that come as source become wheels here
tools/bin/python -m pip wheel --quiet --no-index --find-links="/wheels/$1" --no-deps --no-build-isolation \
  --require-hashes --wheel-dir=/built -r "$1.lock"
python3 -m venv --without-pip /opt/venv
tools/bin/python -m pip --python /opt/venv/bin/python install --quiet --no-index --no-deps --no-compile /built/*.whl
rm -rf /built
