#!/bin/sh
# Removes from /opt/venv what no step reads, and makes what stays the same in every build. Runs after each installation,
# in its layer; what an earlier one left untouched stays so, for a touched file is stored once more.
set -eu
epoch=@315532800
cd /opt/venv/lib/python3*/site-packages
find . -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf {} +
find . -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyi' -o -name '*.c' -o -name '*.a' \) -delete
rm -rf pyarrow/include pyarrow/src pyarrow/*_flight*  # a server's
# of the 400 services that botocore describes, storage and what signs in to it
find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name 's3' ! -name 'sts' ! -name 'sso*' ! -name signin -exec rm -rf {} +
# a wheel holds no links, so pyarrow has one library three times
for versioned in pyarrow/lib*.so.*.*.*; do
  short=${versioned%.*.*}
  if [ ! -L "$short" ]; then
    ln -sf "$(basename "$versioned")" "$short"
    ln -sf "$(basename "$versioned")" "${short%.*}"
  fi
done
rm -rf phonenumbers/geodata phonenumbers/carrierdata phonenumbers/tzdata  # where and whose a number is
if [ ! -d torch ]; then # no model can be built; auto lists the names that tokenizers and configurations go by
  find transformers \( -name 'modeling_*.py' -o -name 'modular_*.py' \) -path '*/models/*' ! -path '*/auto/*' -delete
fi
# *.libs and NVIDIA's hold libraries that were rewritten after linking, which strip may break
find . -type f -name '*.so*' -newermt $epoch ! -path './*.libs/*' ! -path './torch/*' ! -path './nvidia/*' \
  ! -path './triton/*' -exec strip --strip-unneeded {} +
find /opt/venv -newermt $epoch -exec touch --no-dereference --date=$epoch {} +
