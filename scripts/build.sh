#!/usr/bin/env bash
# Builds the workspace and puts its programs into bin/, where dataflow files look for them.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
claim_target
[ -d .difflow/target/release/deps ] ||
    say "first build: all dependencies are compiled, usually 10-30 minutes on two cores; later ones take seconds"

list=bin/.programs.new
trap 'rm -f "$list"' EXIT
cargo build --release --workspace --locked --message-format=json-render-diagnostics 9>&- >"$list"
# Taken from cargo's own messages, so that no list of programs has to be maintained.
sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$list" | while IFS= read -r program; do
    name=${program##*/}
    [ ! "$program" -ef "bin/$name" ] || continue
    # A running program is replaced, never overwritten in place; with a hard link where the file system allows it. cargo
    # and the linker create new files too, so a link keeps what was built here.
    cp -lf "$program" "bin/.$name.new" 2>/dev/null || cp -f "$program" "bin/.$name.new"
    mv -f "bin/.$name.new" "bin/$name"
done

# The example plug-ins: those in Rust from cargo's messages, the one in C with its own Makefile.
mkdir -p bin/plugins
sed -n '/"crate_types":\["cdylib"\]/s/.*"filenames":\["\([^"]*\.so\)".*/\1/p' "$list" | while IFS= read -r library; do
    name=${library##*/}
    cp -f "$library" "bin/plugins/.$name.new"
    mv -f "bin/plugins/.$name.new" "bin/plugins/$name"
done
make --silent -C plugins/quadratic-noise-c OUT="$root/bin/plugins/quadratic_noise.so"
scripts/nccl.sh
