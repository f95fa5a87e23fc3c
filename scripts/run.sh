#!/usr/bin/env bash
# Runs a dataflow file through the real dora CLI, standalone (no daemon is started or needed), shows what matters to the user,
# and exits with its exit code.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
dataflow=${1:-dataflow.yml}
[ -f "$dataflow" ] || die "there is no dataflow file $root/$dataflow; try: make run DATAFLOW=data/experiments/NAME.yml"
exec bin/difflow run "$dataflow"
