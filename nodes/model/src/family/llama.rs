//! LLaMA and related models (Mistral, Qwen2, Qwen3): rotary positions, RMS norms, a gated feed-forward block. They
//! differ by flags in config.json (biases, norms of queries and keys, tying).

use super::Names;

pub(super) static NAMES: Names = Names {
    base: "model.",
    embedding: "model.embed_tokens",
    // The family has no learned positions.
    positions: "model.embed_positions",
    norm: "model.norm",
    head: "lm_head",
    layer: "model.layers.{layer}",
    attention_norm: "input_layernorm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    feed_forward_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    in_first: false,
    buffers: &[".rotary_emb.inv_freq"],
};
