#!/usr/bin/env bash
# cargo, from the root of the checkout, with libtorch named and the target directory claimed (see claim_target):
# `scripts/cargo.sh clippy --release`. Plain cargo does as well where no other checkout shares the target directory.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
claim_target
cargo "$@" 9>&-
