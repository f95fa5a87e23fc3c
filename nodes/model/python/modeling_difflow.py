"""A difflow checkpoint in `transformers`: masked diffusion, block diffusion, or both halves of a model that does either.

    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
    model.generate(max_new_tokens=64)                # or of AutoModelForCausalLM: it is the same class

What is loaded is the family's own class of `transformers` (LlamaForCausalLM, GPT2LMHeadModel, ...) with another `forward` and another
`generate`. Which positions see which is handed to it as a 4-D attention mask, so it needs `eager` or `sdpa` attention.

difflow writes this file beside the weights, and config.json's `auto_map` names it. It reads from the folder

* config.json: `difflow` = {"mask_token_id", "shift", "objective", "block": {"size", "context", "ar_weight"}};
* generation_config.json: `difflow` = how the checkpoint wants to be decoded, by the names of difflow's keys;
* origin.json: the tokens that begin and end a text, and how long a text the model ends by itself.
"""
import json
import math
import os
import shutil

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PretrainedConfig
from transformers.utils import cached_file

AUTO_MAP = {name: "modeling_difflow.DifflowForMaskedLM" for name in ("AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM")}
ORIGIN = "origin.json"

# Families whose layers all have the window of config.json, and those that take an attention mask for each of two kinds of layers.
WINDOW_IN_ALL_LAYERS = ("mistral", "phi3", "mixtral", "qwen3_moe")
WINDOW_BY_LAYER = ("qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3", "ministral")

# The options of `generate` and what they are where neither the caller nor the checkpoint says it, by the names of `difflow sample`.
OPTIONS = {"decoder": "auto", "score": "probability", "threshold": 0.9, "window": None, "entropy_bound": 0.1, "kl_threshold": 0.01,
           "stable_forwards": 2, "block": None, "guidance": 0.0, "steps": 64, "temperature": 0.95, "top_p": 0.9, "top_k": None,
           "repetition_penalty": 1.0}
# What difflow's checkpoints may say beside them: how forwards are saved, and the key of random numbers, which are torch's here.
UNUSED = ("cache", "refresh", "seed")
DECODERS = ("random", "first-hitting", "confidence", "threshold", "entropy-bound", "stable", "greedy", "ar", "speculative")
# New tokens of a text that the model does not end by itself, where nobody says how many.
DEFAULT_LENGTH = 128


class DifflowForMaskedLM:
    """Loads a checkpoint as a subclass of its family's own class."""

    @classmethod
    def from_pretrained(cls, path, *args, config=None, **kwargs):
        where = {key: kwargs[key] for key in ("cache_dir", "revision", "token", "local_files_only", "subfolder", "proxies") if key in kwargs}
        config = config or AutoConfig.from_pretrained(path, **where)
        with_attention(config, kwargs)
        loaded = of_family(config).from_pretrained(path, *args, config=config, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.origin = read_origin(path, where)
        # A class of `transformers` has an end of texts of its own where config.json names none.
        written, _ = PretrainedConfig.get_config_dict(path, **where)
        model.ends = as_list(written.get("eos_token_id"))
        return loaded

    @classmethod
    def _from_config(cls, config, **kwargs):
        with_attention(config, kwargs)
        return of_family(config)._from_config(config, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel"):
        """Nothing: `save_pretrained` copies this file itself."""


def of_family(config):
    """The class of a configuration's family with the methods of `Difflow`. It keeps its name, which is what is saved of it."""
    if not getattr(config, "difflow", None):
        raise ValueError("config.json has no object `difflow`; allowed: a checkpoint that difflow wrote")
    family = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return type(family.__name__, (Difflow, family), {"__module__": __name__, "config_class": type(config)})


def with_attention(config, kwargs):
    """Chooses `eager` where scores are more than scaled products: `sdpa` leaves that out in some versions of `transformers`."""
    own = (getattr(config, "attn_logit_softcapping", None) or getattr(config, "scale_attn_by_inverse_layer_idx", False)
           or not getattr(config, "scale_attn_weights", True))
    if own and not kwargs.get("attn_implementation"):
        kwargs["attn_implementation"] = "eager"


def read_origin(path, where):
    """What origin.json says; nothing where there is none."""
    quiet = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors", "_raise_exceptions_for_gated_repo")
    file = cached_file(path, ORIGIN, **where, **{name: False for name in quiet})
    if file is None:
        return {}
    with open(file, encoding="utf-8") as text:
        return json.load(text)


def as_list(ids):
    return [] if ids is None else list(ids) if isinstance(ids, (list, tuple)) else [ids]


class Difflow:
    """The methods that a difflow checkpoint has in the place of its family's.

    `mask_token_id` stands for "not known yet". `origin` is what origin.json says.
    """

    origin = {}
    ends = []

    @property
    def mask_token_id(self):
        return self.config.difflow["mask_token_id"]

    @property
    def shift(self):
        """Whether the hidden state at i predicts token i + 1."""
        return self.config.difflow.get("shift", True)

    @property
    def blocks(self):
        """`size`, `context` and `ar_weight` of a model of block diffusion, else None."""
        return self.config.difflow.get("block")

    @property
    def anchor(self):
        """The token that a text begins with."""
        found = self.origin.get("bos", self.config.bos_token_id)
        return as_list(found)[0] if found is not None else self.stops[0]

    @property
    def stops(self):
        """The tokens that end a text."""
        end = self.origin.get("eos")
        return self.ends + as_list(end) if end is not None or self.ends else as_list(self.config.eos_token_id)

    def forward(self, input_ids=None, attention_mask=None, labels=None, attention=None, **kwargs):
        """Returns the family's output, in which `logits[:, i]` are of the token at position i, as for any masked language model: where
        the weights predict the next token (`shift`), the logits have been moved by one. Those of the first position, the anchor that is
        never masked, are then a copy of the second's and mean nothing. `loss` is the mean cross-entropy of `labels` that are not -100.

        `attention` says which positions see which, inside the windows that layers may have:

        * "full": everything. Models of full diffusion do, and what else says nothing.
        * "block": everything in its block and the blocks before it, where blocks of `size` positions are counted from the first token.
          Models of block diffusion do. If their context is "causal", only positions of blocks with a mask token in them see their whole
          block; what is known sees itself and what is before it.
        * "causal": itself and what is before it: the autoregressive half of a model with a causal context.
        * booleans `[L, L]` or `[B, L, L]`, the query first.

        `attention_mask` is 1 for tokens and 0 for padding, on either side.
        """
        if input_ids is None:
            raise ValueError("no input_ids; allowed: token ids, with the mask token where one is to be predicted")
        length = input_ids.shape[1]
        present = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        places = (present.cumsum(-1) - 1).clamp(min=0)
        visible = attention if isinstance(attention, torch.Tensor) else self.visible(input_ids, places, attention)
        visible = visible.to(input_ids.device).expand(len(input_ids), length, length) & present.bool()[:, None]
        if attention_mask is not None and not present.all():
            kwargs.setdefault("position_ids", places)
        output = self.read(input_ids, visible, **kwargs)
        if self.shift:
            output.logits = torch.cat([output.logits[:, :1], output.logits[:, :-1]], 1)
        if labels is not None:
            output.loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
        return output

    def visible(self, input_ids, places, attention=None):
        """Which positions see which, `[B, L, L]`, the query first. `places` are the positions, counted from the first token."""
        attention = attention or ("block" if self.blocks else "full")
        before = places[:, None] <= places[:, :, None]
        if attention == "full":
            return torch.ones_like(before)
        if attention == "causal":
            return before
        if attention != "block" or not self.blocks:
            raise ValueError(f"attention: {attention!r}; allowed: 'full', 'causal', of a model of block diffusion 'block', or booleans")
        block = places // self.blocks["size"]
        if self.blocks["context"] != "causal":
            return block[:, None] <= block[:, :, None]
        same = block[:, None] == block[:, :, None]
        unknown = (input_ids == self.mask_token_id)[:, None]
        return before | (same & (same & unknown).any(-1, keepdim=True))

    def read(self, input_ids, visible, **kwargs):
        """The family's own forward with this attention, and its own logits."""
        implementation = self.config._attn_implementation
        if implementation not in ("eager", "sdpa"):
            raise ValueError(f"attn_implementation: {implementation!r}; allowed: 'eager' or 'sdpa', which take any pattern")
        self.prepare()
        at = torch.arange(input_ids.shape[1], device=input_ids.device)
        visible = visible | (at[:, None] == at)
        kind, window = self.dtype, getattr(self.config, "sliding_window", None)
        bias = lambda seen: torch.zeros(seen.shape, dtype=kind, device=seen.device).masked_fill(~seen, torch.finfo(kind).min)[:, None]
        near = visible if window is None else visible & (at[:, None] - at < window)
        family = self.config.model_type
        if family in WINDOW_BY_LAYER:
            mask = {"full_attention": bias(visible), "sliding_attention": bias(near)}
        else:
            mask = bias(near if family in WINDOW_IN_ALL_LAYERS else visible)
        kwargs = {**kwargs, "use_cache": False, "return_dict": True}
        if hasattr(self.config, "output_router_logits"):
            # The routers' loss of `transformers` wants another kind of attention mask.
            kwargs["output_router_logits"] = False
        return super().forward(input_ids=input_ids, attention_mask=mask, **kwargs)

    def prepare(self):
        """Undoes what the family's own modules remember or take for granted."""
        for module in self.modules():
            # A buffer that makes GPT-2 causal in `transformers` 4, whatever the attention mask says.
            if self.config.model_type == "gpt2" and getattr(module, "bias", None) is not None and module.bias.dtype == torch.bool:
                module.bias.fill_(True)
            # The frequencies of the longest text seen; those of a text are its own length's.
            if getattr(module, "rope_type", None) == "dynamic":
                module.register_buffer("inv_freq", module.original_inv_freq.clone(), persistent=False)
                module.max_seq_len_cached = module.original_max_seq_len

    @classmethod
    def is_custom_code(cls):
        """False: modules and tensors are the family's, and so are their names in files."""
        return False

    def save_pretrained(self, save_directory, *args, **kwargs):
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, *args, **kwargs)
        shutil.copyfile(__file__, os.path.join(save_directory, "modeling_difflow.py"))
        if self.origin:
            with open(os.path.join(save_directory, ORIGIN), "w", encoding="utf-8") as text:
                json.dump(self.origin, text, indent=2)

    @torch.no_grad()
    def generate(self, inputs=None, attention_mask=None, max_new_tokens=None, input_ids=None, generation_config=None, do_sample=None,
                 **options):
        """Writes texts behind `inputs` (token ids `[B, L]`, the anchor first; by default only the anchor), or fills the mask tokens in
        them. Returns the token ids, each row behind its end filled up with the token that ended it (or `pad_token_id`).

        A row without a mask token is continued by at most `max_new_tokens`: by default as many as the model ends a text within, else 128. In
        a row with some, these are filled, and nothing is appended unless `max_new_tokens` says so. Padding is told by `attention_mask`.

        Options are those of `difflow sample` (docs/SAMPLING.md): decoder, score, threshold, window, entropy_bound, kl_threshold,
        stable_forwards, block, guidance, steps, temperature, top_p, top_k and repetition_penalty. What is not given is as the checkpoint says
        (generation_config.json), else as difflow has it. With temperature 0, which is also do_sample=False, the text is that of
        `difflow sample`, unless two tokens are equally probable within rounding; the decoders `random` and `first-hitting` choose places
        by torch's random numbers, and so differ even then. `speculative` writes the texts of `ar`, as in difflow, one token a forward.
        """
        tokens = inputs if inputs is not None else input_ids
        if tokens is None:
            tokens = torch.tensor([[self.anchor]], device=self.device)
        how = self.options(generation_config, options)
        if do_sample is False:
            how["temperature"] = 0.0
        present = torch.ones_like(tokens) if attention_mask is None else attention_mask
        texts = [self.text(row[seen.bool()].tolist(), max_new_tokens, how) for row, seen in zip(tokens, present)]
        while going := [text for text in texts if text.plan()]:
            for alike in self.alike(going):
                for text, logits in zip(alike, self.ask(alike)):
                    text.settle(logits)
        rows = [text.finished() for text in texts]
        pad, longest = as_list(getattr(self.generation_config, "pad_token_id", None)), max(map(len, rows))
        rows = [row + (pad[:1] or row[-1:]) * (longest - len(row)) for row in rows]
        return torch.tensor(rows, device=tokens.device)

    def options(self, generation_config, given):
        """All options of `generate`. Errors if one that is given is none."""
        said = getattr(generation_config or self.generation_config, "difflow", None) or {}
        said = {key.lower().replace("diffusion_", ""): value for key, value in said.items()}
        unknown = [key for key in {**said, **given} if key not in OPTIONS and (key in given or key not in UNUSED)]
        if unknown:
            raise TypeError(f"{unknown[0]}: no option of generate; allowed: {', '.join(OPTIONS)}")
        how = {**OPTIONS, **{key: value for key, value in said.items() if key in OPTIONS}, **given}
        blocks, causal = self.blocks, (self.blocks or {}).get("context") == "causal"
        if how["decoder"] == "auto":
            how["decoder"] = "speculative" if causal and blocks["ar_weight"] > 0 else "threshold" if blocks else "random"
        if how["decoder"] not in DECODERS:
            raise ValueError(f"decoder: {how['decoder']!r}; allowed: auto, {', '.join(DECODERS)}")
        if not causal and (how["decoder"] == "speculative" or how["decoder"] == "ar" and blocks):
            raise ValueError(f"decoder: {how['decoder']!r}; allowed, as the model does not read from left to right: one that fills masks")
        if how["decoder"] == "greedy":
            how["temperature"] = 0.0
        return how

    def text(self, tokens, most, how):
        """What is to be done of a row of tokens."""
        if not tokens or tokens[0] == self.mask_token_id:
            raise ValueError("a text that begins with no token or the mask token; allowed: one that begins with the anchor, as a rule model.anchor")
        gaps = self.mask_token_id in tokens
        if most is None:
            most = 0 if gaps else self.room(len(tokens))
        longest = self.config.max_position_embeddings if self.config.model_type == "gpt2" else None
        left = not gaps and how["decoder"] in ("ar", "speculative")
        if longest is not None and len(tokens) + most - left > longest:
            raise ValueError(f"a text of {len(tokens)} and {most} tokens; allowed: at most {longest}, the positions of the model")
        if left:
            return LeftToRight(self, tokens, most, how)
        by_blocks = self.blocks is not None and not gaps
        if self.blocks is not None and gaps:
            # What stands behind a gap is seen by models that whole rows were trained on.
            if how["decoder"] == "ar" or not trained_on_whole_rows(self.origin.get("blocks")):
                raise ValueError("a text with a gap; allowed: a free end, as a model that was trained on blocks alone, or reads from left "
                                 "to right, sees nothing behind it")
        if by_blocks and how["guidance"]:
            raise ValueError("guidance: allowed: 0, as the model was not trained without what is given")
        return Canvas(self, tokens + [self.mask_token_id] * most, how, self.blocks if by_blocks else None)

    def room(self, given):
        """The new tokens behind `given` ones that the model ends a text within; DEFAULT_LENGTH where it must be told."""
        whole = self.origin.get("canvas")
        if whole is None and self.blocks:
            whole = self.origin.get("sequence_length", getattr(self.config, "max_position_embeddings", None))
        return DEFAULT_LENGTH if whole is None else max(whole - max(given - 1, 0), 2) - 1

    def alike(self, texts):
        """Texts that may share a forward: all, unless the rotary embedding goes by the length."""
        if not self.by_length():
            return [texts]
        groups = {}
        for text in texts:
            groups.setdefault(text.length, []).append(text)
        return list(groups.values())

    def by_length(self):
        """Whether the rotary embedding of a text goes by its length."""
        kinds = [getattr(module, "rope_type", None) for module in self.modules()]
        return any(kind in ("dynamic", "longrope") for kind in kinds)

    def ask(self, texts):
        """One forward. Returns of each text the logits `[n, V]` of the positions that it wants, the mask token left out."""
        inputs = [one for text in texts for one in text.inputs()]
        length = texts[0].length if self.by_length() else max(len(tokens) for tokens, _ in inputs)
        tokens = torch.zeros(len(inputs), length, dtype=torch.long)
        reach = torch.zeros(len(inputs), length, dtype=torch.long)
        for row, (text, seen) in enumerate(inputs):
            tokens[row, :len(text)], reach[row, :len(text)] = torch.tensor(text), torch.tensor(seen)
        visible = torch.arange(length) < reach[:, :, None]
        logits, row, answers = self.read(tokens.to(self.device), visible.to(self.device)).logits, 0, []
        for text in texts:
            places = [place - text.back for place in text.wanted]
            found = [logits[row + side, places].double() for side in range(len(text.inputs()))]
            row += len(found)
            guidance = text.how["guidance"]
            answer = found[0] if len(found) == 1 else (1 + guidance) * found[0] - guidance * found[1]
            answer[:, self.mask_token_id] = -math.inf
            answers.append(answer)
        return answers


def trained_on_whole_rows(sizes):
    """Whether some rows of training were not cut into blocks; `sizes` are those of the noiser's key, such as "4:3,row"."""
    return any(size.partition(":")[0].split("..")[-1] == "row" for size in (sizes or "").split(","))


class Drawing:
    """How tokens are drawn."""

    def __init__(self, how):
        self.how = how

    def choices(self, logits, present):
        """For each row of logits the token, its probability and those of all tokens, under the softmax at temperature 1."""
        how = self.how
        if how["repetition_penalty"] != 1.0:
            known = logits[:, present]
            logits[:, present] = torch.where(known > 0, known / how["repetition_penalty"], known * how["repetition_penalty"])
        shares = logits.softmax(-1)
        if how["temperature"] == 0.0:
            tokens = logits.argmax(-1)
        else:
            tokens = torch.multinomial(self.kept((logits / how["temperature"]).softmax(-1)), 1)[:, 0]
        return tokens.tolist(), shares.gather(1, tokens[:, None])[:, 0].tolist(), shares

    def kept(self, weights):
        """The shares that top-k and top-p leave."""
        top_k, top_p = self.how["top_k"], self.how["top_p"]
        sorted_weights, order = weights.sort(dim=-1, descending=True, stable=True)
        before = sorted_weights.cumsum(-1) - sorted_weights
        out = before >= top_p if top_p < 1.0 else torch.zeros_like(before, dtype=torch.bool)
        if top_k is not None:
            out[:, top_k:] = True
        out[:, 0] = False
        return weights.masked_fill(torch.zeros_like(out).scatter(1, order, out), 0.0)


class LeftToRight(Drawing):
    """A text that is written from left to right."""

    back = 1

    def __init__(self, model, tokens, most, how):
        super().__init__({**how, "guidance": 0.0})
        self.stops, self.tokens, self.end = model.stops, tokens, len(tokens) + most
        self.length, self.stopped = max(len(tokens) + most - 1, 1), False

    def plan(self):
        """Whether it goes on; says which positions the next forward is asked for."""
        self.wanted = [len(self.tokens)]
        return not self.stopped and len(self.tokens) < self.end

    def inputs(self):
        return [(self.tokens, range(1, len(self.tokens) + 1))]

    def settle(self, logits):
        token = self.choices(logits, sorted(set(self.tokens)))[0][0]
        self.tokens, self.stopped = self.tokens + [token], token in self.stops

    def finished(self):
        return self.tokens


class Canvas(Drawing):
    """A text with masked positions that become known one after the other; with `blocks`, block by block from left to right."""

    def __init__(self, model, tokens, how, blocks):
        super().__init__(how)
        self.mask, self.stops, self.back = model.mask_token_id, model.stops, int(model.shift)
        self.given = [token != self.mask for token in tokens]
        self.tokens, self.known, self.length = list(tokens), list(self.given), len(tokens)
        # What is not attended to, and where the text ends.
        self.end = self.text_end = len(tokens)
        self.open_end = model.origin.get("canvas") is not None
        self.tail = max(at for at, given in enumerate(self.given) if given) + 1
        self.holes = self.given.count(False)
        self.context = blocks and blocks["context"]
        self.size = how["block"] or (blocks and blocks["size"])
        self.first, self.last, self.block_steps, self.block_step = 0, 0, 0, 0
        self.before, self.calm = {}, {}

    def plan(self):
        """Whether there is something to fill; says which positions the next forward is asked for."""
        while self.masked() or self.enter_block():
            self.wanted = self.candidates()
            if self.wanted:
                return True
            self.block_step += 1
        return False

    def masked(self):
        return [at for at in range(self.first, self.last) if not self.known[at]]

    def enter_block(self):
        """The next block with something to fill; False when there is none."""
        first = next((at for at in range(self.end) if not self.known[at]), None)
        if first is None:
            return False
        # Blocks of a model of block diffusion lie where they lay in training.
        self.first = first // self.size * self.size if self.context else first
        self.last = min(self.first + self.size, self.end) if self.size else self.end
        steps = self.how["steps"]
        if not self.context:
            # How long the text may become is no measure of how long it will be; shares of steps add up, however they are rounded.
            before = self.holes - self.known.count(False)
            share = lambda filled: steps * filled // self.holes
            steps = max(share(before + len(self.masked())) - share(before), 1)
        self.block_steps, self.block_step = steps, 0
        return True

    def candidates(self):
        masked, decoder = self.masked(), self.how["decoder"]
        if decoder == "first-hitting":
            return [masked[int(torch.randint(len(masked), ()))]]
        if decoder == "random":
            chance = 1.0 / max(self.block_steps - self.block_step, 1)
            return [at for at, coin in zip(masked, torch.rand(len(masked), dtype=torch.float64).tolist()) if coin < chance]
        return masked

    def inputs(self):
        """The tokens that are read and how far each position sees; with guidance once more without what is given."""
        if self.context is None:
            reach = [self.end] * self.end
        else:
            known = (lambda at: at + 1) if self.context == "causal" else (lambda at: (at // self.size + 1) * self.size)
            reach = [known(at) for at in range(self.first)] + [self.last] * (self.last - self.first)
        inputs = [(self.tokens[:len(reach)], reach)]
        if self.how["guidance"] and any(self.given[1:]):
            inputs.append(([self.mask if given and at > 0 else token
                            for at, (token, given) in enumerate(zip(self.tokens, self.given))][:len(reach)], reach))
        return inputs

    def settle(self, logits):
        """Takes what the decoder reveals of the model's choices."""
        present = sorted({self.tokens[at] for at in range(self.end) if self.known[at]})
        tokens, probabilities, shares = self.choices(logits, present)
        for place in self.revealed(probabilities, shares):
            at = self.wanted[place]
            self.tokens[at], self.known[at] = tokens[place], True
        self.block_step += 1
        self.stop()

    def revealed(self, probabilities, shares):
        """The places among `wanted` that become known: at least one."""
        how, decoder, places = self.how, self.how["decoder"], list(range(len(probabilities)))
        if decoder in ("random", "first-hitting"):
            return places
        score = {"entropy-bound": "entropy", "stable": "probability"}.get(decoder, how["score"])
        if score == "margin":
            best = shares.topk(2, -1).values
            scores = (best[:, 0] - best[:, 1]).tolist()
        elif score == "entropy":
            scores = torch.special.xlogy(shares, shares).sum(-1).tolist()
        else:
            scores = probabilities
        # Of equal scores the earlier position is the surer.
        order = sorted(places, key=lambda place: (-scores[place], place))
        if decoder in ("confidence", "greedy"):
            return order[:-(-len(order) // max(self.block_steps - self.block_step, 1))]
        if decoder == "entropy-bound":
            # The largest of the entropies revealed together does not count: it is the last one's.
            total, count = 0.0, 0
            for place in order:
                total -= scores[place]
                if total > how["entropy_bound"]:
                    break
                count += 1
            return order[:count + 1]
        if decoder == "stable":
            settled = [self.has_settled(self.wanted[place], shares[place], scores[place]) for place in places]
            return [place for place in order if settled[place]] or order[:1]
        window = how["window"] or len(order)
        best = next(place for place in order if place < window)
        return [place for place in order if scores[place] >= how["threshold"] or place == best]

    def has_settled(self, at, shares, score):
        """Whether a position's distribution has hardly moved in the last forwards, and its token is sure."""
        before, self.before[at] = self.before.get(at), shares
        moved = math.inf
        if before is not None:
            moved = (torch.special.xlogy(shares, shares) - torch.special.xlogy(shares, before)).sum().item()
        self.calm[at] = self.calm.get(at, 0) + 1 if moved < self.how["kl_threshold"] else 0
        return self.calm[at] >= self.how["stable_forwards"] and score >= self.how["threshold"]

    def stop(self):
        """Ends a text with a free end behind the first token that ends it."""
        found = (at for at in range(self.tail, self.text_end) if self.known[at] and self.tokens[at] in self.stops)
        at = next(found, None)
        if at is None:
            return
        self.text_end = at + 1
        behind = self.length - self.text_end
        self.known[self.text_end:] = [True] * behind
        if self.open_end:
            # A model that was trained on canvases with an open end keeps in view what stands behind it.
            self.tokens[self.text_end:] = [self.tokens[at]] * behind
            return
        self.end = self.text_end
        self.last = min(self.last, self.end)
        self.first = min(self.first, self.last)

    def finished(self):
        return self.tokens[:self.text_end]
