//! GPT-2: learned positions, layer norms with biases, a plain feed-forward block, matrices stored `[in, out]`.

use super::Names;

pub(super) static NAMES: Names = Names {
    base: "transformer.",
    embedding: "transformer.wte",
    positions: "transformer.wpe",
    norm: "transformer.ln_f",
    head: "lm_head",
    layer: "transformer.h.{layer}",
    attention_norm: "ln_1",
    qkv: &["attn.c_attn"],
    // The family has no norms of queries and keys, and no gate.
    q_norm: "attn.q_norm",
    k_norm: "attn.k_norm",
    output: "attn.c_proj",
    feed_forward_norm: "ln_2",
    gate: "mlp.c_gate",
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    in_first: true,
    buffers: &[".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"],
};
