//! A model recipe as a plug-in: a LLaMA with different names in its files, as models written from scratch often have
//! (`n_embd`, `blocks.3.attn.q`).

use difflow_plugin_sdk::{ModelRecipe, config, plugin};

config! {
    pub struct Renamed {}
}

impl ModelRecipe for Renamed {
    fn recipe(&self) -> &str {
        r#"{
            "difflow_recipe": 1,
            "description": "LLaMA with short names",
            "base": "LlamaForCausalLM",
            "keys": {
                "hidden_size": "n_embd", "intermediate_size": "n_ffn", "num_hidden_layers": "n_layer",
                "num_attention_heads": "n_head", "num_key_value_heads": "n_kv_head"
            },
            "tensors": {
                "model.embed_tokens": "embed",
                "model.layers.{layer}.input_layernorm": "blocks.{layer}.norm1",
                "model.layers.{layer}.self_attn.q_proj": "blocks.{layer}.attn.q",
                "model.layers.{layer}.self_attn.k_proj": "blocks.{layer}.attn.k",
                "model.layers.{layer}.self_attn.v_proj": "blocks.{layer}.attn.v",
                "model.layers.{layer}.self_attn.o_proj": "blocks.{layer}.attn.out",
                "model.layers.{layer}.post_attention_layernorm": "blocks.{layer}.norm2",
                "model.layers.{layer}.mlp.gate_proj": "blocks.{layer}.ffn.gate",
                "model.layers.{layer}.mlp.up_proj": "blocks.{layer}.ffn.up",
                "model.layers.{layer}.mlp.down_proj": "blocks.{layer}.ffn.down",
                "model.norm": "norm"
            }
        }"#
    }
}

plugin! {
    model_recipe Renamed {
        id: "org.difflow.examples.renamed-llama",
        name: "Renamed LLaMA",
        vendor: "difflow",
        license: "Apache-2.0",
        description: "Reads a LLaMA whose configuration and tensors have short names"
    }
}
