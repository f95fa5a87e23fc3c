//! Keys of config.json that change the mathematics in a way that difflow does not compute. Such a key with any value
//! other than what difflow does is an error: otherwise the logits would silently differ from those of `transformers`.
//!
//! The list contains the keys of the supported families and, because recipes describe variants of them, of closely
//! related families. A key that the family's file has read is computed, and not looked at here. A key that is neither listed here nor read anywhere is accepted: it cannot be checked, and most
//! are harmless (token ids, dropout, dtypes, caches, generation options, names). Whatever changes the shapes of
//! tensors needs no entry, because an extra tensor or one of another shape is an error.

use serde_json::Value;

use crate::config_reader::Reader;
use crate::error::ModelError;

/// What a key may say besides null.
#[derive(Clone, Copy)]
enum Neutral {
    Nothing,
    Flag(bool),
    Number(f64),
    AtMost(f64),
}

const KEYS: [(&str, Neutral); 28] = [
    // GPT-2.
    ("scale_attn_weights", Neutral::Flag(true)),
    ("scale_attn_by_inverse_layer_idx", Neutral::Flag(false)),
    ("reorder_and_upcast_attn", Neutral::Flag(false)),
    ("add_cross_attention", Neutral::Flag(false)),
    // Of any family.
    ("use_bidirectional_attention", Neutral::Flag(false)),
    ("quantization_config", Neutral::Nothing),
    ("attn_logit_softcapping", Neutral::Nothing),
    ("final_logit_softcapping", Neutral::Nothing),
    ("query_pre_attn_scalar", Neutral::Nothing),
    ("attention_multiplier", Neutral::Nothing),
    ("clip_qkv", Neutral::Nothing),
    ("attention_chunk_size", Neutral::Nothing),
    ("no_rope_layers", Neutral::Nothing),
    ("alibi", Neutral::Flag(false)),
    ("use_alibi", Neutral::Flag(false)),
    ("parallel_attn", Neutral::Flag(false)),
    ("use_parallel_residual", Neutral::Flag(false)),
    ("partial_rotary_factor", Neutral::Number(1.0)),
    ("rotary_pct", Neutral::Number(1.0)),
    ("embedding_multiplier", Neutral::Number(1.0)),
    ("residual_multiplier", Neutral::Number(1.0)),
    ("logits_scaling", Neutral::Number(1.0)),
    ("logit_scale", Neutral::Number(1.0)),
    ("scale_emb", Neutral::Number(1.0)),
    ("num_experts", Neutral::AtMost(1.0)),
    ("num_local_experts", Neutral::AtMost(1.0)),
    ("n_routed_experts", Neutral::AtMost(1.0)),
    ("router_jitter_noise", Neutral::Number(0.0)),
];

/// Errors if a key asks for something that difflow does not compute.
pub(crate) fn check(r: &Reader) -> Result<(), ModelError> {
    for (key, neutral) in KEYS.into_iter().filter(|(key, _)| !r.has_seen(key)) {
        let Some(value) = r.map.get(key).filter(|value| !value.is_null()) else { continue };
        let (holds, allowed) = match neutral {
            Neutral::Nothing => (false, "null or nothing".to_owned()),
            Neutral::Flag(flag) => (*value == Value::Bool(flag), flag.to_string()),
            Neutral::Number(number) => (value.as_f64() == Some(number), number.to_string()),
            Neutral::AtMost(most) => (value.as_f64().is_some_and(|found| found <= most), format!("at most {most}")),
        };
        r.require(holds, key, &format!("{allowed} (difflow does not compute anything else)"))?;
    }
    Ok(())
}
