//! What distinguishes families of models once config.json is read: the names under which they store the parts of a
//! decoder. A family is a table; the parts themselves are the same for all (`block.rs`, `layers.rs`).

mod gpt2;
mod llama;

use crate::config::Family;

/// The names of a family's tensors, without `.weight` and `.bias`. Those of a block come after `layer`, in which `{layer}` stands for
/// its number.
#[derive(Debug)]
pub(crate) struct Names {
    /// What the files of a bare model (`GPT2Model`, `LlamaModel`) leave out at the beginning of a name.
    pub base: &'static str,
    pub embedding: &'static str,
    /// Learned positions.
    pub positions: &'static str,
    pub norm: &'static str,
    pub head: &'static str,
    pub layer: &'static str,
    pub attention_norm: &'static str,
    /// Queries, keys and values: one name for all, or one for each.
    pub qkv: &'static [&'static str],
    pub q_norm: &'static str,
    pub k_norm: &'static str,
    pub output: &'static str,
    pub feed_forward_norm: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    /// Matrices of blocks are stored `[in, out]` (Conv1D), not `[out, in]`.
    pub in_first: bool,
    /// Endings of tensors in old files that nothing reads.
    pub buffers: &'static [&'static str],
}

impl Names {
    /// The name of a part of block `layer`.
    pub fn of_layer(&self, layer: usize, part: &str) -> String {
        format!("{}.{part}", self.layer.replace("{layer}", &layer.to_string()))
    }
}

impl Family {
    /// The family's table. A plug-in's model, whose names are its own, is never asked.
    pub(crate) fn names(self) -> &'static Names {
        match self {
            Self::Gpt2 => &gpt2::NAMES,
            Self::Llama | Self::Foreign => &llama::NAMES,
        }
    }
}

/// A name as the files of a bare model have it.
pub(crate) fn without_base(name: &str) -> &str {
    let tables = [&gpt2::NAMES, &llama::NAMES];
    tables.iter().find_map(|names| name.strip_prefix(names.base)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_blocks_are_those_of_the_files() {
        let (llama, gpt2) = (Family::Llama.names(), Family::Gpt2.names());
        assert_eq!(llama.of_layer(11, llama.qkv[1]), "model.layers.11.self_attn.k_proj");
        assert_eq!(gpt2.of_layer(3, gpt2.qkv[0]), "transformer.h.3.attn.c_attn");
        assert_eq!(without_base("transformer.wte.weight"), "wte.weight");
        assert_eq!(without_base("lm_head.weight"), "lm_head.weight");
    }
}
