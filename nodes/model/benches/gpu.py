"""Everything that a GPU is asked about difflow, in one call and one JSON file.

    python gpu.py --tools DIR [--peer peer_train.py] [--device cuda|cpu] [--small] --out gpu.json

DIR has the built examples train_step, self_test and decode_speed (`scripts/gpu.sh pack` makes such a folder). Nothing is fetched: this
Python needs the PyTorch that the programs were built for, and for the peer transformers and tokenizers. On a CPU (`--device cpu --small`)
the same runs on small shapes, and what only a GPU can say is the text "needs a GPU". Models have random weights, texts are random words.
"""
import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import torch

NEEDS = "needs a GPU"
# Dense bf16 peak in TFLOP/s by a part of the device's name (NVIDIA's data sheets).
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "4090": 165}

p = argparse.ArgumentParser()
p.add_argument("--tools", required=True)
p.add_argument("--peer")
p.add_argument("--device", default="cuda")
p.add_argument("--small", action="store_true", help="shapes that a CPU computes in seconds")
p.add_argument("--steps", type=int, default=12)
p.add_argument("--out", required=True)
a = p.parse_args()
gpu = a.device.startswith("cuda")
tools = Path(a.tools)
# The libtorch of this Python: the one that the programs were built beside may not be here.
ENV = {**os.environ, "LD_LIBRARY_PATH": os.path.join(os.path.dirname(torch.__file__), "lib")}


def gpt2(width, layers, heads, vocab=50257, positions=1024):
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": positions, "vocab_size": vocab,
              "bos_token_id": vocab - 1, "eos_token_id": vocab - 1, "n_embd": width, "n_layer": layers, "n_head": heads}
    tensors = {"wte.weight": (vocab, width), "wpe.weight": (positions, width), "ln_f.weight": (width,), "ln_f.bias": (width,)}
    for i in range(layers):
        for name in ("ln_1", "ln_2"):
            tensors |= {f"h.{i}.{name}.weight": (width,), f"h.{i}.{name}.bias": (width,)}
        for name, rows, columns in (("attn.c_attn", width, 3 * width), ("attn.c_proj", width, width), ("mlp.c_fc", width, 4 * width),
                                    ("mlp.c_proj", 4 * width, width)):
            tensors |= {f"h.{i}.{name}.weight": (rows, columns), f"h.{i}.{name}.bias": (columns,)}
    return config, tensors


def llama(width, inner, layers, heads, kv, vocab=32000):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab, "hidden_size": width,
              "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
              "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
    tensors = {"model.embed_tokens.weight": (vocab, width), "lm_head.weight": (vocab, width), "model.norm.weight": (width,)}
    narrow = width // heads * kv
    for i in range(layers):
        block = {"input_layernorm": (width,), "post_attention_layernorm": (width,), "self_attn.q_proj": (width, width),
                 "self_attn.k_proj": (narrow, width), "self_attn.v_proj": (narrow, width), "self_attn.o_proj": (width, width),
                 "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
        tensors |= {f"model.layers.{i}.{name}.weight": size for name, size in block.items()}
    return config, tensors


# name: (config, tensors), rows, length, variants (arguments of train_step)
FULL, ANNEALED = ("full attention", ["--ratio", "1"]), ("annealed, half open", ["--ratio", "0.5"])
DOCUMENTS, BLOCKS = ("full, 4 documents a row", ["--ratio", "1", "--documents", "4"]), ("blocks of 16", ["--ratio", "1", "--block", "16"])
PLAIN = ("full attention, torch's operations", ["--ratio", "1", "--plain"])
GRAPHS = ("full attention, CUDA graphs", ["--ratio", "1", "--graphs"])
SHAPES = {
    "GPT-2 11M": (gpt2(256, 12, 4, 8192), 8, 512, [FULL, GRAPHS]),
    "GPT-2 124M": (gpt2(768, 12, 12), 32, 512, [FULL, GRAPHS]),
    "GPT-2 124M, 4 rows": (gpt2(768, 12, 12), 4, 512, [FULL, GRAPHS]),
    "GPT-2 355M": (gpt2(1024, 24, 16), 16, 1024, [FULL, GRAPHS, ANNEALED, DOCUMENTS, BLOCKS, PLAIN]),
    "GPT-2 355M, 32 rows": (gpt2(1024, 24, 16), 32, 1024, [FULL]),
    "LLaMA 1.1B": (llama(2048, 5632, 22, 32, 4), 4, 2048, [FULL]),
    "one block of 7B": (llama(4096, 11008, 1, 32, 32), 4, 2048, [FULL]),
}
SMALL = {
    "GPT-2, small": (gpt2(64, 2, 4, 512, 128), 4, 64, [FULL, GRAPHS, ANNEALED, DOCUMENTS, BLOCKS, PLAIN]),
    "LLaMA, small": (llama(64, 172, 2, 4, 2, 512), 4, 64, [FULL]),
}
MAIN = "GPT-2, small" if a.small else "GPT-2 355M"


def prepare(folder, config, tensors, dtype):
    """A folder that both can load, with words and their tokenizer for the peer."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    where = "cuda" if gpu else "cpu"
    made = {}
    for name, size in tensors.items():
        plain = len(size) == 1
        value = torch.full(size, float("norm" in name or "ln_" in name) if name.endswith("weight") else 0.0) if plain else torch.randn(
            *size, device=where).mul_(0.02)
        made[name] = value.to(dtype).cpu()
    save_file(made, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    size = config["vocab_size"]
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(size)}, "unk_token": "w0"}}))
    draw = random.Random(0)
    (folder / "words.txt").write_text(" ".join(f"w{draw.randrange(size)}" for _ in range(200_000)))


class Failed(Exception):
    """A program that did not do what it was asked. What else is asked is asked all the same."""


@contextmanager
def part():
    """What may fail by itself."""
    try:
        yield
    except Failed as failed:
        result["failed"].append(str(failed))
        said("FAILED:", failed)


def said(*words):
    """Prints them, and writes what is known so far: a run that is cut short has lost nothing."""
    Path(a.out).write_text(json.dumps(result, indent=1))
    print(*words, flush=True)


def run(program, *arguments, env=ENV):
    done = subprocess.run([str(part) for part in (program, *arguments)], capture_output=True, text=True, env=env)
    if done.returncode:
        raise Failed(f"{program} {' '.join(map(str, arguments))} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def flops(config, parameters, length):
    """Useful floating-point operations of a token: blocks and attention, forward and backward; the head for the masked half."""
    width, layers = config.get("n_embd") or config["hidden_size"], config.get("n_layer") or config["num_hidden_layers"]
    vocab = config["vocab_size"]
    tables = (vocab + 1) * width * (2 if config.get("tie_word_embeddings") is False else 1)
    tables += config["n_positions"] * width if "n_positions" in config else 0
    return 6 * (parameters - tables) + 12 * layers * width * length + 3 * vocab * width


def profile(trace, steps=3):
    """The kernels that took longest, in milliseconds a step."""
    events = json.loads(trace.read_text())["traceEvents"]
    kernels = defaultdict(lambda: [0.0, 0])
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            kernels[re.sub(r"<.*", "", event["name"])[:80]][0] += event["dur"] / 1000 / steps
            kernels[re.sub(r"<.*", "", event["name"])[:80]][1] += 1
    operations = sum(event.get("cat") == "cpu_op" for event in events) / steps
    top = sorted(kernels.items(), key=lambda pair: -pair[1][0])[:25]
    busy = sum(ms for ms, _ in kernels.values())
    return {"operations_per_step": operations, "kernels_per_step": sum(n for _, n in kernels.values()) / steps if gpu else NEEDS,
            "busy_ms_per_step": busy if gpu else NEEDS,
            "kernels": [{"name": name, "ms_per_step": ms, "calls": n} for name, (ms, n) in top] if gpu else NEEDS}


def share(speed, config, parameters, length):
    peak = next((v for k, v in PEAKS.items() if gpu and k in torch.cuda.get_device_name(0)), None)
    return speed * flops(config, parameters, length) / (peak * 1e12) if peak else NEEDS


result = {"device": torch.cuda.get_device_name(0) if gpu else "cpu", "torch": torch.__version__, "failed": [], "training": [], "peers": {}}


def self_test():
    compared = run(tools / "self_test", a.device)
    result["self_test"] = {"compared": len(compared), "held": sum(one["holds"] for one in compared),
                           "differ": [one for one in compared if not one["holds"]],
                           "largest_gradient_error": max(one["gradient"] for one in compared)}
    said("self-test:", result["self_test"]["held"], "of", len(compared))


def train(name, variant, shape, common, trace):
    """Times one variant of a shape. Returns its tokens/s."""
    (config, _), _, length = shape
    (variant, arguments), more = variant, []
    if "--graphs" in arguments and not gpu:
        result["training"].append({"shape": name, "variant": variant, "tokens_per_s": NEEDS, "parameters": 0, "share_of_peak": NEEDS})
        return NEEDS
    if (name, variant) == (MAIN, FULL[0]):
        more = ["--profile", trace]
    line, = run(tools / "train_step", *common, *arguments, *more)
    # What documents and blocks do not see is not computed: their operations are not those of the formula.
    counted = "--documents" not in arguments and "--block" not in arguments
    of_peak = share(line["tokens_per_s"], config, line["parameters"], length) if counted else "not counted"
    line = {"shape": name, "variant": variant, **line, "share_of_peak": of_peak}
    line["graphs"] = line["graphs"] or "none recorded"
    line["peak_device_mib"] = line["peak_device_mib"] or NEEDS
    result["training"].append(line)
    said(f"{name}, {variant}: {line['tokens_per_s']:,.0f} tokens/s, share of peak {line['share_of_peak']}, "
         f"memory {line['peak_device_mib']} MiB, estimated {line['estimated_device_mib']}")
    if more:
        result["profile"] = profile(trace)
    return line["tokens_per_s"]


def deterministic(common):
    step = [tools / "train_step", *common, "--ratio", "1", "--deterministic"]
    (once,), (twice,), recorded = run(*step), run(*step), run(*step, "--graphs")[0] if gpu else None
    result["deterministic"] = {"same_loss": once["loss"] == twice["loss"],
                               "same_weights": once["weights_sha256"] == twice["weights_sha256"],
                               "same_weights_by_graphs": once["weights_sha256"] == recorded["weights_sha256"] if gpu else NEEDS}
    said("the same bits:", result["deterministic"])


def beside_the_cpu(folder, length):
    """The same first step on both, whose forward of 355M parameters takes a CPU a minute."""
    first = [folder, "--rows", 2, "--length", length, "--steps", 1, "--ratio", 1]
    there, here = (run(tools / "train_step", *first, "--device", device)[0] for device in (a.device, "cpu"))
    result["loss"] = {"device": there["first_loss"], "cpu": here["first_loss"], "gradient_norm": there["first_grad_norm"],
                      "gradient_norm_cpu": here["first_grad_norm"]}
    said("the same step on the CPU:", result["loss"])


def sampling(folder, length):
    result["sampling"] = run(tools / "decode_speed", folder, min(64, length), 16, 4, 0.9, 3, a.device)


def peer(folder, rows, length, name, flag, speed):
    if name == "compile" and not gpu:
        result["peers"][name] = NEEDS
        return
    told, = run(sys.executable, a.peer, "--model", folder, "--text", folder / "words.txt", "--batch", rows, "--seq-len", length,
                "--steps", a.steps, "--warmup", a.steps, "--dtype", "bf16", "--device", "cuda" if gpu else "cpu", *flag,
                env=dict(os.environ))
    result["peers"][name] = {**told, "ratio": speed / told["tokens_per_s"]}
    said(f"  difflow against the peer, {name}: {speed / told['tokens_per_s']:.2f}")


with part():
    self_test()
for name, (made, rows, length, variants) in (SMALL if a.small else SHAPES).items():
    with tempfile.TemporaryDirectory() as temporary:
        folder, trace, speeds = Path(temporary), Path(temporary) / "trace.json", {}
        prepare(folder, *made, torch.float32 if "n_embd" in made[0] else torch.bfloat16)
        common = [folder, "--rows", rows, "--length", length, "--steps", a.steps, "--dtype", "bf16", "--device", a.device]
        for variant in variants:
            with part():
                speeds[variant[0]] = train(name, variant, (made, rows, length), common, trace)
        if name != MAIN:
            continue
        with part():
            deterministic(common)
        with part():
            beside_the_cpu(folder, length)
        with part():
            sampling(folder, length)
        for which, flag in (("eager", []), ("compile", ["--compile"])) if a.peer and FULL[0] in speeds else ():
            with part():
                peer(folder, rows, length, which, flag, speeds[FULL[0]])
said("written:", a.out)
sys.exit(len(result["failed"]) > 0)
