"""Speed and memory of finetuning an adapter (LoRA): difflow's, difflow's training of all weights, and peft's with PyTorch, in turn on the same
model, rows and length.

    python lora.py --step BINARY [--rounds 3] [--rank 8]

BINARY is the example train_step (`make bench` builds it). This Python needs torch, transformers and peft. A step is the same everywhere: noise,
annealed attention (half of the future is visible), the weighted loss, gradients, clipping, AdamW; the adapter is of every matrix of the blocks.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": 1024, "vocab_size": 50257, "n_embd": 192, "n_layer": 4,
        "n_head": 6, "bos_token_id": 50256, "eos_token_id": 50256}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704,
         "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
         "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
# name: config.json, rows, length
SHAPES = {"gpt2-11M": (GPT2, 4, 512), "llama-7M": (LLAMA, 8, 256)}


def last_json(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peer(a):
    """peft on transformers, as its documentation has it: one JSON line."""
    import torch
    import torch.nn.functional as F
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(a.peer, dtype=torch.float32, attn_implementation="sdpa")
    mask = model.config.vocab_size - 1
    model = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=a.rank, lora_dropout=0.0, target_modules="all-linear"))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    rows, length = a.rows, a.length

    def step():
        clean = torch.randint(0, mask, (rows, length))
        t = ((torch.arange(rows) + 0.5) / rows)[:, None]
        noised = torch.where(torch.rand(rows, length) < t, mask, clean)
        visible = torch.ones(length, length, dtype=torch.bool).tril() | (torch.rand(length, length) < 0.5)
        bias = torch.zeros(length, length).masked_fill(~visible, torch.finfo(torch.float32).min)
        logits = model(input_ids=noised, attention_mask=bias[None, None].expand(rows, 1, length, length), use_cache=False).logits
        nats = F.cross_entropy(logits[:, :-1].reshape(-1, logits.size(-1)), clean[:, 1:].reshape(-1), reduction="none").view(rows, -1)
        loss = (nats * (noised == mask)[:, 1:] / t).sum() / (rows * (length - 1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return float(loss.detach())

    for _ in range(3):
        step()
    start = time.perf_counter()
    for _ in range(a.steps):
        step()
    seconds = time.perf_counter() - start
    print(json.dumps({"tokens_per_s": rows * length * a.steps / seconds, "trained": sum(parameter.numel() for parameter in trained),
                      "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--step", help="the built example train_step")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--peer", help=argparse.SUPPRESS)
    p.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    p.add_argument("--length", type=int, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.peer:
        return peer(a)
    for name, (config, rows, length) in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "config.json").write_text(json.dumps(config))
            (folder / "written").mkdir()
            last_json([a.step, folder, "--rows", 1, "--length", 8, "--steps", 1, "--write", folder / "written"])
            os.rename(folder / "written" / "model.safetensors", folder / "model.safetensors")
            size = ["--rows", rows, "--length", length, "--steps", a.steps]
            kinds = {
                "adapter": [a.step, folder, *size, "--lora", a.rank],
                "all weights": [a.step, folder, *size],
                "peft": [sys.executable, __file__, "--peer", folder, *size, "--rank", a.rank],
            }
            runs = {kind: [] for kind in kinds}
            for _ in range(a.rounds):
                for kind, command in kinds.items():
                    runs[kind].append(last_json(command))
        speed = {kind: statistics.median(run["tokens_per_s"] for run in all) for kind, all in runs.items()}
        peak = {kind: max(run["peak_mib"] for run in all) for kind, all in runs.items()}
        print(f"{name}, {rows} x {length}, rank {a.rank}, fp32: " + ", ".join(f"{kind} {speed[kind]:,.0f} tokens/s and {peak[kind]} MiB" for kind in kinds))
        # Machines change speed under other work: ratios are taken within each round.
        for other in ("peft", "all weights"):
            ratios = [one["tokens_per_s"] / two["tokens_per_s"] for one, two in zip(runs["adapter"], runs[other])]
            print(f"  adapter / {other}: {statistics.median(ratios):.2f} [{min(ratios):.2f} .. {max(ratios):.2f}]", flush=True)


main()
