"""The paper's scorer, written down plainly in PyTorch: `python3 paper.py QUESTIONS.json` prints the loss of every candidate.

A candidate's loss is the mean over its masks of the mean cross-entropy of the masked tokens, 0 where none is masked; the hidden state at i
predicts token i + 1, and every position sees every other.
"""

import json
import math
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file


def forward(weights, config, ids):
    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], 1e-5)

    def linear(x, name):
        return x @ weights[name + ".weight"] + weights[name + ".bias"]

    length, heads = len(ids), config["n_head"]
    x = weights["embed_tokens.weight"][ids] + weights["denoise_model.wpe.weight"][:length]
    for layer in range(config["n_layer"]):
        at = f"denoise_model.h.{layer}."
        q, k, v = linear(norm(x, at + "ln_1"), at + "attn.c_attn").chunk(3, -1)
        q, k, v = (part.view(length, heads, -1).transpose(0, 1) for part in (q, k, v))
        seen = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + linear(seen.transpose(0, 1).reshape(length, -1), at + "attn.c_proj")
        x = x + linear(F.gelu(linear(norm(x, at + "ln_2"), at + "mlp.c_fc"), approximate="tanh"), at + "mlp.c_proj")
    return norm(x, "denoise_model.ln_f") @ weights["embed_tokens.weight"].T


def main():
    torch.set_num_threads(1)
    asked = json.load(open(sys.argv[1]))
    weights = load_file(asked["model"] + "/model.safetensors")
    config = json.load(open(asked["model"] + "/config.json"))
    answers = []
    with torch.no_grad():
        for question in asked["questions"]:
            values = []
            for candidate in question:
                x, given, total = torch.tensor(candidate["tokens"]), candidate["given"], 0.0
                for masked in candidate["masks"]:
                    xt = x.clone()
                    xt[given:][torch.tensor(masked)] = asked["mask"]
                    logits, label = forward(weights, config, xt)[:-1], x[1:]
                    counted = (xt == asked["mask"])[1:]
                    loss = F.cross_entropy(logits, label, reduction="none").masked_fill(~counted, 0)
                    total += 0.0 if counted.sum() == 0 else (loss.sum() / counted.sum()).item()
                values.append(total / len(candidate["masks"]))
            answers.append(values)
    json.dump(answers, sys.stdout)


main()
