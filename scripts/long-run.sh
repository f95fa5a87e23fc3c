#!/usr/bin/env bash
# Measures memory and open files of every node over a long run of the smallest model: 50,000 batches, or the number given as argument.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck disable=SC1091 # made by setup.sh
. bin/env.sh
claim_target
DIFFLOW_LONG_RUN=${1:-50000} cargo test --release --workspace --locked --test dataflows -- --ignored --nocapture long_run 9>&-
