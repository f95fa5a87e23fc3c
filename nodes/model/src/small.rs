//! For unit tests: models with random weights, small enough for any test.
#![allow(clippy::unwrap_used)]

use crate::{Device, Model};

/// A LLaMA with fewer heads for keys and values than for queries.
pub const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
    "initializer_range":0.3,"tie_word_embeddings":true}"#;

/// A model of every family that is not LLaMA's or GPT-2's, with all that it has of its own.
pub const FAMILIES: [(&str, &str); 11] = [
    (
        "NeoX",
        r#"{"architectures":["GPTNeoXForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":2,"num_attention_heads":3,"max_position_embeddings":64,"initializer_range":0.3,
        "rotary_pct":0.5}"#,
    ),
    (
        "Phi-3",
        r#"{"architectures":["Phi3ForCausalLM"],"vocab_size":37,"hidden_size":40,"intermediate_size":21,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
        "initializer_range":0.3,"partial_rotary_factor":0.65,"original_max_position_embeddings":64,"sliding_window":9,
        "rope_scaling":{"type":"longrope","short_factor":[1.0,1.3,1.7],"long_factor":[2.0,3.0,4.0]}}"#,
    ),
    (
        "OLMo 2",
        r#"{"architectures":["Olmo2ForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":10,
        "max_position_embeddings":64,"initializer_range":0.3}"#,
    ),
    (
        "Gemma 2",
        r#"{"architectures":["Gemma2ForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":10,
        "max_position_embeddings":64,"initializer_range":0.3,"query_pre_attn_scalar":7,"sliding_window":5,
        "attn_logit_softcapping":1.5,"final_logit_softcapping":3.0}"#,
    ),
    (
        "Gemma 3",
        r#"{"architectures":["Gemma3ForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,
        "max_position_embeddings":64,"initializer_range":0.3,"query_pre_attn_scalar":7,"sliding_window":6,
        "sliding_window_pattern":2,"rope_local_base_freq":50.0}"#,
    ),
    (
        "StableLM",
        r#"{"architectures":["StableLmForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":2,"num_attention_heads":3,"num_key_value_heads":3,"max_position_embeddings":64,
        "initializer_range":0.3,"qk_layernorm":true,"use_parallel_residual":true,"use_qkv_bias":true}"#,
    ),
    (
        "SmolLM3",
        r#"{"architectures":["SmolLM3ForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
        "initializer_range":0.3,"no_rope_layer_interval":2,"use_sliding_window":true,"sliding_window":5}"#,
    ),
    (
        "Granite",
        r#"{"architectures":["GraniteForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
        "initializer_range":0.3,"embedding_multiplier":3.0,"residual_multiplier":0.3,"logits_scaling":1.7,
        "attention_multiplier":0.4}"#,
    ),
    (
        "GPT-2 by layer",
        r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":24,"n_layer":2,"n_head":2,
        "n_positions":64,"initializer_range":0.3,"scale_attn_by_inverse_layer_idx":true}"#,
    ),
    ("Mixtral", MIXTRAL),
    (
        "Qwen3-MoE",
        r#"{"architectures":["Qwen3MoeForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
        "num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,
        "max_position_embeddings":64,"initializer_range":0.3,"moe_intermediate_size":11,"num_experts":7,
        "num_experts_per_tok":3,"mlp_only_layers":[1],"use_sliding_window":true,"sliding_window":9}"#,
    ),
];

/// A model with experts in each layer.
pub const MIXTRAL: &str = r#"{"architectures":["MixtralForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":13,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
    "initializer_range":0.3,"num_local_experts":5,"num_experts_per_tok":2}"#;

/// The model of a config.json.
pub fn model(json: &str) -> Model {
    Model::of_json(json, 7, Device::Cpu).unwrap()
}
