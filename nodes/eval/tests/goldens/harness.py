"""Accuracies by lm-evaluation-harness itself: `python3 harness.py MODEL DATA COUNT` prints, for each of its tasks, the log-likelihoods of
every question's candidates and what it counts. The tasks are its own; only their files are those of DATA, with the columns of the hub's.

A question with a text longer than the model's context is null: the harness then drops BOS, and difflow keeps it.
"""

import gzip
import json
import os
import sys
import tempfile
from pathlib import Path

FOLDER = tempfile.TemporaryDirectory()
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=FOLDER.name)

import lm_eval  # noqa: E402
import torch  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval.tasks._yaml_loader import load_yaml  # noqa: E402
from tokenizers import Tokenizer, processors  # noqa: E402
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402


def lines(path, count):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n") for _, line in zip(range(count), file)]


def hellaswag(data, count):
    rows = lines(data / "hellaswag_val_full.txt.gz", 6 * count)
    for at in range(0, len(rows), 6):
        label, context = rows[at].strip().split(": ", 1)
        # The second half of a context is in small letters; where there is none, the first is all.
        head, between, tail = context.rpartition(". ")
        halves = (head + between.rstrip(), tail) if tail[:1].islower() else (context, "")
        yield {"activity_label": label, "ctx_a": halves[0], "ctx_b": halves[1], "endings": rows[at + 2 : at + 6], "label": rows[at + 1]}


def piqa(data, count):
    for row in map(json.loads, lines(data / "piqa.jsonl.gz", count)):
        goal = row["query"].removeprefix("Question: ").removesuffix("\n")
        yield {"goal": goal, "sol1": row["choices"][0], "sol2": row["choices"][1], "label": row["gold"]}


def winogrande(data, count):
    for row in map(json.loads, lines(data / "winogrande.jsonl.gz", count)):
        one, two = row["context_options"]
        shared = os.path.commonprefix([one, two])
        # Options that begin alike: the blank is a whole word.
        shared = shared[: shared.rfind(" ") + 1]
        sentence = f"{shared}_ {row['continuation']}"
        options = {"option1": one[len(shared) :], "option2": two[len(shared) :]}
        yield {"sentence": sentence, **options, "answer": str(row["gold"] + 1)}


def social_iqa(data, count):
    for row in map(json.loads, lines(data / "siqa_dev.jsonl.gz", count)):
        options = dict(zip(("answerA", "answerB", "answerC"), row["options"]))
        label = str(row["options"].index(row["answer"]) + 1)
        yield {"context": row["context"], "question": row["question"], **options, "label": label}


def main():
    model_dir, data, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    model = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    longest = model.config.max_position_embeddings
    judge = HFLM(pretrained=model, tokenizer=tokenizer, add_bos_token=True, max_length=longest, batch_size=16, device="cpu")
    manager, tasks = TaskManager(), []
    for rows in (hellaswag, piqa, winogrande, social_iqa):
        path = Path(FOLDER.name) / f"{rows.__name__}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows(data, count)), encoding="utf-8")
        config = load_yaml(manager.task_index[rows.__name__].yaml_path)
        files = {"data_files": {"train": str(path), "validation": str(path)}}
        tasks.append({**config, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": files})
    found = lm_eval.simple_evaluate(model=judge, tasks=tasks, task_manager=manager, num_fewshot=0, log_samples=True, bootstrap_iters=0)

    def fits(sample):
        texts = [request["arg_0"] + request["arg_1"] for request in sample["arguments"].values()]
        return all(len(tokenizer.encode(text)) <= longest for text in texts)

    answers = {}
    for name, samples in found["samples"].items():
        answers[name] = []
        for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
            if isinstance(sample["arguments"], list):
                sample["arguments"] = {str(at): {"arg_0": one[0], "arg_1": one[1]} for at, one in enumerate(sample["arguments"])}
            values = [float(response[0][0]) for response in sample["resps"]]
            metrics = {key: sample[key] for key in ("acc", "acc_norm") if key in sample}
            answers[name].append({"values": values, "metrics": metrics} if fits(sample) else None)
    json.dump(answers, sys.stdout)


main()
