#!/usr/bin/env bash
# How fast the candidates of HellaSwag are measured, beside the paper's scorer written down plainly in PyTorch, on one machine in one run,
# with the ratios.
#
#   DIFFLOW_DATA_DIR  contains eval/ and models/stories260K
#   DIFFLOW_PYTHON    a Python with torch and transformers (default: python3)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
python=${DIFFLOW_PYTHON:-python3}
if [ -z "${DIFFLOW_DATA_DIR:-}" ]; then
    say "evaluation beside PyTorch: skipped, DIFFLOW_DATA_DIR is not set"
    exit 0
fi
"$python" -c 'import torch, transformers' 2>/dev/null ||
    die "$python has no torch or no transformers; set DIFFLOW_PYTHON (python3 -m venv V; V/bin/pip install torch transformers)"
claim_target
# Builds the whole workspace, so that dependencies get the same features as in the main build.
cargo build --quiet --release --workspace --locked --example score_speed 9>&-
"$python" nodes/eval/benches/scoring.py --score .difflow/target/release/examples/score_speed --tasks data/tasks "$@"
