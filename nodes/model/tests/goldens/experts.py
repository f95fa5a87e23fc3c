"""Makes experts.json: losses and gradients of small models with experts by torch's autograd, in fp64, with the routers' loss of `transformers` at
a weight beside the cross-entropy of the next tokens. tests/model/experts.rs compares difflow's with them. The rows have different lengths; the
end of the shorter one is padding. Of a gradient its norm is kept, and its product with numbers of make.py's formula.

    pip install torch transformers && python experts.py > experts.json
"""
import json

import torch

from make import CASES, IDS, build, in_files, value

WEIGHT, LENGTHS = 0.7, (20, 13)
TITLES = ("mixtral", "qwen3-moe normed, a window, biases", "qwen3-moe layers without experts", "qwen3-moe every other layer, tied")


def numbers(gradient, name):
    probe = torch.tensor([value(f"probe of {name}", i) for i in range(gradient.numel())], dtype=torch.float64)
    return [float(f"{x:.9g}") for x in (gradient.norm().item(), (gradient.flatten() @ probe).item())]


def case(title):
    config = dict(CASES[title])
    if config.get("sliding_window"):
        # In a narrower one padding sees nothing, which is no number in `transformers`.
        config["sliding_window"] = 15
    model, tensors = build(config)
    rows = [IDS, [(5 * id + 2) % 37 for id in IDS]]
    ids = torch.tensor(rows)
    mask = torch.tensor([[int(at < length) for at in range(len(IDS))] for length in LENGTHS])
    found = model(input_ids=ids, attention_mask=mask, use_cache=False, output_router_logits=True)
    logits, targets = found.logits[:, :-1].flatten(0, 1), ids.masked_fill(mask == 0, -100)[:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100)
    (loss + WEIGHT * found.aux_loss).backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        for own, part in in_files(config, name, parameter.grad):
            gradients[own] = numbers(part, own)
    return {"title": title, "config": config, "tensors": tensors, "rows": [row[:length] for row, length in zip(rows, LENGTHS)],
            "loss": loss.item(), "router_loss": found.aux_loss.item(), "gradients": gradients}


cases = [case(title) for title in TITLES]
print(json.dumps({"weight": WEIGHT, "cases": cases}, separators=(",", ":")).replace('{"title"', '\n{"title"'))
