"""Models with the weights of make.py, and the logits that the installed `transformers` gives under a causal and a full pattern:
tests/model/families.rs compares difflow's with them. Prints one JSON object a line.

First every case of make.py without a recipe, in fp32; then, of every family, a model with one field of its config class after the other changed:
numbers by one or more, booleans turned over, null set.
"""
import dataclasses
import json
import os
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch
from transformers import AutoConfig
from transformers.utils import logging

from make import CASES, FAMILIES, GPT2, IDS, KEPT, RECIPES, build, full_mask

logging.set_verbosity_error()
torch.set_num_threads(1)

OLD = {"llama": CASES["llama"], "mistral": CASES["mistral with a window"], "qwen2": CASES["qwen2"], "qwen3": CASES["qwen3"], "gpt-2": GPT2}
# Names, shapes of the vocabulary and what is said of other things than the model's mathematics.
LEFT = {"vocab_size", "model_type", "architectures", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id"}


def answers(config, dtype):
    """Shapes of the tensors, and the logits at the kept positions under both patterns."""
    model, tensors = build(config, dtype)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        causal = model(input_ids=ids, use_cache=False).logits[0]
        full = model(input_ids=ids, use_cache=False, attention_mask=full_mask(model.config, dtype)).logits[0]
    keep = lambda logits: [float(f"{x:.8g}") for at in KEPT for x in logits[at].tolist()]
    return {"tensors": tensors, "causal": keep(causal), "full": keep(full)}


def changed(value):
    """What a field may be instead, the first that `transformers` takes."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, value - 1]
    if isinstance(value, float):
        return [value + 0.25, value * 0.5]
    return [5, 5.0, True] if value is None else []


def fields(config):
    """The fields of a config's class and their values, and those of its rotary embedding."""
    known = AutoConfig.for_model(**json.loads(json.dumps({k: v for k, v in config.items() if k != "architectures"})))
    names = {field.name for field in dataclasses.fields(known)} | set(known.to_dict())
    for name in sorted(names - LEFT):
        if not name.startswith("_"):
            for value in changed(getattr(known, name, None)):
                yield name, {name: value}
    parameters = getattr(known, "rope_parameters", None) or {}
    nested = {name: part for name, part in parameters.items() if isinstance(part, dict)}
    for outer, part in nested.items() or [(None, parameters)]:
        for name, value in part.items():
            for other in changed(value):
                inner = {**part, name: other}
                yield f"rope_parameters {outer} {name}", {"rope_parameters": {**parameters, outer: inner} if outer else inner}


def main():
    for name, config in CASES.items():
        if name not in RECIPES:
            print(json.dumps({"name": name, "config": config, **answers(config, torch.float32)}))
    for name, config in {**OLD, **FAMILIES}.items():
        done = set()
        for field, change in fields(config):
            if field in done:
                continue
            try:
                # One of GPT-2's fields insists on fp32. What rounding does beside rounding is no matter of fields.
                fixed = change.get("reorder_and_upcast_attn")
                found = answers({**config, **change}, torch.float32 if fixed else torch.float64)
            except Exception:
                continue  # transformers refuses it, or cannot compute it.
            done.add(field)
            print(json.dumps({"name": name, "config": {**config, **change}, "change": change, **found}))


if __name__ == "__main__":
    main()
