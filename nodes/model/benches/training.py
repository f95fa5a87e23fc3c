"""Speed of a training step: difflow's, and where a peer is at hand, the peer's in turn on the same model, batch and length.

    python training.py --step BINARY [--peer peer_train.py] [--device cpu|cuda] [--rounds 3] [--profile]

BINARY is the example train_step (`make bench` builds it). The peer is run by this Python, which then needs torch, transformers and
tokenizers. Both train from the same folder of random weights (or stories260K, where DIFFLOW_DATA_DIR has it) on random words. On CUDA the
shapes are GPT-2 small and medium as well, and difflow's loss there is compared with its loss on the CPU. Nothing is fetched: a GPU
machine needs this file, the binary, the peer, and a PyTorch of the version that the binary was built for.
"""
import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 1024, "vocab_size": 50257,
        "bos_token_id": 50256, "eos_token_id": 50256}
STORIES = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 172,
           "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512,
           "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2}
# name: config.json, rows, length, wanted ratio on the CPU
SHAPES = {
    "stories260K": (STORIES, 16, 256, 1.3),
    "gpt2-11M": ({**GPT2, "n_embd": 192, "n_layer": 4, "n_head": 6}, 4, 512, 2.0),
}
GPU_SHAPES = {
    "gpt2-small": ({**GPT2, "n_embd": 768, "n_layer": 12, "n_head": 12}, 32, 512, None),
    "gpt2-medium": ({**GPT2, "n_embd": 1024, "n_layer": 24, "n_head": 16}, 16, 1024, None),
}
# Dense bf16 peak in TFLOP/s by a part of the device's name (NVIDIA's data sheets).
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "4090": 165}

p = argparse.ArgumentParser()
p.add_argument("--step", required=True, help="the built example train_step")
p.add_argument("--peer", help="peer_train.py")
p.add_argument("--device", default="cpu")
p.add_argument("--rounds", type=int, default=3)
p.add_argument("--steps", type=int, help="timed steps of a round; default 10 on the CPU (4 for gpt2-11M), 30 on a GPU")
p.add_argument("--shapes", help="comma-separated names; default all that fit the device")
p.add_argument("--profile", action="store_true", help="also say where difflow's time goes (needs perf, CPU only)")
p.add_argument("--out", help="write the results there as JSON")
a = p.parse_args()
gpu = a.device.startswith("cuda")


def environment():
    """Where the binary cannot find its own libtorch, this Python's."""
    env = dict(os.environ)
    linked = subprocess.run(["ldd", a.step], capture_output=True, text=True).stdout
    if gpu or "libtorch_cpu.so => not found" in linked:
        import torch
        env["LD_LIBRARY_PATH"] = os.path.join(os.path.dirname(torch.__file__), "lib")
    return env


ENV = environment()


def last_json(command, env=None):
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(folder, rows, length, steps, dtype, device=None, more=()):
    return last_json([a.step, folder, "--rows", str(rows), "--length", str(length), "--steps", str(steps), "--dtype", dtype,
                      "--device", device or a.device, *more], ENV)


def peer(folder, rows, length, steps, dtype):
    return last_json([sys.executable, a.peer, "--model", folder, "--text", f"{folder}/words.txt", "--batch", str(rows), "--seq-len",
                      str(length), "--steps", str(steps), "--warmup", "3", "--dtype", dtype,
                      "--device", "cuda" if gpu else "cpu"])


def prepare(name, config, folder):
    """A folder that both can load: weights, and for the peer a tokenizer of words and a text of them."""
    data = os.environ.get("DIFFLOW_DATA_DIR")
    real = Path(data or ".") / "models" / name
    if data and (real / "model.safetensors").exists():
        for file in ("config.json", "model.safetensors"):
            shutil.copy(real / file, folder)
    else:
        (folder / "config.json").write_text(json.dumps(config))
        os.mkdir(folder / "written")
        last_json([a.step, folder, "--rows", "1", "--length", "8", "--steps", "1", "--write", folder / "written"], ENV)
        shutil.move(folder / "written" / "model.safetensors", folder)
    size = config["vocab_size"]
    words = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
             "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(size)}, "unk_token": "w0"}}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    draw = random.Random(0)
    (folder / "words.txt").write_text(" ".join(f"w{draw.randrange(size)}" for _ in range(200_000)))


def flops(config, parameters, rows, length):
    """Useful floating-point operations of a step: blocks and attention for every token, the (tied) head for the masked half."""
    width, layers = config.get("n_embd") or config["hidden_size"], config.get("n_layer") or config["num_hidden_layers"]
    vocab = config["vocab_size"]
    blocks = parameters - (vocab + 1 + config.get("n_positions", 0)) * width
    return rows * length * (6 * blocks + 12 * layers * width * length + 3 * vocab * width)


def matmul_rate(dtype):
    """Floating-point operations a second of a large matrix product, which no step can beat; None where this Python has no torch."""
    try:
        import torch
    except ImportError:
        return None
    side = 8192 if gpu else 2048
    a, b = (torch.randn(side, side, device="cuda" if gpu else "cpu", dtype=getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds[2:])


GROUPS = [("attention", r"forward_task|backward_task|attention"), ("softmax and loss of the head", r"entropy"),
          ("matrix products (libtorch)", r"gemm|mkl|dnnl|brgemm|jit_|\[JIT\]"), ("norm, SwiGLU", r"norm|swiglu"),
          ("optimizer", r"optimizer|Rate|squares"), ("waiting for the other thread", r"gomp|omp_|barrier|sched_yield"),
          ("the system: fresh memory pages, scheduling", r"kernel\.kallsyms")]


def profile(folder, rows, length, steps, dtype):
    if not shutil.which("perf"):
        return print("  no profile: perf is not installed")
    with tempfile.NamedTemporaryFile(suffix=".perf") as file:
        run = [a.step, folder, "--rows", str(rows), "--length", str(length), "--steps", str(steps), "--dtype", dtype]
        subprocess.run(["perf", "record", "-q", "-F", "199", "-o", file.name, "--", *run], capture_output=True, env=ENV)
        report = subprocess.run(["perf", "report", "-i", file.name, "--stdio", "--no-children", "--sort", "dso,symbol", "-F",
                                 "overhead,dso,symbol"], capture_output=True, text=True).stdout
    shares = {}
    for line in report.splitlines():
        found = re.match(r"\s*([\d.]+)%\s+(.*)", line)
        if found:
            group = next((name for name, pattern in GROUPS if re.search(pattern, found[2], re.I)), "everything else")
            shares[group] = shares.get(group, 0) + float(found[1])
    for group, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        print(f"  {share:5.1f} %  {group}")


results = []
for name, (config, rows, length, wanted) in {**SHAPES, **(GPU_SHAPES if gpu else {})}.items():
    if a.shapes and name not in a.shapes.split(","):
        continue
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(name, config, folder)
        steps = a.steps or (30 if gpu else 4 if name == "gpt2-11M" else 10)
        for dtype in ("fp32", "bf16"):
            mine, theirs = [], []
            for _ in range(a.rounds):
                mine.append(ours(folder, rows, length, steps, dtype))
                if a.peer:
                    theirs.append(peer(folder, rows, length, steps, dtype))
            speed = statistics.median(run["tokens_per_s"] for run in mine)
            line = {"shape": name, "dtype": dtype, "device": mine[0]["device"], "rows": rows, "length": length, "tokens_per_s": speed,
                    "parameters": mine[0]["parameters"]}
            text = f"{name:12} {rows} x {length} {dtype}: difflow {speed:,.0f} tokens/s"
            if theirs:
                line["peer_tokens_per_s"] = statistics.median(run["tokens_per_s"] for run in theirs)
                # Machines change speed under other work: the ratio is taken within each round.
                line["ratio"] = statistics.median(m["tokens_per_s"] / t["tokens_per_s"] for m, t in zip(mine, theirs))
                text += f", peer {line['peer_tokens_per_s']:,.0f}, ratio {line['ratio']:.2f}"
                if wanted and not gpu:
                    text += f" (target {wanted})"
            rate = matmul_rate({"fp32": "float32", "bf16": "bfloat16"}[dtype])
            if rate:
                line["floor_ms"] = 1000 * flops(config, line["parameters"], rows, length) / rate
                line["step_ms"] = 1000 * rows * length / speed
                text += f", step {line['step_ms']:.0f} ms, floor {line['floor_ms']:.0f} ms (matrix products at {rate / 1e9:,.0f} GFLOP/s)"
            if gpu:
                import torch
                peak = next((v for k, v in PEAKS.items() if k in torch.cuda.get_device_name(0)), None)
                if peak:
                    done = flops(config, line["parameters"], rows, length) * speed / (rows * length)
                    line["share_of_peak"] = done / (peak * 1e12)
                    text += f", {100 * line['share_of_peak']:.1f} % of the bf16 peak"
                if name in SHAPES:
                    cpu = ours(folder, rows, length, 1, dtype, "cpu")["loss"]
                    there = ours(folder, rows, length, 1, dtype)["loss"]
                    line["loss"], line["loss_on_cpu"] = there, cpu
                    text += f", loss {there:.5f} (CPU {cpu:.5f})"
            print(text, flush=True)
            results.append(line)
            if a.profile and not gpu:
                profile(folder, rows, length, steps, dtype)
if a.out:
    Path(a.out).write_text(json.dumps(results, indent=1))
