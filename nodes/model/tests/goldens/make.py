"""Makes transformers.json: logits of small models with made-up weights, computed in fp64 by `transformers`, that
tests/model/goldens.rs compares difflow's with. Weights are a formula of tensor name and index, so none are stored.

    pip install torch transformers && python make.py > transformers.json
"""
import json

import torch
from transformers import AutoConfig, AutoModelForCausalLM

M = (1 << 64) - 1
LENGTH, KEPT = 20, (0, 11, 19)
IDS = [(7 * i * i + 3 * i + 1) % 37 for i in range(LENGTH)]

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=37, hidden_size=24, intermediate_size=20,
             num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             tie_word_embeddings=False, rms_norm_eps=1e-5)
GPT2 = dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", vocab_size=37, n_embd=12, n_layer=3, n_head=3,
            n_positions=32)


def llama(**changes):
    return {**LLAMA, **changes}


def scaled(**scaling):
    return llama(max_position_embeddings=8 if scaling["rope_type"] == "dynamic" else 32, rope_scaling=scaling)


CASES = {
    "llama": llama(),
    "llama tied, no groups, odd sizes": llama(tie_word_embeddings=True, num_attention_heads=3, num_key_value_heads=3,
                                              hidden_size=30, intermediate_size=17),
    "llama one kv head, theta, biases": llama(num_key_value_heads=1, rope_theta=500.0, attention_bias=True, mlp_bias=True),
    "llama head_dim of its own": llama(head_dim=10),
    "linear": scaled(rope_type="linear", factor=4.0),
    "dynamic": scaled(rope_type="dynamic", factor=4.0),
    "llama3": scaled(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                     original_max_position_embeddings=16),
    "yarn": scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=8),
    "yarn with its own factors": scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=8, beta_fast=8.0,
                                        beta_slow=2.0, attention_factor=0.7),
    "mistral": llama(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=None, head_dim=6),
    "qwen2": llama(architectures=["Qwen2ForCausalLM"], model_type="qwen2", tie_word_embeddings=True),
    "qwen3": llama(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=8),
    "gpt2 tied": GPT2,
    "gpt2 untied, inner size": {**GPT2, "tie_word_embeddings": False, "n_inner": 17},
    "mistral with a window": llama(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=7),
    "phi3 by recipe": llama(architectures=["Phi3ForCausalLM"], model_type="phi3", pad_token_id=0),
    "starcoder2 by recipe": {**LLAMA, "architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2",
                             "norm_epsilon": 1e-5, "use_bias": True, "hidden_act": "gelu_pytorch_tanh",
                             "tie_word_embeddings": True, "sliding_window": None},
}

ATTENTION, MLP = "model.layers.{layer}.self_attn.", "model.layers.{layer}.mlp."
RECIPES = {
    "phi3 by recipe": {
        "difflow_recipe": 1, "base": "LlamaForCausalLM", "description": "one matrix for q, k, v and one for gate, up",
        "tensors": {**{ATTENTION + f"{x}_proj": ATTENTION + "qkv_proj" for x in "qkv"},
                    **{MLP + f"{x}_proj": MLP + "gate_up_proj" for x in ("gate", "up")}}},
    "starcoder2 by recipe": {
        "difflow_recipe": 1, "base": "LlamaForCausalLM", "description": "layer norms, a plain feed-forward block, biases",
        "keys": {"rms_norm_eps": "norm_epsilon"},
        "values": {"norm": "layer", "mlp": "plain", "qkv_bias": True, "attention_output_bias": True, "mlp_bias": True},
        "tensors": {MLP + "up_proj": MLP + "c_fc", MLP + "down_proj": MLP + "c_proj"}},
}


def value(name, index):
    """A number in [-1, 1) from FNV-1a of the name and splitmix64 of the index."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 & M
    x = (seed + (index + 1) * 0x9E3779B97F4A7C15) & M
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & M
    x = (x ^ x >> 27) * 0x94D049BB133111EB & M
    return ((x ^ x >> 31) >> 40) / (1 << 23) - 1.0


def fill(name, tensor):
    norm = "norm" in name or ".ln_" in name
    numbers = torch.tensor([value(name, i) for i in range(tensor.numel())], dtype=torch.float64)
    numbers = 1.0 + 0.25 * numbers if norm and name.endswith("weight") else 0.5 * numbers
    tensor.copy_(numbers.to(torch.float32).view_as(tensor))


def logits(config):
    """The model of a config, and what it gives at the kept positions under a causal and a full pattern."""
    fields = {key: config[key] for key in config if key != "architectures"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), attn_implementation="eager")
    model = model.eval().double()
    with torch.no_grad():
        names = {}
        for name, tensor in model.state_dict().items():
            if name == "lm_head.weight" and model.config.tie_word_embeddings:
                continue
            fill(name, tensor)
            names[name] = list(tensor.shape)
        ids = torch.tensor([IDS])
        causal = model(input_ids=ids, use_cache=False).logits[0]
        # Every pair visible, except what lies a window or more to the left (method.md has no windows; difflow keeps them).
        far = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)[None] >= (config.get("sliding_window") or LENGTH)
        bias = torch.zeros(LENGTH, LENGTH).double().masked_fill(far, float("-inf"))
        full = model(input_ids=ids, use_cache=False, attention_mask=bias[None, None]).logits[0]
    keep = lambda logits: [[round(x, 5) for x in logits[at].tolist()] for at in KEPT]
    return names, keep(causal), keep(full)


def main():
    out = {"ids": IDS, "kept": KEPT, "cases": []}
    for title, config in CASES.items():
        tensors, causal, full = logits(config)
        out["cases"].append({"title": title, "config": config, "tensors": tensors, "causal": causal, "full": full})
        if title in RECIPES:
            out["cases"][-1]["recipe"] = RECIPES[title]
    print(json.dumps(out, separators=(",", ":")).replace('{"title"', '\n{"title"'))


if __name__ == "__main__":
    main()
