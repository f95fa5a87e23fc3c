#!/usr/bin/env bash
# test-wheel.sh [--full]: installs the wheel of `make wheel` into a new virtual environment and uses it as somebody would who has neither this
# checkout nor a compiler: init, doctor, run, sample, plug-ins. Needs root or user namespaces to hide the compiler and the checkout, else it
# only leaves them out of PATH, and says so.
#
# Without --full it links the libtorch and the dora command that `make setup` fetched, and the run has eight steps.
# With --full pip fetches everything that difflow depends on (3 GB: PyPI's PyTorch is the one for CUDA), and the run is the default one.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

full=false
case ${1:-} in
    --full) full=true ;;
    '') ;;
    *) die "found $1; allowed: --full" ;;
esac
wheels=(dist/difflow-*.whl)
[ -f "${wheels[0]}" ] || die "there is no wheel in dist; run: make wheel"
[ ${#wheels[@]} = 1 ] || die "several wheels in dist: ${wheels[*]}; remove all but one"
wheel=$root/${wheels[0]}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "$(basename "$wheel"): $(($(stat -c %s "$wheel") / 1000000)) MB"
python3 -m venv "$work/venv"
packages=$("$work/venv/bin/python3" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
if $full; then
    started=$SECONDS
    "$work/venv/bin/python3" -m pip install --disable-pip-version-check --quiet "$wheel"
    say "pip install with all that it depends on: $((SECONDS - started)) s"
else
    "$work/venv/bin/python3" -m pip install --disable-pip-version-check --quiet --no-deps --no-index "$wheel"
    for name in "$root"/.difflow/libtorch/{torch,nvidia}; do ln -s "$(readlink -f "$name")" "$packages"; done
    ln -s "$(readlink -f bin/dora)" "$work/venv/bin/dora"
fi

# What is linked into the programs comes with its licences.
for package in arrow datafusion dora-node-api serde tch zstd-sys; do
    grep -q "^$package [0-9.+a-z]*: " "$packages"/difflow-*.dist-info/licenses/THIRD-PARTY.txt || die "no licence of $package"
done

# What the machine of such a user has: a shell and the tools that come with it.
mkdir "$work/path" "$work/home"
for tool in sh bash env cat cp ls mkdir rm grep head tail sort readlink dirname basename uname date sleep; do
    ln -s "$(type -P "$tool")" "$work/path/$tool"
done

cat >"$work/use.sh" <<'USE'
set -euo pipefail
say() { printf 'difflow: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
for name in cc gcc c++ g++ clang rustc cargo make; do
    ! type -P "$name" || die "$name is on PATH"
done
# . activate, as far as it matters.
export PATH=$venv/bin:$PATH
cd "$HOME"
started=$SECONDS
difflow --version
difflow init demo
code=0
difflow init demo 2>refused || code=$?
[ $code = 78 ] || die "a folder that is not empty: exit code $code"
grep -q 'allowed: a new or an empty folder' refused
cd demo
difflow doctor
difflow validate --deny-warnings
difflow run dataflow.yml "${run[@]}"
say "from init to the end of the run: $((SECONDS - started)) s"
difflow runs
difflow inspect run default
difflow sample --checkpoint runs/default -n 1 --seed 1
difflow sample --checkpoint runs/default --seed 1 --infill 'Sam wanted a ball. He looked around and then bought a [MASK] ball.'
difflow-world check --help >/dev/null
difflow-trainer --help | grep LEARNING_RATE >/dev/null
difflow eval --list | grep tiny >/dev/null
difflow plugin list | grep builtin:cosine >/dev/null
difflow plugin check builtin:cosine >/dev/null
difflow plugin list | grep bin/plugins/libcosine_noise.so
# Dora itself, without difflow's command. The nodes find libtorch by their own path; the environment has nothing to do with it.
difflow expand dataflow.yml "${short[@]}" --set RUN=plain >plain.yml
dora run plain.yml >plain.log 2>&1 || { tail -20 plain.log; die "dora run"; }
[ -e runs/plain/checkpoints/step-00000008/model.safetensors ] || die "dora run left no checkpoint"
# From here on a compiler would be needed; the files for it are there, and nowhere else.
difflow plugin new mine --kind noise-schedule --lang c
difflow plugin new mine-too --kind noise-schedule
grep "$packages/difflow/plugins/sdk" mine-too/Cargo.toml
difflow init ../another --experiment tiny-diffusion
cd ../another
difflow validate data/experiments/tiny-diffusion.yml
USE

# A short run keeps everything but its length.
short='--set STEPS=8 --set ANNEAL_STEPS=4 --set WARMUP_STEPS=2 --set CHECKPOINT_EVERY=4 --set SAMPLES=4 --set SAMPLES_FINAL=4'
run=$short
! $full || run=
# shellcheck disable=SC2016 # for the inner shell
inner='read -ra run <<<"$RUN"; read -ra short <<<"$SHORT"; . "$1"'
use=("$(type -P env)" -i HOME="$work/home" PATH="$work/path" LANG=C.UTF-8 NO_COLOR=1 venv="$work/venv" packages="$packages" RUN="$run" SHORT="$short"
    "$(type -P bash)" -c "$inner" use "$work/use.sh")

# Nothing is where the compiler is, nor in the folders of this checkout, in which a program could find what the wheel lacks. libtorch and dora's
# command may be in .difflow.
hide=(/usr/lib/gcc /usr/include "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}")
hide+=("$root"/{bin,data,docs,nodes,plugins,types,dataflow.yml})
cat >"$work/hide.sh" <<'HIDE'
set -euo pipefail
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mount -t tmpfs none "$1"; elif [ -e "$1" ]; then mount --bind /dev/null "$1"; fi
    shift
done
shift
exec "$@"
HIDE
if unshare --mount --map-root-user "$(type -P mount)" -t tmpfs none /usr/include 2>/dev/null; then
    unshare --mount --map-root-user "$(type -P bash)" "$work/hide.sh" "${hide[@]}" -- "${use[@]}"
else
    say "neither the compiler nor the checkout can be hidden here; they are left out of PATH only"
    "${use[@]}"
fi
say "the wheel works"
