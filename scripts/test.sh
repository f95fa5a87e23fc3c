#!/usr/bin/env bash
# Runs the tests with the release profile, which the build has already compiled.
# A single crate: scripts/cargo.sh nextest run --release -p difflow-schema
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck disable=SC1091 # made by setup.sh
. bin/env.sh
scripts/test-tools.sh
# Tests that cannot run here write a line to it (tests/src/skip.rs).
DIFFLOW_SKIPPED=$(mktemp)
export DIFFLOW_SKIPPED
summary() {
    [ ! -s "$DIFFLOW_SKIPPED" ] || say "not tested on this machine (with CI set, only for what tests/allowed-skips.txt lists):"
    sort -u "$DIFFLOW_SKIPPED" >&2
    rm -f "$DIFFLOW_SKIPPED"
}
trap summary EXIT
claim_target
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --release --workspace --locked 9>&-
else
    # One at a time: nextest would run each test in its own process, and whole-dataflow tests use all cores.
    say "cargo-nextest is not installed, so cargo test runs one test at a time; faster: cargo install cargo-nextest --locked"
    cargo test --release --workspace --locked --lib --bins --tests -- --test-threads=1 9>&-
fi
# nextest does not run the examples in documentation comments. Those are compiled to programs in a temporary folder, from which
# the run paths in .cargo/config.toml do not resolve.
RUSTDOCFLAGS="-C link-arg=-Wl,-rpath,$PWD/.difflow/libtorch/torch/lib" cargo test --quiet --release --workspace --locked --doc 9>&-
