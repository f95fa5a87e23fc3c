#!/usr/bin/env bash
# Measures the training step on a GPU, in one call: tokens/s and share of the chip's bf16 peak for GPT-2 small and medium shapes with random
# weights, the small shapes of `make bench`, difflow's loss on GPU and CPU, and the ratio to the peer if the peer can run.
#
#   scripts/gpu.sh pack       here: puts everything needed into bin/gpu (a few MB; the peer from DIFFLOW_BENCH_DIR)
#   bin/gpu/run [OUT]         on the GPU machine, with bin/gpu copied there: writes OUT/gpu.json (default: next to itself)
#
# The GPU machine needs a Python with PyTorch 2.11 for CUDA (DIFFLOW_PYTHON, default python3): its libtorch is the one used.
# For the peer it also needs transformers and tokenizers. Nothing is downloaded.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ "${1:-}" = pack ] || die "usage: scripts/gpu.sh pack"
claim_target
# Builds the whole workspace, so that dependencies get the same features as in the main build.
cargo build --quiet --release --workspace --locked --example train_step 9>&-
mkdir -p bin/gpu
cp .difflow/target/release/examples/train_step nodes/model/benches/training.py bin/gpu/
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
"$python" "$here/training.py" --step "$here/train_step" --device cuda:0 --out "$out/gpu.json" "${peer[@]}"
RUN
chmod +x bin/gpu/run
du -sh bin/gpu
