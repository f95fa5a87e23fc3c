"""Makes rouge.json: random pairs of texts, and what rouge-score 0.1.2 says of them. `python3 rouge.py > rouge.json`."""

import json
import random

from rouge_score import rouge_scorer

random.seed(7)
WORDS = ["the", "cat", "Cat", "sat", "on", "mat,", "mat", "a", "A-b", "3", "3.5", "don't", "dog", "\u00e9t\u00e9", "\u212a9", "_x_", "\u2014", "re-run", "U.S."]
scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
pairs = [("", ""), ("a", ""), ("", "a"), ("!", "?"), ("the cat", "the cat"), ("The CAT sat.", "the cat sat")]
for _ in range(300):
    one = [random.choice(WORDS) for _ in range(random.randint(0, 14))]
    other = [random.choice(one) if one and random.random() < 0.6 else random.choice(WORDS) for _ in range(random.randint(0, 14))]
    pairs.append((" ".join(one), random.choice([" ", "\n", "  "]).join(other)))
rows = []
for text, answer in pairs:
    found = scorer.score(answer, text)
    rows.append({"text": text, "answer": answer, **{name: found[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")}})
print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")
