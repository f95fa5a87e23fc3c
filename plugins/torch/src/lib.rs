//! Torch models as plug-ins in safe Rust: a base model with its own forward pass. Implement [`TorchModel`] together
//! with [`Component`](difflow_plugin_sdk::Component) and export it with `plugin! { torch_model Type { … } }`.
//! `plugins/plain-llama` is a complete example.
//!
//! The library must be compiled against the same libtorch as the difflow that loads it: `LIBTORCH` points to the same
//! folder (`. bin/env.sh` of the checkout sets it). Both share the tensors, so what the host's optimizer writes is
//! what the next forward reads.

mod table;

use std::error::Error as StdError;
use std::path::Path;

use difflow_plugin_sdk::Component;
use tch::{Device, Kind, Tensor};

pub use table::table;
pub use tch;

/// What a torch model answers; `?` takes errors of tch, of files and of the SDK alike.
pub type Result<T> = std::result::Result<T, Box<dyn StdError>>;

/// What `load` is told.
#[derive(Debug)]
pub struct Source<'a> {
    /// A folder with config.json and weights; `None`: a small model of the options' size with random weights.
    pub weights: Option<&'a Path>,
    /// Where the parameters go.
    pub device: Device,
    /// Of matrix products and attention, fp32 or bf16; parameters are fp32 either way.
    pub kind: Kind,
    /// Of random weights.
    pub seed: u64,
}

/// A base model with its own forward. The header says exactly what each function must do.
pub trait TorchModel: Component {
    /// Reads the weights, or makes some. Called once, before everything else.
    ///
    /// # Errors
    /// When they cannot be read.
    fn load(&mut self, source: &Source) -> Result<()>;

    /// Every parameter with its name, always in the same order: fp32, contiguous, of one dimension at least.
    fn parameters(&self) -> Vec<(&str, &Tensor)>;

    /// Whether the parameter of this name is trained.
    fn is_trained(&self, _name: &str) -> bool {
        true
    }

    /// Logits `[B, L, V]` of `input_ids` `[B, L]` (i64); those of position i are for the token at i + 1. `attn_bias` `[1 or B, 1, L, L]`
    /// (0 or −∞, in the kind of [`Source`]) is to be added to the scores of every attention.
    ///
    /// # Errors
    /// When libtorch refuses something.
    fn forward(&mut self, input_ids: &Tensor, attn_bias: &Tensor, train: bool) -> Result<Tensor>;

    /// Writes config.json and weights that `load` reads into an existing folder.
    ///
    /// # Errors
    /// When they cannot be written.
    fn save(&self, dir: &Path) -> Result<()>;

    /// Gives every parameter with a row for each token new rows at its end, up to `size`; [`grown`] does it for one. Without this
    /// function the mask token must be one of the vocabulary.
    ///
    /// # Errors
    /// When the model cannot grow.
    fn set_vocab_size(&mut self, _size: i64) -> Result<()> {
        Err("this model's vocabulary cannot grow; set MASK_TOKEN to the id of a token that it has".into())
    }
}

/// A matrix with rows up to `size`, the new ones zero: the host fills them.
///
/// # Errors
/// When it has more rows already.
pub fn grown(rows: &Tensor, size: i64) -> Result<Tensor> {
    let found = rows.size();
    let new = Tensor::f_zeros([size - found[0], found[1]], (rows.kind(), rows.device()))?;
    Ok(Tensor::f_cat(&[rows.f_detach()?, new], 0)?)
}
