"""Loads checkpoints in plain `transformers` with the Python file beside their weights, and prints their logits and texts as a JSON list, for
nodes/inference/tests/transformers.rs to compare with difflow's. On stdin it gets a list of

    {"dir", "asks": [{"ids", "attention", "pad"}], "texts": [{"ids", "most", "options"}], "sentence", "saved"}

What is read is saved again in the folder `saved`.
"""
import json
import os
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # Everything is in the folder.
MODULES = tempfile.TemporaryDirectory()
os.environ["HF_MODULES_CACHE"] = MODULES.name

import torch
import transformers
from transformers import AutoTokenizer
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
LOADERS = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")


def logits(model, ids, attention, pad):
    """The logits `[L, V]` of a row, with padding before it if `pad` says how much."""
    tokens, mask = torch.tensor([[0] * pad + ids]), torch.tensor([[0] * pad + [1] * len(ids)])
    with torch.no_grad():
        found = model(input_ids=tokens, attention_mask=mask if pad else None, attention=attention).logits
    return found[0, pad:].flatten().tolist()


def text(model, ids, most, options):
    return model.generate(torch.tensor([ids]), max_new_tokens=most, **options)[0].tolist()


def answers(number, job):
    loader = getattr(transformers, LOADERS[number % len(LOADERS)])
    model = loader.from_pretrained(job["dir"], trust_remote_code=True, dtype=torch.float32, local_files_only=True).eval()
    if hasattr(model, "set_experts_implementation"):
        # The products of experts that version 5 prefers take no odd sizes.
        model.set_experts_implementation("eager")
    model.save_pretrained(job["saved"])
    tokenizer = AutoTokenizer.from_pretrained(job["dir"], local_files_only=True)
    tokens = [tokenizer.mask_token_id] + tokenizer(job["sentence"]).input_ids
    return {"class": type(model).__name__, "tokens": tokens, "logits": [logits(model, **ask) for ask in job["asks"]],
            "texts": [text(model, **ask) for ask in job["texts"]]}


print(json.dumps([answers(number, job) for number, job in enumerate(json.load(sys.stdin))]))
