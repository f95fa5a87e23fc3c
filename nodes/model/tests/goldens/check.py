"""Loads folders with `transformers` and prints, as a JSON list, the class, the logits of the ids given, and the tokenizer's mask token of
each: tests/model/transformers.rs compares them with difflow's.

    python check.py 3,4,5 DIR…
"""
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # Everything is in the folder; asking the hub would only wait for the network.

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def read(folder, ids):
    # Some classes of version 4 compute not all of their options with another attention.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, attn_implementation="eager")
    model = model.eval()
    if hasattr(model, "set_experts_implementation"):
        # The products of experts that version 5 prefers take no odd sizes.
        model.set_experts_implementation("eager")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    out = {"class": type(model).__name__, "mask_token_id": model.config.mask_token_id, "difflow": model.config.difflow,
           "logits": logits.flatten().tolist()}
    if os.path.exists(os.path.join(folder, "tokenizer.json")):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        out["mask_token"] = [tokenizer.mask_token, tokenizer.mask_token_id]
    return out


ids = [int(x) for x in sys.argv[1].split(",")]
print(json.dumps([read(folder, ids) for folder in sys.argv[2:]]))
