"""A node between corpus and tokenizer that leaves short documents out. SHORTEST: characters of the shortest that stays."""
import hashlib
import json
import os

import pyarrow.compute as pc
from dora import Node

shortest = int(os.environ.get("SHORTEST", "200"))
node = Node()
for event in node:
    if event["type"] != "INPUT":
        continue
    documents, metadata = event["value"], event["metadata"]
    kept = documents.filter(pc.greater_equal(pc.utf8_length(documents.field("text")), shortest))
    # A message for each that came, with its number, even if nothing is left of it: the tokenizer has asked for that number.
    passed_on = {key: value for key, value in metadata.items() if key != "timestamp"}
    # These are other documents now: by `corpus` the tokenizer knows whether a token store of earlier fits.
    facts = json.loads(metadata["facts"])
    facts["corpus"] = hashlib.sha256(f"{facts['corpus']} longer_than {shortest}".encode()).hexdigest()
    node.send_output("documents", kept, {**passed_on, "facts": json.dumps(facts)})
