"""A node that reads the trainer's metrics: one line of JSON a message into the file LOG."""
import json
import os

from dora import Node

path = os.environ.get("LOG", "metrics.jsonl")
os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
with open(path, "w") as file:
    # To the end of the events, not to the first "STOP": what was sent before it may come after it.
    for event in Node():
        if event["type"] == "INPUT":
            rows = event["value"].to_pylist()
            line = {"step": rows[0]["step"]} | {row["name"]: row["value"] for row in rows}
            print(json.dumps(line), file=file, flush=True)
