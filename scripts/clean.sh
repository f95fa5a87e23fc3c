#!/usr/bin/env bash
# clean.sh [all]: removes build output; with `all`, also what setup installed. Runs are never touched.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
rm -rf bin dist out
if [ -L .difflow ]; then
    cache=$(readlink .difflow)
    [ "${1:-}" != all ] || rm .difflow
    say "left alone, as other checkouts may use it: $cache"
elif [ "${1:-}" = all ]; then
    rm -rf .difflow
else
    rm -rf .difflow/target
fi
