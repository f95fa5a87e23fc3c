#!/usr/bin/env python3
"""Runs the finetunings of docs/RESULTS.md on instructions of the little world, lets their last checkpoints answer the held-out instructions,
and prints the table.

    scripts/finetuning.py run [--seeds 1,2,3] [--only NAME,NAME] [--steps N] [--lanes N]
    scripts/finetuning.py report

`run` runs data/experiments/sft-tiny.yml with the keys of the variant (`difflow run --set`); one that is measured is not run again. The run's
sampler writes the most probable answers (temperature 0) and has them judged by `difflow-world judge`. Python's standard library is all it needs.
"""
import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs"
DIFFLOW, WORLD = ROOT / "bin/difflow", ROOT / "bin/difflow-world"
FILE = ROOT / "data/experiments/sft-tiny.yml"
INSTRUCTIONS = ROOT / "data/tiny/instructions"

FULL = {"PAD_POLICY": "eos-fill", "DECODER": "confidence", "BLOCK": "8", "DIFFUSION_STEPS": "256"}
AR = {"OBJECTIVE": "ar"}
HYBRID = {"OBJECTIVE": "block", "BLOCK_SIZE": "4,row", "BLOCK_MIN_T": "0.45", "BLOCK_MAX_T": "0.95", "AR_WEIGHT": "1", "DECODER": "speculative"}
ADAPTER = {"LORA_RANK": "16", "LORA_ALPHA": "32", "LEARNING_RATE": "1e-2"}
# Name: title, keys.
VARIANTS = {
    "full": ("full diffusion", FULL),
    "hybrid": ("blocks of 4 and whole rows, AR loss", {**HYBRID, "PAD_POLICY": "eos-once"}),
    "ar": ("left to right", {**AR, "PAD_POLICY": "eos-once"}),
}
VARIANTS |= {f"{name}-lora": (f"{title}, adapter", {**keys, **ADAPTER}) for name, (title, keys) in VARIANTS.items()}
# What follows an answer, for the default of PAD_POLICY.
VARIANTS |= {
    "hybrid-fill": ("blocks of 4 and whole rows, last block filled", {**HYBRID, "PAD_POLICY": "eos-fill", "FILL_MULTIPLE": "4"}),
    "ar-fill": ("left to right, rows filled", {**AR, "PAD_POLICY": "eos-fill"}),
    "ar-ignore": ("left to right, nothing behind an answer", {**AR, "PAD_POLICY": "ignore"}),
}


def measured(run, step):
    """What became of each held-out instruction, as the run's sampler wrote the answers and had them judged."""
    texts = json.loads((RUNS / run / f"samples/step-{step:08}.json").read_text())
    samples = texts["samples"]
    task = {"Tell": "tell", "Write": "repair"}
    right = [(task.get(one["prompt"].split()[0], "answer"), one["verdict"] == "ok") for one in samples]
    return {
        "answers": len(samples),
        "fulfilled": statistics.mean(ok for _, ok in right),
        "tasks": {name: statistics.mean(ok for task, ok in right if task == name) for name in ("tell", "answer", "repair")},
        "ended": texts["metrics"]["ended_rate"],
        "forwards": texts["metrics"]["nfe"],
    }


def train(name, seed, steps, threads):
    _, keys = VARIANTS[name]
    run = f"sft-{name}-{seed}"
    result = RUNS / run / "answers.json"
    if result.exists():
        return
    keys = {"RUN": run, "SEED": str(seed), "STEPS": str(steps), "CHECKPOINT_EVERY": str(steps), "PAGE": "false", "SAMPLES": "0",
            "SAMPLES_FINAL": "500", "TEMPERATURE": "0", "sampler.SEED": "7", **({"THREADS": str(threads)} if threads else {}), **keys}
    done = subprocess.run([DIFFLOW, "run", FILE, *(f"--set={key}={value}" for key, value in keys.items())], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    found = {"variant": name, "seed": seed, "steps": steps, **measured(run, steps)}
    result.write_text(json.dumps(found, indent=1))
    print(run, f"{found['fulfilled']:.1%}", flush=True)


def run(a):
    if not (INSTRUCTIONS / "instructions-heldout.parquet").exists():
        subprocess.run([WORLD, "instruct", "--out", INSTRUCTIONS], check=True, stdout=subprocess.DEVNULL)
    threads = 1 if a.lanes > 1 else None
    names = a.only.split(",") if a.only else list(VARIANTS)
    with ThreadPoolExecutor(a.lanes) as lanes:
        list(lanes.map(lambda job: train(*job, a.steps, threads), [(name, seed) for seed in map(int, a.seeds.split(",")) for name in names]))


def share(values):
    mean = f"{statistics.mean(values):.1%}".replace("%", " %")
    return mean + (f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else "")


def report(_):
    all_runs = [json.loads(file.read_text()) for file in sorted(RUNS.glob("sft-*/answers.json"))]
    print("| variant | seeds | steps | fulfilled | tell | answer | repair | ended by itself | forwards an answer |\n|" + "---|" * 9)
    for name, (title, _) in VARIANTS.items():
        runs = [one for one in all_runs if one["variant"] == name]
        if runs:
            tasks = [share([one["tasks"][task] for one in runs]) for task in ("tell", "answer", "repair")]
            cells = [title, str(len(runs)), str(runs[0]["steps"]), share([one["fulfilled"] for one in runs]), *tasks,
                     share([one["ended"] for one in runs]), f"{statistics.mean(one['forwards'] for one in runs):.0f}"]
            print("| " + " | ".join(cells) + " |")


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = p.add_subparsers(required=True)
one = commands.add_parser("run")
one.add_argument("--seeds", default="1,2,3")
one.add_argument("--only", help="variants, separated by commas")
one.add_argument("--steps", type=int, default=2500)
one.add_argument("--lanes", type=int, default=1)
one.set_defaults(do=run)
commands.add_parser("report").set_defaults(do=report)
a = p.parse_args()
a.do(a)
