#!/usr/bin/env bash
# Runs cargo in the root of the checkout, with libtorch configured and the target directory claimed (see claim_target):
# `scripts/cargo.sh clippy --release`. Plain cargo also works if no other checkout shares the target directory.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
claim_target
cargo "$@" 9>&-
