#!/usr/bin/env bash
# Runs the benchmarks of the workspace, then times the training step: alone, or alternating with the peer if DIFFLOW_BENCH_DIR
# contains peer_train.py and DIFFLOW_PYTHON (default: python3) has torch and transformers.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
claim_target
cargo bench --workspace --locked --bench '*' 9>&-
# Builds the whole workspace, so that dependencies get the same features as in the main build.
cargo build --quiet --release --workspace --locked --example train_step 9>&-
step=.difflow/target/release/examples/train_step
python=${DIFFLOW_PYTHON:-python3}
peer=()
if [ -z "${DIFFLOW_BENCH_DIR:-}" ]; then
    say "no peer: DIFFLOW_BENCH_DIR names the folder of peer_train.py"
elif ! "$python" -c 'import torch, transformers' 2>/dev/null; then
    say "no peer: $python has no torch and transformers; DIFFLOW_PYTHON names one that has"
else
    peer=(--peer "$(absolute "$DIFFLOW_BENCH_DIR")/peer_train.py")
fi
"$python" nodes/model/benches/training.py --step "$step" --profile "${peer[@]}"
