//! Small models with random weights, and batches to feed them.

use std::path::Path;

use difflow_model::{Device, MicroBatch, Model};
use tempfile::TempDir;

pub const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":16,"intermediate_size":24,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
    "initializer_range":0.3,"tie_word_embeddings":true,"bos_token_id":1,"eos_token_id":2}"#;

pub const GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":16,"n_layer":2,"n_head":4,
    "n_positions":64,"initializer_range":0.3,"bos_token_id":1,"eos_token_id":2}"#;

pub const QWEN3: &str = r#"{"architectures":["Qwen3ForCausalLM"],"vocab_size":37,"hidden_size":16,"intermediate_size":24,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":6,"max_position_embeddings":64,
    "initializer_range":0.3,"attention_bias":true}"#;

/// Models of families with windows, embeddings and scales of their own in some layers, and LongRoPE that changes at 16 tokens.
pub const OTHERS: [&str; 6] = [
    r#"{"architectures":["GPTNeoXForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,"num_hidden_layers":2,
        "num_attention_heads":3,"max_position_embeddings":64,"initializer_range":0.3,"rotary_pct":0.5}"#,
    r#"{"architectures":["Phi3ForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,"num_hidden_layers":2,
        "num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,"initializer_range":0.3,
        "original_max_position_embeddings":16,
        "rope_scaling":{"type":"longrope","short_factor":[1.0,1.3,1.7],"long_factor":[2.0,3.0,4.0]}}"#,
    r#"{"architectures":["Gemma2ForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,"num_hidden_layers":3,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":10,"max_position_embeddings":64,"initializer_range":0.3,
        "query_pre_attn_scalar":7,"sliding_window":5,"attn_logit_softcapping":1.5,"final_logit_softcapping":3.0}"#,
    r#"{"architectures":["Gemma3ForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,"num_hidden_layers":3,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,"max_position_embeddings":64,"initializer_range":0.3,
        "query_pre_attn_scalar":7,"sliding_window":6,"sliding_window_pattern":2,"rope_local_base_freq":50.0}"#,
    MIXTRAL,
    QWEN3_MOE,
];

pub const MIXTRAL: &str = r#"{"architectures":["MixtralForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":13,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,"initializer_range":0.3,
    "num_local_experts":5,"num_experts_per_tok":2}"#;

/// Experts in two of three layers, whose shares are not divided by their sum.
pub const QWEN3_MOE: &str = r#"{"architectures":["Qwen3MoeForCausalLM"],"vocab_size":37,"hidden_size":24,"intermediate_size":21,
    "num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":6,"max_position_embeddings":64,
    "initializer_range":0.3,"moe_intermediate_size":11,"num_experts":7,"num_experts_per_tok":3,"mlp_only_layers":[1],
    "use_sliding_window":true,"sliding_window":9}"#;

/// A directory with only a config.json.
pub fn config_dir(json: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("config.json"), json).unwrap();
    dir
}

/// A model with random weights; `mask` adds the mask token (id 37).
pub fn model(json: &str, mask: bool) -> Model {
    // Small operations beside other tests: threads would mostly wait for each other, a hundred times as long as they compute.
    difflow_model::set_num_threads(1);
    let dir = config_dir(json);
    let mut model = Model::initialise(dir.path(), 7, Device::Cpu).unwrap();
    if mask {
        model.add_mask_token(7).unwrap();
    }
    model
}

/// Reproducible token ids in 3..37.
pub fn tokens(n: usize, salt: u64) -> Vec<u32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..n).map(|_| 3 + (next() >> 33) as u32 % 34).collect()
}

/// A noised batch: about half of what is maskable is masked, weights differ by row.
pub fn noised(rows: usize, length: usize, salt: u64) -> MicroBatch {
    let mut batch = MicroBatch::clean(rows, length, tokens(rows * length, salt));
    let coins = tokens(rows * length, salt + 1000);
    for (i, coin) in coins.iter().enumerate() {
        batch.masked[i] = batch.maskable[i] && coin % 2 == 0;
    }
    batch.weights = (0..rows).map(|row| 1.0 + row as f64 / 3.0).collect();
    batch
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// Largest absolute difference; NaN when there is one.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |a, b| if a >= b { a } else { b })
}
