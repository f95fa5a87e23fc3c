#!/usr/bin/env bash
# The long form of the fault tests, about three quarters of an hour on two cores: processes killed (DIFFLOW_KILLS, 30), ranks killed in runs
# that change their number (DIFFLOW_KILLS_RANKS, 30), everything killed (DIFFLOW_KILLS_ALL, 10), processes paused for a minute
# (DIFFLOW_PAUSES, 3), a disk that fills up. Each prints a seed; DIFFLOW_FAULT_SEED repeats it. An argument selects tests by part of their
# name: scripts/faults.sh everything
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck disable=SC1091 # made by setup.sh
. bin/env.sh
claim_target
cargo test --release --workspace --locked --test dataflows -- --ignored --nocapture --test-threads=1 "long_form${1:+_of_$1}" 9>&-
