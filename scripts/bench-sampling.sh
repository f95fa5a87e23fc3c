#!/usr/bin/env bash
# Sampling speed compared with the method of the published samplers, on one machine in one run, with the ratios.
#
#   DIFFLOW_DATA_DIR           contains models/stories260K
#   DIFFLOW_BENCH_DIR          contains peer_sample.py
#   DIFFLOW_PYTHON             a Python with torch and transformers (default: python3)
#   DIFFLOW_BENCH_CHECKPOINT   optional: an adapted checkpoint. Only an adapted model is ever confident, so the threshold decoder
#                              is only meaningful there; `difflow sample --measure` measures the quality of its texts.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
python=${DIFFLOW_PYTHON:-python3}
if [ -z "${DIFFLOW_DATA_DIR:-}" ] || [ -z "${DIFFLOW_BENCH_DIR:-}" ]; then
    say "sampling beside the peer: skipped, DIFFLOW_DATA_DIR or DIFFLOW_BENCH_DIR is not set"
    exit 0
fi
peer=$(absolute "$DIFFLOW_BENCH_DIR")/peer_sample.py
[ -f "$peer" ] || die "there is no $peer"
"$python" -c 'import torch, transformers' 2>/dev/null ||
    die "$python has no torch or no transformers; set DIFFLOW_PYTHON (python3 -m venv V; V/bin/pip install torch transformers)"
model=$DIFFLOW_DATA_DIR/models/stories260K
claim_target
# Builds the whole workspace, so that dependencies get the same features as in the main build.
cargo build --quiet --release --workspace --locked --example decode_speed 9>&-
speed=.difflow/target/release/examples/decode_speed

# rate NAME FILE: tokens/s of one method from a file of JSON lines.
rate() { sed -n "s/.*\"$1\".*\"tokens_per_s\": \([0-9.]*\).*/\1/p" "$2" | head -n 1; }
ratio() { awk -v ours="$1" -v theirs="$2" 'BEGIN { printf "%.1f", ours / theirs }'; }
row() { printf '%-46s %10s tokens/s %10s tokens/s %7sx\n' "$1" "$2" "$3" "$(ratio "$2" "$3")"; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
say "stories260K, one text of 256 tokens, 64 steps; medians of 3 runs on $(nproc) cores"
"$speed" "$model" 256 64 >"$folder/ours"
"$python" "$peer" --model "$model" --add-mask --mode diffusion 2>/dev/null >"$folder/fill"
"$python" "$peer" --model "$model" --add-mask --mode ar 2>/dev/null >"$folder/ar"
fill=$(rate diffusion "$folder/fill") ar=$(rate ar "$folder/ar")
printf '%-46s %10s %19s %17s\n' '' ours peer ratio
row 'random, 64 steps, whole canvas each step' "$(rate random "$folder/ours")" "$fill"
row 'random, 64 steps, blocks of 32, prefix cache' "$(rate 'random, blocks, prefix' "$folder/ours")" "$fill"
row 'random, 64 steps, blocks of 32, dual cache' "$(rate 'random, blocks, dual' "$folder/ours")" "$fill"
row 'from left to right, KV cache' "$(rate ar "$folder/ours")" "$ar"

if [ -n "${DIFFLOW_BENCH_CHECKPOINT:-}" ]; then
    checkpoint=$(absolute "$DIFFLOW_BENCH_CHECKPOINT")
    say "$checkpoint, one text of 100 tokens"
    "$speed" "$checkpoint" 100 64 >"$folder/ours"
    "$python" "$peer" --model "$checkpoint" --length 100 --mode diffusion 2>/dev/null >"$folder/fill"
    fill=$(rate diffusion "$folder/fill")
    row 'random, 64 steps, whole canvas each step' "$(rate random "$folder/ours")" "$fill"
    row 'threshold 0.9' "$(rate threshold "$folder/ours")" "$fill"
    row 'threshold 0.9, blocks of 32, dual cache' "$(rate 'threshold, blocks, dual' "$folder/ours")" "$fill"
fi
