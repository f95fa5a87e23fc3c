"""Makes transformers.json: logits of small models with made-up weights, computed in fp64 by `transformers`, that
tests/model/goldens.rs compares difflow's with. Weights are a formula of tensor name and index, so none are stored.

    pip install torch transformers && python make.py > transformers.json
"""
import json

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

M = (1 << 64) - 1
NEWER = int(transformers.__version__.split(".")[0]) >= 5
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


def like(model_type, name, **changes):
    """A small model of a family that is spelled as LLaMA is."""
    return {**LLAMA, "architectures": [f"{name}ForCausalLM"], "model_type": model_type, **changes}


def longrope(count, **more):
    return {"rope_type": "longrope", "short_factor": [1.0 + 0.3 * i for i in range(count)],
            "long_factor": [1.5 + 0.7 * i for i in range(count)], **more}


def su(count):
    """The same as Phi-3's files spell it."""
    scaling = longrope(count)
    return {"type": scaling.pop("rope_type"), **scaling}


NEOX = dict(architectures=["GPTNeoXForCausalLM"], model_type="gpt_neox", vocab_size=37, hidden_size=24, intermediate_size=21,
            num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=64, layer_norm_eps=1e-5)
STABLE = like("stablelm", "StableLm", num_attention_heads=3, num_key_value_heads=3, intermediate_size=21, layer_norm_eps=1e-5,
              pad_token_id=0)
PHI3 = like("phi3", "Phi3", intermediate_size=21, head_dim=6, pad_token_id=0)
OLMO2 = like("olmo2", "Olmo2", intermediate_size=21, head_dim=10, pad_token_id=0)
GEMMA2 = like("gemma2", "Gemma2", intermediate_size=21, num_hidden_layers=3, head_dim=10, query_pre_attn_scalar=7, sliding_window=5,
              hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, pad_token_id=0, bos_token_id=2, eos_token_id=1)
GEMMA3 = {**GEMMA2, "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "num_hidden_layers": 4}
SMOLLM3 = like("smollm3", "SmolLM3", intermediate_size=21, num_hidden_layers=5, pad_token_id=0, bos_token_id=1, eos_token_id=2)
GRANITE = like("granite", "Granite", intermediate_size=21, embedding_multiplier=3.0, residual_multiplier=0.3, logits_scaling=1.7,
               attention_multiplier=0.4)

MIXTRAL = like("mixtral", "Mixtral", intermediate_size=13, num_local_experts=5, num_experts_per_tok=2)
QWEN3_MOE = like("qwen3_moe", "Qwen3Moe", intermediate_size=21, moe_intermediate_size=11, num_experts=7, num_experts_per_tok=3, head_dim=6)

# One of every family, with the values that its config class has where a key is left out.
FAMILIES = {"gpt-neox": NEOX, "phi-3": PHI3, "olmo 2": OLMO2, "gemma 2": GEMMA2, "gemma 3": GEMMA3, "stablelm": STABLE,
            "smollm3": SMOLLM3, "granite": GRANITE, "mixtral": MIXTRAL, "qwen3-moe": QWEN3_MOE}
# And their options.
NEW = {
    **FAMILIES,
    "gpt-neox one half after the other, no biases": {**NEOX, "use_parallel_residual": False, "attention_bias": False,
                                                      "hidden_act": "gelu_new", "rotary_pct": 0.5, "rotary_emb_base": 500},
    "gpt-neox tied, whole heads turned, scaled": {**NEOX, "tie_word_embeddings": True, "rope_parameters": {
        "rope_type": "linear", "factor": 3.0, "rope_theta": 300.0, "partial_rotary_factor": 1.0}},
    "phi-3 longrope, short, partial": {**PHI3, "hidden_size": 40, "head_dim": 10, "partial_rotary_factor": 0.65,
                                       "original_max_position_embeddings": 32, "rope_scaling": su(3)},
    "phi-3 longrope, long, partial, a window": {**PHI3, "hidden_size": 40, "head_dim": 10, "partial_rotary_factor": 0.65, "sliding_window": 6,
                                                "original_max_position_embeddings": 8, "rope_scaling": su(3)},
    "phi-3 longrope as transformers 5 spells it": {**PHI3, "original_max_position_embeddings": 8, "rope_parameters":
                                                   longrope(3, rope_theta=900.0, original_max_position_embeddings=8)},
    "phi-3 longrope with its own factor": {**PHI3, "original_max_position_embeddings": 8, "tie_word_embeddings": True,
                                           "rope_scaling": longrope(3, attention_factor=1.3)},
    "olmo 2 one kv head, biases": {**OLMO2, "num_key_value_heads": 1, "attention_bias": True, "rope_theta": 500.0},
    "gemma 2 without caps, windows by layer_types": {**GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None,
        "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
    "gemma 2 low caps": {**GEMMA2, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 3.0, "attention_bias": True},
    "gemma 3 pattern, caps, scaled": {**GEMMA3, "sliding_window_pattern": 2, "final_logit_softcapping": 5.0,
        "rope_theta": 700.0, "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "gemma 3 as transformers 5 spells it": {**GEMMA3, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 60.0},
                            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 800.0}}},
    "stablelm heads normed, side by side": {**STABLE, "num_key_value_heads": 1, "qk_layernorm": True, "use_parallel_residual": True,
                                            "use_qkv_bias": True, "partial_rotary_factor": 0.5},
    "stablelm heads normed, tied": {**STABLE, "qk_layernorm": True, "tie_word_embeddings": True, "rope_theta": 500.0},
    "smollm3 windows without positions": {**SMOLLM3, "use_sliding_window": True, "sliding_window": 4, "no_rope_layer_interval": 2},
    "smollm3 untied, layers by lists": {**SMOLLM3, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True,
        "num_hidden_layers": 3, "no_rope_layers": [0, 1, 1], "sliding_window": 6, "use_sliding_window": True,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "mixtral a window, one expert a token, tied": {**MIXTRAL, "sliding_window": 6, "num_experts_per_tok": 1, "tie_word_embeddings": True,
                                                   "rope_theta": 500.0},
    "mixtral all experts, another activation": {**MIXTRAL, "num_local_experts": 3, "num_experts_per_tok": 3, "hidden_act": "gelu",
                                                "head_dim": 10},
    "qwen3-moe normed, a window, biases": {**QWEN3_MOE, "norm_topk_prob": True, "use_sliding_window": True, "sliding_window": 5,
                                           "attention_bias": True},
    "qwen3-moe every other layer, tied": {**QWEN3_MOE, "decoder_sparse_step": 2, "tie_word_embeddings": True, "num_hidden_layers": 3},
    "qwen3-moe layers without experts": {**QWEN3_MOE, "mlp_only_layers": [0, 2], "num_hidden_layers": 3, "norm_topk_prob": True},
    "granite tied, biases": {**GRANITE, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
}


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
    "qwen2 with windows in some layers": llama(architectures=["Qwen2ForCausalLM"], model_type="qwen2", use_sliding_window=True,
                                               sliding_window=5, max_window_layers=1),
    "qwen3 with windows by layer_types": llama(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=6,
                                               use_sliding_window=True, sliding_window=4,
                                               layer_types=["sliding_attention", "full_attention"]),
    "gpt2, scores by layer": {**GPT2, "scale_attn_by_inverse_layer_idx": True},
    "gpt2, scores as they are": {**GPT2, "scale_attn_weights": False},
    "gpt2, scores by layer only": {**GPT2, "scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
    "llama longrope": llama(max_position_embeddings=32, rope_scaling=longrope(3, factor=2.0, original_max_position_embeddings=16)),
    **NEW,
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


def in_files(config, name, tensor):
    """The names in files, and the parts, of a tensor of a module: some have other names since `transformers` 5, and experts are stacked."""
    if config["model_type"] == "gpt_neox":
        return [(name.replace("lm_head", "embed_out"), tensor)]
    if config["model_type"] == "mixtral":
        name = name.replace(".mlp.", ".block_sparse_moe.")
    own = {"mixtral": ("w1", "w3", "w2")}.get(config["model_type"], ("gate_proj", "up_proj", "down_proj"))
    stem, _, part = name.rpartition(".experts.")
    if part == "gate_up_proj":
        parts = [(own[0], own[1], both.chunk(2)) for both in tensor]
        return [(f"{stem}.experts.{at}.{name}.weight", half) for at, (gate, up, both) in enumerate(parts)
                for name, half in zip((gate, up), both)]
    if part == "down_proj":
        return [(f"{stem}.experts.{at}.{own[2]}.weight", one) for at, one in enumerate(tensor)]
    return [(name, tensor)]


def build(config, dtype=torch.float64):
    """The model of a config with the weights of the formula, and the shapes of its tensors."""
    # Objects are copied: `transformers` changes them.
    fields = json.loads(json.dumps({key: config[key] for key in config if key != "architectures"}))
    # The products of experts that `transformers` 5 prefers know no fp64.
    how = {"experts_implementation": "eager"} if config["model_type"] in ("mixtral", "qwen3_moe") and NEWER else {}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), attn_implementation="eager", **how)
    model, names = model.eval().to(dtype), {}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name == "lm_head.weight" and model.config.tie_word_embeddings:
                continue
            for name, part in in_files(config, name, tensor):
                fill(name, part)
                names[name] = list(part.shape)
    return model, names


def full_mask(config, dtype=torch.float64):
    """Every pair visible, except what lies a window or more to the left (method.md has no windows; difflow keeps them)."""
    window = getattr(config, "sliding_window", None) or LENGTH
    far = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)[None] >= window
    whole = torch.zeros(1, 1, LENGTH, LENGTH, dtype=dtype)
    cut = whole.masked_fill(far, float("-inf"))
    if getattr(config, "layer_types", None):
        return {"full_attention": whole, "sliding_attention": cut}
    return cut


def logits(config):
    """The shapes of a config's model, and what it gives at the kept positions under a causal and a full pattern."""
    model, names = build(config)
    with torch.no_grad():
        ids = torch.tensor([IDS])
        causal = model(input_ids=ids, use_cache=False).logits[0]
        full = model(input_ids=ids, use_cache=False, attention_mask=full_mask(model.config)).logits[0]
    keep = lambda logits: [[float(f"{x:.7g}") for x in logits[at].tolist()] for at in KEPT]
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
