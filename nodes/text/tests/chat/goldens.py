"""What transformers makes of the templates beside this file: python3 goldens.py > goldens.json

Of each template and conversation: the text, the text with the prompt for an answer (without the last message), and where answers stand in the
text (in characters): by the template's own marks, else by a difference of prefixes. Where transformers refuses, why.
"""

import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as utils

HERE = pathlib.Path(__file__).parent
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


class Day(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


utils.datetime = Day


def render(template, messages, **options):
    texts, spans = utils.render_jinja_template([messages], chat_template=template, **options, **SPECIAL)
    return texts[0], spans


def found(template, messages):
    text, _ = render(template, messages)
    prompt, _ = render(template, messages[:-1], add_generation_prompt=True)
    if "{% generation" in template:
        _, spans = render(template, messages, return_assistant_tokens_mask=True)
        spans = spans[0]
    else:
        spans = []
        for at in (at for at, message in enumerate(messages) if message["role"] == "assistant"):
            before, _ = render(template, messages[:at], add_generation_prompt=True)
            behind, _ = render(template, messages[: at + 1])
            if not (behind.startswith(before) and text.startswith(behind)):
                spans = None
                break
            spans.append([len(before), len(behind)])
    return {"text": text, "prompt": prompt, "spans": spans}


goldens = {}
for path in sorted((HERE / "templates").glob("*.jinja")):
    template = path.read_text()
    for name, messages in json.loads((HERE / "conversations.json").read_text()).items():
        try:
            goldens[f"{path.stem} {name}"] = found(template, messages)
        except Exception as error:
            goldens[f"{path.stem} {name}"] = {"error": str(error)}
print(json.dumps(goldens, indent=1, ensure_ascii=False, sort_keys=True))
