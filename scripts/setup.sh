#!/usr/bin/env bash
# Installs everything a build or a run needs that cargo does not provide: .difflow (folder, or link to $DIFFLOW_CACHE), libtorch,
# the dora CLI, bin/env.sh. Downloads go to a temporary folder and are renamed, so an interrupted call leaves nothing
# half done. What already exists is not changed.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

device=${DEVICE:-cpu}
case $device in
    cpu | cuda) ;;
    *) die "DEVICE is '$device'; allowed: cpu, cuda" ;;
esac

# Reports everything that is missing at once, with the commands that install it.
check_machine() {
    local packages=() problems=() found
    [ "$(uname -sm)" = "Linux x86_64" ] || die "set-up knows libtorch for Linux x86_64 only; this is $(uname -sm)"
    { command -v "${CXX:-c++}" && command -v "${CC:-cc}"; } >/dev/null || packages+=(g++)
    command -v flock >/dev/null || packages+=(util-linux)
    if ! command -v python3 >/dev/null; then
        packages+=(python3 python3-venv)
    elif ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        problems+=("$(python3 --version) is too old: the dora CLI's wheel needs Python 3.11 or newer")
    elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        packages+=(python3-venv)
    fi
    if ! command -v cargo >/dev/null; then
        problems+=("cargo is missing; Rust $CARGO_MINIMUM or newer comes with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh")
    elif ! found=$(RUST_BACKTRACE=0 cargo --version 2>&1); then
        problems+=("cargo does not start (with another toolchain >= $CARGO_MINIMUM: export RUSTUP_TOOLCHAIN=stable): $found")
    else
        found=$(printf '%s' "$found" | cut -d' ' -f2)
        [ "$(printf '%s\n' "$CARGO_MINIMUM" "$found" | sort -V | head -n 1)" = "$CARGO_MINIMUM" ] ||
            problems+=("cargo $found is too old, $CARGO_MINIMUM is needed: rustup update stable (Debian's own cargo is older)")
    fi
    [ ${#packages[@]} -eq 0 ] || problems+=("missing programs; as root: apt-get install -y ${packages[*]}")
    [ ${#problems[@]} -eq 0 ] || {
        printf 'difflow: error: %s\n' "${problems[@]}" >&2
        exit 1
    }
}

# .difflow: a folder in this checkout, or a link to the folder that DIFFLOW_CACHE points to.
lay_cache() {
    local target
    if [ -z "${DIFFLOW_CACHE:-}" ]; then
        # A link from an earlier call remains valid, even if its folder has been deleted since.
        [ -L .difflow ] && target=$(readlink .difflow) || target=.difflow
        mkdir -p "$target"
        return
    fi
    mkdir -p "$DIFFLOW_CACHE"
    target=$(cd -P "$DIFFLOW_CACHE" && pwd)
    if [ -d .difflow ] && [ ! -L .difflow ]; then
        rmdir .difflow 2>/dev/null ||
            die "DIFFLOW_CACHE is set but $root/.difflow is a folder with a build in it; either: make distclean, or: unset DIFFLOW_CACHE"
    fi
    [ "$(readlink .difflow || true)" = "$target" ] || ln -sfn "$target" .difflow
}

# The cuda variant is the cpu one with more libraries, so it works for DEVICE=cpu too. A link made by hand to a
# folder containing `torch` of this version (an installed PyTorch) is accepted as well.
libtorch_ready() {
    local torch=$cache/libtorch/torch
    [ -e "$torch/lib/libtorch_cpu.so" ] || return 1
    grep -qsF "__version__ = '$TORCH_VERSION" "$torch/version.py" || return 1
    [ "$device" = cpu ] || [ -e "$torch/lib/libtorch_cuda.so" ]
}

# install_libtorch: the pip wheel's directory tree, unchanged (libtorch_cpu.so finds ../../nvidia relative to itself).
install_libtorch() {
    local tree=$scratch/tree what=("torch==$TORCH_VERSION") how=()
    if [ "$device" = cpu ]; then
        say "libtorch $TORCH_VERSION for cpu: 0.55 GB to download, 0.8 GB on disk; usually 1-5 minutes"
        # Everything that libtorch_cpu.so of a CUDA build needs to load.
        what+=('nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cupti==13.0.*')
        how=(--no-deps)
    else
        say "libtorch $TORCH_VERSION with CUDA: 2.7 GB to download, 4.5 GB on disk; usually 2-15 minutes"
    fi
    mkdir "$scratch/unpack"
    # The same wheel whatever Python is installed here: its Python part is not used.
    TMPDIR=$scratch/unpack "$cache/venv/bin/python3" -m pip install --disable-pip-version-check --no-cache-dir \
        --no-compile --only-binary=:all: --python-version 3.11 --target "$tree" "${how[@]}" "${what[@]}" >&2
    if [ "$device" = cpu ]; then
        (cd "$tree/torch/lib" && rm -f libtorch_cuda*.so libc10_cuda.so libcaffe2_nvrtc.so libtorch_nvshmem.so)
    fi
    ! ldd "$tree/torch/lib/libtorch_cpu.so" | grep 'not found' >&2 || die "libtorch_cpu.so does not find the libraries above"
    [ ! -e "$cache/libtorch" ] && [ ! -L "$cache/libtorch" ] || mv "$cache/libtorch" "$scratch/old"
    mv "$tree" "$cache/libtorch"
}

# What scripts/nccl.sh compiles with beside libtorch's tree: headers that no library needs, so pip does not bring them.
headers_ready() { [ "$device" = cpu ] || [ -e "$cache/cuda-headers/nvidia/cu13/include/crt/host_config.h" ]; }

install_headers() {
    say "headers of CUDA: 3.3 MB to download; usually 5-10 seconds"
    "$cache/venv/bin/python3" -m pip install --disable-pip-version-check --no-cache-dir --no-compile --only-binary=:all: \
        --no-deps --target "$scratch/headers" 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-cccl==13.0.*' >&2
    rm -rf "$cache/cuda-headers"
    mv "$scratch/headers" "$cache/cuda-headers"
}

venv_ready() { [ -x "$cache/venv/bin/python3" ] && "$cache/venv/bin/python3" -m pip --version >/dev/null 2>&1; }

dora_ready() { [ "$("$cache/venv/bin/dora" --version 2>/dev/null)" = "dora-cli $DORA_VERSION" ]; }

install_dora() {
    say "dora CLI $DORA_VERSION: 30 MB to download; usually 10-30 seconds"
    # --no-deps: its dependencies are dora's Python node library and uv, which only Python nodes use.
    "$cache/venv/bin/python3" -m pip install --disable-pip-version-check --no-cache-dir --no-deps \
        "dora-rs-cli==$DORA_VERSION" >&2
    dora_ready || die "the dora CLI does not start: $cache/venv/bin/dora --version"
}

# Returns silently if everything exists; otherwise takes the lock and creates what is missing.
fill_cache() {
    dora_ready && libtorch_ready && headers_ready && return
    lock "$cache/setup.lock" "$cache"
    rm -rf "$cache"/.setup.*
    scratch=$(mktemp -d "$cache/.setup.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    dora_ready || venv_ready || {
        say "a Python environment for pip and the dora CLI; usually 5-15 seconds"
        python3 -m venv --clear "$cache/venv"
    }
    dora_ready || install_dora
    libtorch_ready || {
        venv_ready || die "$cache/venv has no pip; delete that folder and call again"
        install_libtorch
    }
    headers_ready || {
        venv_ready || die "$cache/venv has no pip; delete that folder and call again"
        install_headers
    }
}

# bin/: the dora CLI next to the programs that `make build` puts there, and a script that puts both on PATH.
write_bin() {
    mkdir -p bin
    ln -sfn ../.difflow/venv/bin/dora bin/dora
    {
        echo "# Made by \`make setup\`. Puts difflow's programs and the dora CLI on PATH: . bin/env.sh"
        # shellcheck disable=SC2016 # PATH is the reader's
        printf 'case ":$PATH:" in *:%q:*) ;; *) PATH=%q:$PATH ;; esac\n' "$root/bin" "$root/bin"
        printf 'export PATH LIBTORCH=%q\n' "$cache/libtorch/torch"
    } >bin/.env.sh.new
    mv -f bin/.env.sh.new bin/env.sh
}

check_machine
lay_cache
cache=$(cd -P .difflow && pwd)
fill_cache
write_bin
say "set-up ready: libtorch $TORCH_VERSION, dora $DORA_VERSION in $cache"
