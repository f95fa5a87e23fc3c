#!/usr/bin/env bash
# Everything that a GPU is asked about difflow, in one call: the self-test, training speed of several shapes and its share of the chip's
# bf16 peak, memory against the estimate, the peer, where a step's time goes, the same bits twice, sampling; and of ranks (`group_check`, by itself).
#
#   scripts/gpu.sh pack              here: puts everything needed into bin/gpu (a few MB; the peer from DIFFLOW_BENCH_DIR)
#   bin/gpu/run [OUT] [OPTIONS]      on the GPU machine, with bin/gpu copied there: writes OUT/gpu.json (default: next to itself)
#   bin/gpu/run OUT --device cpu --small    the same on a CPU, with small shapes: to try it out
#
# The machine needs a Python with PyTorch 2.11 for CUDA (DIFFLOW_PYTHON, default python3) and safetensors: its libtorch is the one used.
# For the peer it also needs transformers and tokenizers. Nothing is downloaded.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ "${1:-}" = pack ] || die "usage: scripts/gpu.sh pack"
claim_target
# Builds the whole workspace, so that dependencies get the same features as in the main build.
examples=(train_step self_test decode_speed group_check)
cargo build --quiet --release --workspace --locked "${examples[@]/#/--example=}" 9>&-
mkdir -p bin/gpu
cp "${examples[@]/#/.difflow/target/release/examples/}" nodes/model/benches/gpu.py bin/gpu/
# Beside the programs, where it was built (DEVICE=cuda).
[ ! -e bin/libdifflow_nccl.so ] || cp bin/libdifflow_nccl.so bin/gpu/
[ -z "${DIFFLOW_BENCH_DIR:-}" ] || cp "$(absolute "$DIFFLOW_BENCH_DIR")/peer_train.py" bin/gpu/
cat >bin/gpu/run <<'RUN'
#!/usr/bin/env bash
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
python=${DIFFLOW_PYTHON:-python3}
peer=()
if [ -f "$here/peer_train.py" ] && "$python" -c 'import transformers, tokenizers' 2>/dev/null; then
    peer=(--peer "$here/peer_train.py")
fi
mkdir -p "$out"
"$python" "$here/gpu.py" --tools "$here" --out "$out/gpu.json" "${peer[@]}" "${@:2}"
RUN
chmod +x bin/gpu/run
du -sh bin/gpu
