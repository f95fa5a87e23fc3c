#!/usr/bin/env python3
"""Runs the ablation of docs/RESULTS.md, scores it, and makes its tables and pictures.

    scripts/ablation.py run tinystories|tiny [--seeds 1,2,3] [--only NAME,NAME] [--steps N]
    scripts/ablation.py report [--out docs/RESULTS]

`run` runs data/experiments/ablation-WHICH.yml with the keys of the variant (`difflow run --set`); a run that is finished is not run
again. tinystories wants DIFFLOW_DATA_DIR. `report` reads runs/ablation-*/ablation.json, prints the tables and writes one picture
a data set (SVG). Python's standard library is all it needs.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs"
# Every variant differs from `adaptation` by these keys, set for all nodes.
VARIANTS = {
    "adaptation": {},
    "no-shift": {"SHIFT": "false"},
    "no-annealing": {"ANNEALING_SCHEDULE": "none"},
    "band": {"ANNEALING_SCHEDULE": "band"},
    "random-weights": {"FROM_SCRATCH": "true"},
    "parity": {"PRESET": "parity"},
}
TITLES = {
    "adaptation": "adaptation (annealing, shift)", "no-shift": "without shift", "no-annealing": "without annealing",
    "band": "band annealing", "random-weights": "from random weights", "parity": "parity preset",
}


def keys(which, variant, seed, steps):
    """The keys in which a run differs from its file."""
    keys = {"RUN": f"ablation-{which}-{variant}-{seed}", "SEED": str(seed), **VARIANTS[variant]}
    if steps:
        every = str(max(1, steps // 2))
        keys |= {"STEPS": str(steps), "WARMUP_STEPS": str(min(2, steps)), "ANNEAL_STEPS": every, "CHECKPOINT_EVERY": every}
    return [f"--set={key}={value}" for key, value in keys.items()]


def score(which, checkpoint):
    if which == "tinystories":
        data = Path(os.environ["DIFFLOW_DATA_DIR"])
        # As the independent script measures: 300 stories behind each other, rows of 256.
        text = ["--parquet", data / "text/tinystories-val.parquet", "--limit", "300", "--packed", "--seq-len", "256"]
    else:
        text = ["--parquet", ROOT / "data/tiny/heldout.parquet", "--limit", "300", "--seq-len", "192"]
    command = [ROOT / "bin/difflow", "score", "--model", checkpoint, *text, "--mode", "nelbo", "--t-samples", "4", "--seed", "1234",
               "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def run(a):
    if a.which == "tinystories" and "DIFFLOW_DATA_DIR" not in os.environ:
        sys.exit("DIFFLOW_DATA_DIR is not set: it names the folder with models/stories260K and text/tinystories-*.parquet")
    variants = a.only.split(",") if a.only else list(VARIANTS)
    for seed in map(int, a.seeds.split(",")):
        for variant in variants:
            folder = RUNS / f"ablation-{a.which}-{variant}-{seed}"
            result = folder / "ablation.json"
            if result.exists():
                continue
            print(f"{folder.name} …", flush=True)
            file = ROOT / "data/experiments" / f"ablation-{a.which}.yml"
            subprocess.run([ROOT / "bin/difflow", "run", file, *keys(a.which, variant, seed, a.steps)], check=True, cwd=ROOT)
            curve = []
            for checkpoint in sorted((folder / "checkpoints").glob("step-*[0-9]")):
                manifest = json.loads((checkpoint / "manifest.json").read_text())
                scored = score(a.which, checkpoint)
                point = {"step": manifest["step"], "tokens": manifest["tokens_seen"], "scored_tokens": scored["tokens"],
                         "nats_per_token": scored["nats_per_token"], "stderr": scored["stderr"]}
                for more in (folder / "scores" / f"{checkpoint.name}.json", folder / "samples" / f"{checkpoint.name}.json"):
                    if more.exists():
                        point |= {k: v for k, v in json.loads(more.read_text())["metrics"].items() if k in
                                  ("infill_exact_match", "pass_rate")}
                curve.append(point)
            result.write_text(json.dumps({"which": a.which, "variant": variant, "seed": seed, "curve": curve}, indent=1))


def spread(values, digits):
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def table(which, runs):
    """One row a variant: means over seeds, with the standard deviation between seeds."""
    columns = [("nats_per_token", "NELBO, nats a token", 3)]
    if which == "tiny":
        columns += [("pass_rate", "stories that pass the checker", 3), ("infill_exact_match", "gaps filled exactly", 3)]
    lines = ["| variant | seeds | training tokens | " + " | ".join(title for _, title, _ in columns) + " |",
             "|---|---|---|" + "---|" * len(columns)]
    for variant in VARIANTS:
        last = [run["curve"][-1] for run in runs if run["variant"] == variant]
        if last:
            cells = []
            for key, _, digits in columns:
                values = [point[key] for point in last if point.get(key) is not None]
                cells.append(spread(values, digits) if values else "not measured")
            tokens = statistics.mean(point["tokens"] for point in last)
            lines.append(f"| {TITLES[variant]} | {len(last)} | {tokens:,.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLOURS = ["#1b6ca8", "#d1495b", "#66a182", "#edae49", "#7d5ba6", "#555555"]


def picture(runs):
    """NELBO over training tokens: a line a variant (mean over seeds), a bar from the lowest to the highest seed."""
    width, height, left, right, top, bottom = 720, 400, 60, 190, 20, 50
    curves = {}
    for run in runs:
        for point in run["curve"][1:]:
            curves.setdefault(run["variant"], {}).setdefault(point["step"], []).append((point["tokens"], point["nats_per_token"]))
    everything = [pair for curve in curves.values() for points in curve.values() for pair in points]
    most = max(tokens for tokens, _ in everything)
    low, high = min(v for _, v in everything), max(v for _, v in everything)
    low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)
    x = lambda tokens: left + tokens / most * (width - left - right)
    y = lambda value: top + (high - value) / (high - low) * (height - top - bottom)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for i in range(6):
        value, tokens = low + (high - low) * i / 5, most * i / 5
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#dddddd"/>')
        out.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
        out.append(f'<text x="{x(tokens):.1f}" y="{height - bottom + 18}" text-anchor="middle">{tokens / 1e6:.2f}M</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">training tokens</text>')
    out.append(f'<text transform="translate(14 {height / 2}) rotate(-90)" text-anchor="middle">NELBO, nats a token</text>')
    for number, variant in enumerate(v for v in VARIANTS if v in curves):
        colour, points = COLOURS[number], []
        for _, pairs in sorted(curves[variant].items()):
            at, values = x(statistics.mean(t for t, _ in pairs)), [v for _, v in pairs]
            points.append(f"{at:.1f},{y(statistics.mean(values)):.1f}")
            out.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(min(values)):.1f}" y2="{y(max(values)):.1f}" stroke="{colour}"/>')
        out.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{width - right + 12}" y="{top + 20 + 20 * number}" fill="{colour}">{TITLES[variant]}</text>')
    return "\n".join([*out, "</svg>"])


def report(a):
    runs = [json.loads(file.read_text()) for file in sorted(RUNS.glob("ablation-*/ablation.json"))]
    if not runs:
        sys.exit("there is no finished run; scripts/ablation.py run tinystories makes some")
    out = ROOT / a.out
    out.mkdir(parents=True, exist_ok=True)
    for which in dict.fromkeys(run["which"] for run in runs):
        some = [run for run in runs if run["which"] == which]
        print(f"{which}\n\n{table(which, some)}\n")
        (out / f"{which}.svg").write_text(picture(some))


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
commands = p.add_subparsers(required=True)
one = commands.add_parser("run")
one.add_argument("which", choices=["tinystories", "tiny"])
one.add_argument("--seeds", default="1,2,3")
one.add_argument("--only", help="variants, separated by commas")
one.add_argument("--steps", type=int, help="fewer steps, to try it out")
one.set_defaults(do=run)
two = commands.add_parser("report")
two.add_argument("--out", default="docs/RESULTS")
two.set_defaults(do=report)
a = p.parse_args()
a.do(a)
