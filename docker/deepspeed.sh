#!/bin/sh
# Makes DeepSpeed's wheel in /built, for CUDA with its operators compiled, for any x86-64 processor from 2013 on and not
# the build machine's. Training on a CPU uses none of them.
set -eu
site=$(echo /opt/venv/lib/python3*/site-packages)
case $1 in
  cpu) export DS_ACCELERATOR=cpu ;;
  cuda)
    export DS_ACCELERATOR=cuda DS_BUILD_FUSED_ADAM=1 DS_BUILD_CPU_ADAM=1 TORCH_CUDA_ARCH_LIST='8.0;8.6;8.9;9.0;10.0;12.0+PTX'
    tools/bin/python -m pip --python /opt/venv/bin/python install --quiet --no-index --find-links=/wheels/build-cuda \
      --no-deps --require-hashes -r build-cuda.lock
    export CUDA_HOME="$site/nvidia/cu13"
    export PATH="$CUDA_HOME/bin:$PATH"
    ln -s lib "$CUDA_HOME/lib64"
    ln -s libcudart.so.13 "$CUDA_HOME/lib/libcudart.so"
    ;;
esac
# DeepSpeed asks for -march=native and the build machine's vector width; the last flag wins
cat > portable-c++ <<'WRAPPER'
#!/bin/sh
exec c++ "$@" -march=x86-64-v3 -U__AVX512__ -D__AVX256__
WRAPPER
chmod +x portable-c++
export CC="$PWD/portable-c++" CXX="$PWD/portable-c++" DS_ENABLE_NINJA=1 PATH="/opt/venv/bin:$PATH" PYTHONPATH="$site"
tools/bin/python -m pip wheel --quiet --no-index --find-links=/wheels/deepspeed --no-deps --no-build-isolation \
  --require-hashes --wheel-dir=/built -r deepspeed.lock
