"""Log-likelihoods of candidates, written down plainly with transformers: `python3 likelihood.py MODEL DATA COUNT` prints them as JSON.

A question with a text longer than the model's context is null.
"""

import gzip
import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM


def lines(path, count):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for _, line in zip(range(count), file)]


def questions(data, count):
    rows = lines(data / "hellaswag_val_full.txt.gz", 6 * count)
    pairs = []
    for at in range(0, len(rows), 6):
        head, between, tail = rows[at].strip().rpartition(". ")
        query = head + between + tail[:1].upper() + tail[1:]
        pairs.append([(query, " " + ending.strip()) for ending in rows[at + 2 : at + 6]])
    yield "hellaswag", pairs
    rows = [json.loads(line) for line in lines(data / "piqa.jsonl.gz", count)]
    yield "piqa", [[(row["query"] + "Answer:", " " + choice) for choice in row["choices"]] for row in rows]
    rows = [json.loads(line) for line in lines(data / "winogrande.jsonl.gz", count)]
    yield "winogrande", [[(given, " " + row["continuation"]) for given in row["context_options"]] for row in rows]
    rows = [json.loads(line) for line in lines(data / "siqa_dev.jsonl.gz", count)]
    yield "siqa", [[(f"Q: {row['context']} {row['question']}\nA:", " " + one) for one in row["options"]] for row in rows]


def main():
    model_dir, data, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    def nats(given, follows):
        whole, start = [model.config.bos_token_id] + encode(given + follows), 1 + len(encode(given))
        if len(whole) > model.config.max_position_embeddings:
            return None
        with torch.no_grad():
            shares = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        return -sum(shares[at - 1, whole[at]].item() for at in range(start, len(whole)))

    found = {}
    for task, pairs in questions(data, count):
        found[task] = []
        for candidates in pairs:
            values = [nats(given, follows) for given, follows in candidates]
            found[task].append(None if None in values else values)
    json.dump(found, sys.stdout)


main()
