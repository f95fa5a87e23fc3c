#!/usr/bin/env bash
# Builds bin/libdifflow_nccl.so, with which ranks exchange by NCCL what is on their GPUs, where `make setup DEVICE=cuda` was called; nothing
# happens elsewhere, and where it is newer than its source.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cache=$(cd -P .difflow && pwd)
torch=$(cd -P .difflow/libtorch/torch && pwd)
nvidia=$torch/../nvidia
source=nodes/model/shim/nccl.cpp library=bin/libdifflow_nccl.so
[ -e "$torch/lib/libtorch_cuda.so" ] && [ -d "$cache/cuda-headers" ] || exit 0
[ -e "$nvidia/nccl/include/nccl.h" ] || die "$nvidia has no nccl.h, which PyTorch's wheel for CUDA brings; delete $torch/.. and call: make setup DEVICE=cuda"
[ ! "$library" -nt "$source" ] || [ ! "$library" -nt "$torch/version.py" ] || exit 0
say "the library for NCCL: usually 10-30 seconds"
mkdir -p bin
# Libtorch's libraries are those that the program has loaded.
"${CXX:-c++}" -std=c++17 -O1 -w -fPIC -shared -D_GLIBCXX_USE_CXX11_ABI=1 -DUSE_C10D_NCCL \
    -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include" -isystem "$nvidia/nccl/include" \
    -isystem "$nvidia/cu13/include" -isystem "$cache/cuda-headers/nvidia/cu13/include" "$source" -o "$library.new"
mv -f "$library.new" "$library"
