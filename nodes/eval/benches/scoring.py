"""Speed of the paper's scorer on HellaSwag with 32 draws: difflow's, and in turn the scorer written down plainly in PyTorch on the same
weights, questions, masks and threads.

    python scoring.py --score BINARY --tasks data/tasks [--questions 16] [--threads 2] [--rounds 3] [--shapes NAMES] [--profile]

BINARY is the example score_speed (`make bench` builds it). Needs torch, transformers, and DIFFLOW_DATA_DIR with eval/ and models/.
The plain rendering is the algorithm as it is written: a loop over candidates and over t, one mask a forward, attention of transformers (sdpa)
without a causal mask, logits and losses of all positions. "by candidate" is the same with the 32 masks of a candidate in one forward, which need no
padding. All of them have to come to the same values.
"""
import argparse
import collections
import gzip
import json
import os
import re
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

# The paper's small model has the mask token 10541, a word of GPT-2's vocabulary; DiffuLLaMA's files do not say theirs.
GPT2_MASK, LLAMA_MASK = 10541, 0
SHAPES = {"stories260K": None, "gpt2-11M": {"n_embd": 192, "n_layer": 4, "n_head": 6}}

p = argparse.ArgumentParser()
p.add_argument("--score", required=True, help="the built example score_speed")
p.add_argument("--tasks", required=True, help="data/tasks")
p.add_argument("--questions", type=int, default=16)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--rounds", type=int, default=3)
p.add_argument("--shapes", default=",".join(SHAPES))
p.add_argument("--profile", action="store_true", help="also say which functions take difflow's time (needs perf)")
a = p.parse_args()
DATA = Path(os.environ["DIFFLOW_DATA_DIR"])


def words(folder, vocabulary, mask):
    """A tokenizer of HellaSwag's words, which are about as many as GPT-2's tokens."""
    with gzip.open(DATA / "eval/hellaswag_val_full.txt.gz", "rt", encoding="utf-8") as file:
        counts = collections.Counter(re.findall(r"\w+|[^\w\s]+", file.read()))
    ids = [id for id in range(vocabulary - 1) if id != mask]
    vocab = {word: id for id, (word, _) in zip(ids, counts.most_common(len(ids)))}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": min(vocab, key=vocab.get)}
    words = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(words))


def released(folder, shape):
    """A random model as DiffuGPT was released, and the same in transformers."""
    torch.manual_seed(0)
    config = GPT2Config(**shape, vocab_size=50257, n_positions=1024, bos_token_id=50256, eos_token_id=50256)
    model = GPT2LMHeadModel(config).eval()
    names = {name: name.replace("transformer.wte", "embed_tokens").replace("transformer.", "denoise_model.")
             for name in model.state_dict() if name != "lm_head.weight"}
    save_file({new: model.state_dict()[old].contiguous() for old, new in names.items()}, folder / "model.safetensors")
    config = {**config.to_dict(), "architectures": ["GPT2LMHeadModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    words(folder, 50257, GPT2_MASK)
    return folder, model, GPT2_MASK


def losses(model, x, xt, mask):
    """The mean cross-entropy of the masked tokens of each row; 0 where none is."""
    length = x.shape[-1]
    logits = model(xt, attention_mask=torch.zeros(len(xt), 1, length, length), use_cache=False).logits[:, :-1]
    counted = (xt == mask)[:, 1:]
    found = F.cross_entropy(logits.transpose(1, 2), x[:, 1:], reduction="none").masked_fill(~counted, 0)
    return (found.sum(1) / counted.sum(1).clamp(min=1)).tolist()


def plain(model, mask, asked, rows):
    answers = []
    for question in asked:
        values = []
        for candidate in question:
            x, given = torch.tensor(candidate["tokens"]), candidate["given"]
            found = []
            for at in range(0, len(candidate["masks"]), rows):
                some = torch.tensor(candidate["masks"][at : at + rows])
                several = x.repeat(len(some), 1)
                xt = several.clone()
                xt[:, given:][some] = mask
                found += losses(model, several, xt, mask)
            values.append(sum(found) / len(found))
        answers.append(values)
    return answers


def ours(folder, mask, more=()):
    command = [a.score, folder, a.tasks, "paper-hellaswag", str(a.questions), str(a.threads), *more]
    if mask == LLAMA_MASK:
        command += ["--mask", str(mask)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def timed(work):
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    values = work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": time.perf_counter() - start, "cpu_seconds": cpu, "values": values}


def far(one, other):
    return max(abs(a - b) for a, b in zip(sum(one["values"], []), sum(other["values"], [])))


torch.set_num_threads(a.threads)
torch.set_grad_enabled(False)
for name in a.shapes.split(","):
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        if SHAPES[name]:
            folder, model, mask = released(temporary, SHAPES[name])
        else:
            folder, mask = DATA / "models" / name, LLAMA_MASK
            model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        ours(folder, mask, ["--asked", temporary / "asked.json"])
        asked = json.loads((temporary / "asked.json").read_text())
        rows = sum(len(candidate["masks"]) for question in asked for candidate in question)
        length = statistics.mean(len(candidate["tokens"]) for question in asked for candidate in question)
        print(f"{name}: {len(asked)} questions of HellaSwag, {rows} rows of {length:.0f} tokens on average, {a.threads} threads", flush=True)
        plain(model, mask, asked[:1], 1)
        kinds = {"one mask a forward": 1, "by candidate": 32}
        runs = {kind: [] for kind in kinds}
        for _ in range(a.rounds):
            mine = ours(folder, mask)
            for kind, batch in kinds.items():
                theirs = timed(lambda: plain(model, mask, asked, batch))
                off = far(mine, theirs)
                if off > 1e-3:
                    raise SystemExit(f"{kind}: a value is {off} from difflow's")
                runs[kind].append((mine, theirs))
        for kind, pairs in runs.items():
            median = {what: [statistics.median(pair[at][what] for pair in pairs) for at in (0, 1)] for what in ("seconds", "cpu_seconds")}
            # Machines change speed under other work: the ratio is taken within each round.
            ratio = {what: statistics.median(theirs[what] / mine[what] for mine, theirs in pairs) for what in median}
            print(f"  {kind:18}  difflow {median['seconds'][0]:7.2f} s, PyTorch {median['seconds'][1]:7.2f} s, ratio {ratio['seconds']:5.2f};"
                  f"  of processor time {median['cpu_seconds'][0]:7.2f} s, {median['cpu_seconds'][1]:7.2f} s, ratio {ratio['cpu_seconds']:5.2f}",
                  flush=True)
        if a.profile:
            file = temporary / "perf"
            command = [a.score, folder, a.tasks, "paper-hellaswag", str(a.questions), str(a.threads), "--mask", str(mask)]
            subprocess.run(["perf", "record", "-q", "-F", "199", "-o", file, "--", *command], capture_output=True)
            report = subprocess.run(["perf", "report", "-i", file, "--stdio", "--no-children", "--sort", "symbol", "-F", "overhead,symbol"],
                                    capture_output=True, text=True).stdout
            print("\n".join([line for line in report.splitlines() if line and not line.startswith("#")][:15]))
