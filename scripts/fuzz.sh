#!/usr/bin/env bash
# Fuzzes the parsers of fuzz/ (see its README.md): scripts/fuzz.sh [SECONDS] [TARGET ...]; by default all targets, 60 seconds each.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
seconds=${1:-60}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- config edges infill manifest
cargo +nightly fuzz --version >/dev/null 2>&1 ||
    die "fuzzing needs cargo-fuzz and a nightly compiler; run: rustup toolchain install nightly && cargo install cargo-fuzz --locked"
for target; do
    say "fuzzing $target for $seconds s"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -print_final_stats=1
done
