#!/usr/bin/env python3
"""Tokens a second of `difflow serve` at 1, 8 and 32 requests at once, and of a plain transformers + FastAPI loop for the same base model.

    scripts/bench-serving.py --ar data/tiny/model --full runs/tiny-diffusion --block runs/default [--threads 2] [--rounds 3]

Each figure is the middle of --rounds; behind it stand the smallest and the largest. The loop needs torch, transformers, fastapi and uvicorn
(run this script with a Python that has them); without, it is left out.
"""

import argparse, http.client, json, os, pathlib, re, signal, statistics, subprocess, sys, threading, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOOP = """
import sys, threading
import torch, uvicorn
from fastapi import FastAPI, Request
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
folder, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
words = PreTrainedTokenizerFast(tokenizer_file=folder + "/tokenizer.json")
app, lock = FastAPI(), threading.Lock()

@app.post("/v1/completions")
def completions(body: dict):
    ids = torch.tensor([[model.config.bos_token_id] + words.encode(body["prompt"], add_special_tokens=False)])
    with lock, torch.inference_mode():
        torch.manual_seed(body["seed"])
        out = model.generate(ids, max_new_tokens=body["max_tokens"], do_sample=True, temperature=body["temperature"], top_p=0.9,
                             top_k=0, pad_token_id=model.config.eos_token_id)
    new = out[0, ids.shape[1]:]
    return {"choices": [{"text": words.decode(new)}], "usage": {"completion_tokens": len(new)}}

uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")
"""


def ask(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    assert answer.status == 200, data
    return json.loads(data)["usage"]["completion_tokens"]


def rate(port, body, at_once, requests):
    """Tokens a second, with so many requests on their way at a time."""
    left, tokens, lock = list(range(requests)), [], threading.Lock()

    def work():
        while True:
            with lock:
                if not left:
                    return
                number = left.pop()
            count = ask(port, dict(body, seed=number))
            with lock:
                tokens.append(count)

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    started = time.monotonic()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(tokens) == requests
    return sum(tokens) / (time.monotonic() - started)


def difflow(model, threads):
    command = [ROOT / "bin/difflow", "serve", "--checkpoint", model, "--port", "0", "--device", "cpu", "--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        found = re.match(r"serving at http://127.0.0.1:(\d+)/", line)
        if found:
            return process, int(found[1])
    sys.exit("difflow does not serve")


def loop(model, threads):
    port = 18642
    process = subprocess.Popen([sys.executable, "-c", LOOP, model, str(port), str(threads)])
    for _ in range(600):
        try:
            ask(port, {"prompt": "a", "max_tokens": 2, "seed": 0, "temperature": 1.0})
            return process, port
        except OSError:
            if process.poll() is not None:
                return None
            time.sleep(0.2)
    sys.exit("the loop does not serve")


def measure(name, server, body, rounds, requests):
    if server is None:
        return print(f"{name}: left out, it does not start")
    process, port = server
    rate(port, body, 4, 4)
    rows = {}
    for _ in range(rounds):
        for at_once in (1, 8, 32):
            rows.setdefault(at_once, []).append(rate(port, body, at_once, max(requests, at_once)))
    process.send_signal(signal.SIGTERM)
    process.wait()
    one = statistics.median(rows[1])
    for at_once, rates in rows.items():
        middle = statistics.median(rates)
        print(f"{name:<34} {at_once:>3} at once  {middle:>8.0f} tokens/s  ({min(rates):.0f} to {max(rates):.0f})  x {middle / one:.2f}", flush=True)
    return rows


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in ("ar", "full", "block"):
        parse.add_argument(f"--{kind}", help="a base model, a model of whole canvases, one of blocks")
    parse.add_argument("--threads", type=int, default=os.cpu_count())
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--requests", type=int, default=32)
    options = parse.parse_args()
    prompt = "A day at"
    body = {"prompt": prompt, "max_tokens": 96, "temperature": 0.8}
    if options.ar:
        ours = measure("ar, difflow serve", difflow(options.ar, options.threads), body, options.rounds, options.requests)
        theirs = measure("ar, transformers + FastAPI", loop(options.ar, options.threads), body, options.rounds, options.requests)
        if theirs:
            for at_once in ours:
                ratio = statistics.median(ours[at_once]) / statistics.median(theirs[at_once])
                print(f"difflow serve / transformers + FastAPI at {at_once}: {ratio:.2f}")
    if options.full:
        own = dict(body, decoder="threshold", threshold=0.9)
        measure("full, threshold 0.9", difflow(options.full, options.threads), own, options.rounds, options.requests)
    if options.block:
        measure("blocks, speculative", difflow(options.block, options.threads), dict(body, decoder="speculative"), options.rounds, options.requests)
        own = dict(body, decoder="threshold", threshold=0.9)
        measure("blocks, threshold 0.9", difflow(options.block, options.threads), own, options.rounds, options.requests)


main()
