"""Makes config_keys.json: for every supported family a small model, and the same with one key of config.json after the other changed,
with the logits that `transformers` gives then. tests/model/config_keys.rs: difflow gives the same ones, or refuses the key by name.

    pip install torch transformers && python config_keys.py > config_keys.json
"""
import json

from make import GPT2, KEPT, IDS, llama, logits
from transformers import AutoConfig

# Keys that only some families have, those of families near them, and those whose values are not to be guessed from their kind.
OWN = {
    "use_sliding_window": [{"use_sliding_window": True, "sliding_window": 3, "max_window_layers": n} for n in (0, 1, 2)]
    + [{"use_sliding_window": True, "sliding_window": 3}],
    "layer_types": [{"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 3, "use_sliding_window": True},
                    {"layer_types": ["sliding_attention"] * 2, "sliding_window": 3, "use_sliding_window": True},
                    {"layer_types": ["full_attention"] * 2}],
    "sliding_window": [{"sliding_window": 3}, {"sliding_window": None}],
    "hidden_act": [{"hidden_act": act} for act in ("gelu", "gelu_new", "relu", "tanh", "gelu_10", "quick_gelu")],
    "activation_function": [{"activation_function": act} for act in ("gelu", "relu", "silu", "tanh", "gelu_fast")],
    "rope_parameters": [{"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}}],
    "rope_theta": [{"rope_theta": 100.0}],
    "partial_rotary_factor": [{"partial_rotary_factor": 0.5}],
    "num_attention_heads": [{"num_attention_heads": 2}],
    "num_key_value_heads": [{"num_key_value_heads": n} for n in (1, 4)],
    "head_dim": [{"head_dim": 10}],
    "n_head": [{"n_head": 2}],
    "n_embd": [{"n_embd": 24}],
    "n_inner": [{"n_inner": 17}],
    "hidden_size": [{"hidden_size": 48}],
    **{key: [{key: True}] for key in ("attention_bias", "mlp_bias", "qkv_bias", "use_qk_norm", "qk_norm", "use_alibi")},
    **{key: [{key: 5.0}] for key in ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "residual_multiplier")},
    "is_causal": [{"is_causal": False}],
    "num_experts": [{"num_experts": 4}],
}
LEFT = {"vocab_size", "model_type", "_name_or_path", "architectures", "transformers_version", "dtype", "id2label", "label2id",
        "bos_token_id", "eos_token_id", "pad_token_id"}
FAMILIES = {
    "llama": llama(),
    "mistral": llama(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=7),
    "qwen2": llama(architectures=["Qwen2ForCausalLM"], model_type="qwen2"),
    "qwen3": llama(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=6),
    "gpt2": GPT2,
}


def changes(key, value):
    if key in OWN:
        return OWN[key]
    if isinstance(value, bool):
        return [{key: not value}]
    if isinstance(value, (int, float)):
        return [{key: value + 1}]
    return [{key: True}] if value is None else []


families = []
for name, config in FAMILIES.items():
    tensors, causal, _ = logits(config)
    family = {"name": name, "config": config, "tensors": tensors, "causal": causal, "changes": []}
    known = AutoConfig.for_model(**{key: config[key] for key in config if key != "architectures"}).to_dict()
    for key in sorted((set(known) | set(OWN)) - LEFT):
        for change in changes(key, known.get(key)):
            try:
                found, changed, _ = logits({**config, **change})
            except Exception:
                continue  # transformers refuses it, or cannot compute it.
            entry = {"key": key, "change": change}
            if found != tensors:
                entry["tensors"] = found
            if changed != causal:
                entry["causal"] = changed
            family["changes"].append(entry)
    families.append(family)
print(json.dumps({"ids": IDS, "kept": KEPT, "families": families}, separators=(",", ":")).replace('{"key"', '\n{"key"'))
