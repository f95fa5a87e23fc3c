#!/usr/bin/env python3
"""Tokens a second of `difflow serve` at 1, 8 and 32 requests at once, and of a plain transformers + FastAPI loop for the same base model.

    scripts/bench-serving.py --ar data/tiny/model --full runs/tiny-diffusion --block runs/default [--threads 2] [--rounds 3]

Each figure is the middle of --rounds; behind it stand the smallest and the largest. The loop needs torch, transformers, fastapi and uvicorn
(run this script with a Python that has them); without, it is left out.

    scripts/bench-serving.py --load 8601 --pid PID [--clients 200] [--minutes 10] [--switch]

asks a server that runs already, with so many clients at once, and says what the answers were, how long they took, and how much memory the
server had in each tenth of the time. With --switch it has the server read its checkpoint again (SIGHUP) after each of these tenths but the
last. It fails on any answer but 200 and 429.
"""

import argparse, collections, http.client, json, os, pathlib, re, signal, statistics, subprocess, sys, threading, time

START_SECONDS = 600
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
    # On a busy machine the imports alone take minutes.
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            ask(port, {"prompt": "a", "max_tokens": 2, "seed": 0, "temperature": 1.0})
            return process, port
        except OSError:
            if process.poll() is not None:
                return None
            time.sleep(0.2)
    process.kill()
    sys.exit(f"the loop does not serve after {START_SECONDS} seconds")


def measure(name, server, body, rounds, requests):
    if server is None:
        return print(f"{name}: left out, it does not start")
    process, port = server
    rate(port, body, 4, 4)
    rows = {}
    for _ in range(rounds):
        for at_once in (1, 8, 32):
            rows.setdefault(at_once, []).append(rate(port, body, at_once, max(requests, 4 * at_once)))
    process.send_signal(signal.SIGTERM)
    process.wait()
    one = statistics.median(rows[1])
    for at_once, rates in rows.items():
        middle = statistics.median(rates)
        print(f"{name:<34} {at_once:>3} at once  {middle:>8.0f} tokens/s  ({min(rates):.0f} to {max(rates):.0f})  x {middle / one:.2f}", flush=True)
    return rows


def resident(pid):
    """MiB of memory that a process has."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def load(port, pid, clients, minutes, switch):
    """Answers, latencies and memory under load. Every third client streams."""
    lock, seconds, told, wrong, tokens = threading.Lock(), [], collections.Counter(), collections.Counter(), []
    end = time.monotonic() + 60 * minutes

    def one(connection, number, seed):
        body = {"prompt": "A day at", "max_tokens": 96, "temperature": 0.8, "seed": seed, "user": str(number), "stream": number % 3 == 0,
                "stream_options": {"include_usage": True}}
        started = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read().decode()
        if answer.status == 200:
            last = data if not body["stream"] else data.split("data: ")[-2]
            count = json.loads(last)["usage"]["completion_tokens"]
        with lock:
            told[answer.status] += 1
            if answer.status == 200:
                seconds.append(time.monotonic() - started)
                tokens.append(count)
        if answer.status == 429:
            time.sleep(int(answer.getheader("Retry-After")))

    def work(number):
        connection, seed = http.client.HTTPConnection("127.0.0.1", port, timeout=600), number
        while time.monotonic() < end:
            try:
                one(connection, number, seed)
            except Exception as e:
                with lock:
                    wrong[repr(e)] += 1
                connection.close()
                time.sleep(1)
            seed += clients

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    started = time.monotonic()
    [thread.start() for thread in threads]
    memory = []
    while time.monotonic() < end:
        time.sleep(6 * minutes)
        memory.append(resident(pid) if pid else 0)
        print(f"{time.monotonic() - started:>6.0f} s  {len(seconds)} answers, {memory[-1]:.0f} MiB", flush=True)
        if switch and time.monotonic() < end:
            os.kill(pid, signal.SIGHUP)
    [thread.join() for thread in threads]
    spent = time.monotonic() - started
    seconds.sort()
    at = lambda share: seconds[min(int(share * len(seconds)), len(seconds) - 1)]
    print(f"{clients} clients, {spent:.0f} s: answers {dict(told)}, failures {dict(wrong)}")
    print(f"latency p50 {at(0.5):.2f} s, p99 {at(0.99):.2f} s, longest {seconds[-1]:.2f} s; {sum(tokens) / spent:.0f} tokens/s")
    sys.exit(bool(wrong) or bool(set(told) - {200, 429}))


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in ("ar", "full", "block"):
        parse.add_argument(f"--{kind}", help="a base model, a model of whole canvases, one of blocks")
    parse.add_argument("--threads", type=int, default=os.cpu_count())
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--requests", type=int, default=32)
    parse.add_argument("--tokens", type=int, default=96, help="the new tokens of a text")
    parse.add_argument("--load", type=int, metavar="PORT", help="ask the server on this port with many clients")
    parse.add_argument("--pid", type=int, help="with --load: the server's process, whose memory is read")
    parse.add_argument("--switch", action="store_true", help="with --load and --pid: another model nine times")
    parse.add_argument("--clients", type=int, default=200)
    parse.add_argument("--minutes", type=float, default=10)
    options = parse.parse_args()
    if options.load:
        load(options.load, options.pid, options.clients, options.minutes, options.switch)
    prompt = "A day at"
    body = {"prompt": prompt, "max_tokens": options.tokens, "temperature": 0.8}
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
        own = dict(own, block=16, cache="dual")
        measure("full, blocks of 16, dual cache", difflow(options.full, options.threads), own, options.rounds, options.requests)
    if options.block:
        measure("blocks, speculative", difflow(options.block, options.threads), dict(body, decoder="speculative"), options.rounds, options.requests)
        own = dict(body, decoder="threshold", threshold=0.9)
        measure("blocks, threshold 0.9", difflow(options.block, options.threads), own, options.rounds, options.requests)


main()
