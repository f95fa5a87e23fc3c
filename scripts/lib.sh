# shellcheck shell=bash
# Sourced by the other scripts: paths, versions, and the lock on the target directory.
set -euo pipefail

# shellcheck disable=SC2034 # read by the scripts that source this file
TORCH_VERSION=2.11.0 DORA_VERSION=1.1.0 CARGO_MINIMUM=1.95.0
CALLED_FROM=$PWD

cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

say() { printf 'difflow: %s\n' "$*" >&2; }
die() {
    printf 'difflow: error: %s\n' "$*" >&2
    exit 1
}

# absolute PATH: PATH as seen from where the script was called.
absolute() {
    case $1 in
        /*) printf '%s\n' "$1" ;;
        *) printf '%s/%s\n' "$CALLED_FROM" "$1" ;;
    esac
}

# Tests run in their packages' folders, so a relative data folder would be looked up there.
if [ -n "${DIFFLOW_DATA_DIR:-}" ]; then
    DIFFLOW_DATA_DIR=$(absolute "$DIFFLOW_DATA_DIR")
    export DIFFLOW_DATA_DIR
fi

# lock FILE WHAT: holds FILE on descriptor 9 until this script ends.
lock() {
    exec 9>"$1"
    flock --nonblock 9 || {
        say "$2 is in use by another checkout or shell; waiting for it to finish"
        flock 9
    }
}

# Sets the environment for every cargo call and locks the target directory, which several checkouts may share.
#
# The names of a workspace's own artifacts do not depend on the location of the checkout, and cargo treats any artifact
# newer than the sources as up to date. So two checkouts with one target directory would run each other's programs.
# Therefore the directory records which checkout built the workspace crates; another one first deletes those (never the dependencies).
claim_target() {
    local cache mine owner
    [ -s bin/env.sh ] || die "the checkout is not set up; run: make setup"
    cache=$(cd -P .difflow && pwd)
    # With links resolved, so the value is the same in all checkouts; otherwise torch-sys' C++ is rebuilt for each.
    LIBTORCH=$(cd -P .difflow/libtorch/torch && pwd)
    export LIBTORCH
    lock "$cache/target.lock" "$cache/target"
    [ -s bin/.checkout ] || cat /proc/sys/kernel/random/uuid >bin/.checkout
    mine="$(cat bin/.checkout) $root"
    owner=$cache/target/checkout
    if [ -d "$cache/target/release" ] && [ "$(cat "$owner" 2>/dev/null)" != "$mine" ]; then
        say "the target directory holds another checkout's build: dropping its own crates, keeping the dependencies"
        cargo clean --quiet --release --workspace --locked
    fi
    mkdir -p "$cache/target"
    printf '%s\n' "$mine" >"$owner"
}
