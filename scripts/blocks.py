#!/usr/bin/env python3
"""Runs the ablation of block diffusion of docs/RESULTS.md, measures its last checkpoints, and prints its tables.

    scripts/blocks.py run tiny|tinystories [--seeds 1,2,3] [--only NAME,NAME] [--lanes N]
    scripts/blocks.py report tiny|tinystories

`run` runs data/experiments/ablation-WHICH.yml with the keys of the variant (`difflow run --set`); a run that is measured is not run again.
With --lanes 2, two runs at a time, each with one thread. tinystories wants DIFFLOW_DATA_DIR; it first trains a second judge, an AR model from
random weights. Python's standard library is all it needs.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs"
DIFFLOW = ROOT / "bin/difflow"
TEXTS = {"tiny": 200, "tinystories": 64}

# At equal positions that forwards read, a row of [x_t ; x_0] has half the steps of a whole row, and a mixture of both two thirds.
WHOLE, MIXED, CUT = 600, 400, 300
BLOCKS = {"OBJECTIVE": "block", "BLOCK_SIZE": "4", "BLOCK_MIN_T": "0.45", "BLOCK_MAX_T": "0.95"}
JOINT = {**BLOCKS, "CONTEXT": "causal", "AR_WEIGHT": "1"}
MIXTURE = {**JOINT, "BLOCK_SIZE": "4,row"}
# Name: title, steps, keys. The first is the seed's method at equal positions, the second at equal rows.
VARIANTS = {
    "full": ("full diffusion", WHOLE, {}),
    "full-rows": ("full diffusion, as many rows as the blocks", CUT, {}),
    "full-aligned": ("full diffusion, aligned with the base", WHOLE, {"ALIGN_WEIGHT": "10"}),
    "full-context": ("full diffusion, CONTEXT_WEIGHT", WHOLE, {"CONTEXT_WEIGHT": "0.3"}),
    "clean-shift": ("blocks of 4, context by blocks, shift", CUT, {**BLOCKS, "CONTEXT": "block"}),
    "clean": ("blocks of 4, context by blocks, no shift", CUT, {**BLOCKS, "CONTEXT": "block", "SHIFT": "false"}),
    "joint-shift": ("blocks of 4, causal context, AR loss, shift", CUT, JOINT),
    "joint": ("blocks of 4, causal context, AR loss, no shift", CUT, {**JOINT, "SHIFT": "false"}),
    "complementary": ("as `joint-shift`, complementary masks", CUT, {**JOINT, "COMPLEMENTARY": "true"}),
    "growth": ("as `joint-shift`, blocks growing from 1 to 4", CUT, {**JOINT, "BLOCK_SIZE": "1..4", "BLOCK_GROWTH_STEPS": "150"}),
    "mixture": ("blocks of 4 and whole rows, AR loss, shift", MIXED, MIXTURE),
    "mixture-aligned": ("as `mixture`, aligned with the base", MIXED, {**MIXTURE, "ALIGN_WEIGHT": "10"}),
}
# What another optimizer is worth at equal rows, at three peak learning rates.
for optimizer in ("adamw", "muon"):
    for rate in ("1e-3", "3e-3", "1e-2"):
        VARIANTS[f"{optimizer}-{rate}"] = (f"full diffusion, {optimizer}, {rate}", CUT, {"OPTIMIZER": optimizer, "LEARNING_RATE": rate})
FEW = ["full", "full-rows", "clean-shift", "clean", "joint-shift", "joint", "mixture"]


def data():
    return Path(os.environ["DIFFLOW_DATA_DIR"])


def lines(*command, text=None):
    done = subprocess.run([DIFFLOW, *map(str, command)], capture_output=True, text=True, input=text)
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def limit(threads):
    return ["--threads", threads] if threads else []


def score(which, model, mode):
    if which == "tinystories":
        text = ["--parquet", data() / "text/tinystories-val.parquet", "--limit", 150, "--seq-len", 256]
    else:
        text = ["--parquet", ROOT / "data/tiny/heldout.parquet", "--limit", 300, "--seq-len", 192]
    draws = ["--t-samples", 4] if mode == "nelbo" else []
    return lines("score", "--model", model, *text, "--mode", mode, *draws, "--seed", 1234, "--json")[0]


def judged(texts, judge):
    """Nats a token under a judge, over all tokens of the texts."""
    file = RUNS / f"judged-{os.getpid()}-{id(texts)}.txt"
    file.write_text("<|endoftext|>".join(texts))
    found = lines("score", "--model", judge, "--text", file, "--mode", "ar", "--seq-len", 256, "--json")[0]
    file.unlink()
    return found["nats_per_token"]


def written(which, checkpoint, decoder, temperature, options, judges, threads):
    """Texts from nothing, and what is measured of them."""
    texts = lines("sample", "--checkpoint", checkpoint, "-n", TEXTS[which], "--seed", 77, "--batch", 20, *limit(threads), "--decoder", decoder,
                  "--temperature", temperature, *options, "--json")
    ids = [text["ids"] for text in texts]
    found = {
        "decoder": decoder, "temperature": temperature,
        "forwards_per_token": sum(text["nfe"] for text in texts) / sum(map(len, ids)),
        "tokens": statistics.mean(map(len, ids)), "entropy": statistics.mean(map(entropy, ids)),
        "distinct_2": len({pair for one in ids for pair in zip(one, one[1:])}) / sum(len(one) - 1 for one in ids),
        "judged": {name: judged([text["text"] for text in texts], judge) for name, judge in judges.items()},
    }
    if which == "tiny":
        told = subprocess.run([ROOT / "bin/difflow-world", "check", "--json"], capture_output=True, text=True, check=True,
                              input="".join(json.dumps({"text": text["text"]}) + "\n" for text in texts))
        found["pass"] = sum(verdict.strip() == "ok" for verdict in told.stdout.splitlines()) / len(texts)
    return found


def entropy(ids):
    counts = Counter(ids).values()
    return -sum(n / len(ids) * math.log(n / len(ids)) for n in counts) if ids else 0.0


def decodings(which, variant):
    """Decoder, temperatures and options of a variant's texts."""
    temperatures = [0.3, 0.5] if which == "tiny" else [0.8, 1.0, 1.2]
    if variant == "base":
        return [("ar", temperatures, ["--length", "180" if which == "tiny" else "200"])]
    if "BLOCK_SIZE" not in VARIANTS[variant][2]:
        length = ["--length", "85..115"] if which == "tiny" else ["--length", "200"]
        # Its texts have less entropy at the same temperature.
        temperatures = temperatures if which == "tiny" else [1.0, 1.5, 2.0]
        return [("confidence", temperatures, [*length, "--block", 4, "--steps", 256])]
    room = ["--length", "180" if which == "tiny" else "200"]
    own = [("confidence", temperatures, [*room, "--steps", 8])]
    return own + ([("speculative", temperatures, room)] if VARIANTS[variant][2].get("AR_WEIGHT") else [])


def measured(which, variant, checkpoint, threads):
    judges = {"base": base(which)} | ({"apart": apart()} if which == "tinystories" else {})
    found = {"ar": score(which, checkpoint, "ar")["nats_per_token"]}
    if variant != "base":
        found["nelbo"] = score(which, checkpoint, "nelbo")["nats_per_token"]
    found["texts"] = [written(which, checkpoint, decoder, temperature, options, judges, threads)
                      for decoder, temperatures, options in decodings(which, variant) for temperature in temperatures]
    return found


def base(which):
    return data() / "models/stories260K" if which == "tinystories" else ROOT / "data/tiny/model"


def apart():
    """An AR model that was trained apart from the base, from random weights."""
    folder = RUNS / "blocks-judge"
    last = folder / "checkpoints/step-00001500"
    if not last.exists():
        keys = {"RUN": folder.name, "SEED": "99", "OBJECTIVE": "ar", "FROM_SCRATCH": "true", "STEPS": "1500", "CHECKPOINT_EVERY": "1500",
                "LEARNING_RATE": "5e-3", "WARMUP_STEPS": "100", "FINAL_SHARE": "0.02", "DOCUMENT_ATTENTION": "true"}
        start(ROOT / "data/experiments/ablation-tinystories.yml", keys)
    return last


def start(file, keys):
    command = [DIFFLOW, "run", file, *(f"--set={key}={value}" for key, value in keys.items())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])


def train(which, variant, seed, threads):
    _, steps, more = VARIANTS[variant]
    if which == "tinystories":
        steps = {WHOLE: 366, MIXED: 244, CUT: 183}[steps]
    name = f"blocks-{which}-{variant}-{seed}"
    result = RUNS / name / "blocks.json"
    if result.exists():
        return
    keys = {"RUN": name, "SEED": str(seed), "STEPS": str(steps), "CHECKPOINT_EVERY": str(steps), "ANNEAL_STEPS": str(steps // 6), "PAGE": "false",
            **more}
    if threads:
        keys["THREADS"] = str(threads)
    if which == "tinystories":
        keys["DOCUMENT_ATTENTION"] = "true"
    else:
        # Texts are written and checked afterwards, with the decoders of the variant.
        keys |= {"SAMPLES": "0", "SAMPLES_FINAL": "0", "EVAL_GAPS": "500", "EVAL_DOCUMENTS": "4"}
    if keys.get("COMPLEMENTARY"):
        keys["MICRO_BATCH"] = "4" if which == "tiny" else "8"
    start(ROOT / f"data/experiments/ablation-{which}.yml", keys)
    checkpoint = RUNS / name / f"checkpoints/step-{steps:08}"
    found = {"variant": variant, "seed": seed, "steps": steps, **measured(which, variant, checkpoint, threads)}
    if which == "tiny":
        scores = json.loads((RUNS / name / f"scores/step-{steps:08}.json").read_text())
        found["gaps"] = scores["metrics"].get("infill_exact_match")
    result.write_text(json.dumps(found, indent=1))
    print(name, flush=True)


def run(a):
    names = a.only.split(",") if a.only else list(VARIANTS) if a.which == "tiny" else FEW
    if a.which == "tinystories":
        apart()
    standard = RUNS / f"blocks-{a.which}-base"
    if not (standard / "blocks.json").exists():
        standard.mkdir(parents=True, exist_ok=True)
        found = {"variant": "base", "seed": 0, "steps": 0, **measured(a.which, "base", base(a.which), None)}
        (standard / "blocks.json").write_text(json.dumps(found, indent=1))
    threads = 1 if a.lanes > 1 else None
    jobs = [(a.which, name, seed, threads) for seed in map(int, a.seeds.split(",")) for name in names]
    with ThreadPoolExecutor(a.lanes) as lanes:
        list(lanes.map(lambda job: train(*job), jobs))


def spread(values, form):
    values = [value for value in values if value is not None]
    if not values:
        return ""
    mean = form.format(statistics.mean(values))
    return mean + (f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else "")


def at_entropy(runs, decoder, judge, wanted):
    """Nats a token under a judge where the texts have this entropy: between the temperatures, on a straight line."""
    found = []
    for one in runs:
        points = sorted((text["entropy"], text["judged"][judge]) for text in one["texts"] if text["decoder"] == decoder)
        for (low, a), (high, b) in zip(points, points[1:]):
            if low <= wanted <= high:
                found.append(a + (b - a) * (wanted - low) / (high - low))
                break
    return found


def report(a):
    runs = [json.loads(file.read_text()) for file in sorted(RUNS.glob(f"blocks-{a.which}-*/blocks.json"))]
    temperature = 0.5 if a.which == "tiny" else 1.0
    standard = next(one for one in runs if one["variant"] == "base")
    wanted = next(text["entropy"] for text in standard["texts"] if text["temperature"] == temperature)
    head = ["variant", "seeds", "steps", "NELBO", "AR loss"] + (["gaps exact"] if a.which == "tiny" else [])
    head += ["decoder", "forwards a token"] + (["pass"] if a.which == "tiny" else []) + ["judge: base", "entropy", "distinct-2"]
    head += [] if a.which == "tiny" else ["judge: base, at the base's entropy", "judge: apart, at the base's entropy"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name in ["base", *VARIANTS]:
        some = [one for one in runs if one["variant"] == name]
        if not some:
            continue
        title = "base model, left to right" if name == "base" else VARIANTS[name][0]
        for decoder in dict.fromkeys(text["decoder"] for text in some[0]["texts"]):
            texts = [text for one in some for text in one["texts"] if (text["decoder"], text["temperature"]) == (decoder, temperature)]
            cells = [title, str(len(some)), str(some[0]["steps"] or ""), spread([one.get("nelbo") for one in some], "{:.3f}"),
                     spread([one["ar"] for one in some], "{:.3f}")]
            cells += [spread([one.get("gaps") for one in some], "{:.1%}")] if a.which == "tiny" else []
            cells += [f"`{decoder}`", spread([text["forwards_per_token"] for text in texts], "{:.2f}")]
            cells += [spread([text["pass"] for text in texts], "{:.1%}")] if a.which == "tiny" else []
            cells += [spread([text["judged"]["base"] for text in texts], "{:.2f}"), spread([text["entropy"] for text in texts], "{:.2f}"),
                      spread([text["distinct_2"] for text in texts], "{:.2f}")]
            if a.which == "tinystories":
                cells += [spread(at_entropy(some, decoder, judge, wanted), "{:.2f}") for judge in ("base", "apart")]
            print("| " + " | ".join(cells) + " |")


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = p.add_subparsers(required=True)
one = commands.add_parser("run")
one.add_argument("which", choices=["tinystories", "tiny"])
one.add_argument("--seeds", default="1,2,3")
one.add_argument("--only", help="variants, separated by commas")
one.add_argument("--lanes", type=int, default=1)
one.set_defaults(do=run)
two = commands.add_parser("report")
two.add_argument("which", choices=["tinystories", "tiny"])
two.set_defaults(do=report)
a = p.parse_args()
a.do(a)
