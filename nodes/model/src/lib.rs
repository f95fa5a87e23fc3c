//! Decoder-only language models for adaptation to diffusion: the only crate that uses torch.
//!
//! Callers see plain memory: token ids are `u32`, batches are [`MicroBatch`], logits are `Vec<f32>`.
//!
//! | to | use |
//! |---|---|
//! | load, make, save | [`Model::load`], [`Model::load_with_recipe`], [`Model::load_torch`], [`Loader`], [`Model::initialise`], [`Model::add_mask_token`], [`Model::save`] |
//! | train | [`Learner::new`], [`Learner::micro_step`], [`Learner::apply`], [`Learner::save`], [`Learner::snapshot`], [`Learner::load_optimizer`] |
//! | train without waiting for the device | [`Learner::start_micro_step`], [`Learner::start_update`], [`Learner::read`] |
//! | evaluate | [`Model::nelbo_sums`], [`Model::ar_sums`], [`Model::continuation_nats`], [`Model::noised_continuation_nats`], [`Model::perplexity`], [`Model::logits`] |
//! | decode | [`Model::decode`] (canvases), [`Model::infill`] (gaps of unknown length), [`Model::generate`] (prompts, KV cache) |
//! | decode step by step | [`Filling`] (canvases, block by block too), [`Writing`] (prompts), [`Speculating`] (prompts, with drafts): join, watch and cancel between forwards |
//! | inspect | [`Summary::read`], [`Memory::of_training`], [`RankMemory::of`] |
//! | look at a device | [`self_test`], [`Profile`], [`DeviceSettings`] |
//! | configure | [`Pattern`], [`ObjectiveOptions`], [`Normaliser`], [`Optimizer`], [`LearningRate`], [`Arithmetic`], [`Device`] |
//!
//! A training step:
//!
//! ```no_run
//! use difflow_model::*;
//! # fn batches() -> Vec<MicroBatch> { Vec::new() }
//! # fn main() -> Result<(), ModelError> {
//! let mut model = Model::load("base".as_ref(), Device::open("auto")?)?;
//! model.add_mask_token(0)?;
//! let options = ObjectiveOptions::recommended(Objective::Diffusion { shift: true });
//! let mut learner = Learner::new(model, options, AdamW::default())?;
//! for (draw, batch) in batches().iter().enumerate() {
//!     let pattern = Pattern::Annealed { ratio: 0.1, seed: 0, draw: draw as u64 };
//!     learner.micro_step(batch, &pattern)?;
//! }
//! let applied = learner.apply(3e-4)?;
//! println!("gradient norm {}", applied.grad_norm);
//! # Ok(())
//! # }
//! ```
//!
//! Reproducibility: the same inputs with the same number of threads ([`set_num_threads`]) give the same bits on the CPU.
//! Random draws are keyed (`difflow_diffusion::keyed`), never taken from torch's generator.
//!
//! Threads: a [`Model`] is `Send` and `Sync`; several threads may decode and score with one `Arc<Model>`.

mod adapter;
mod alignment;
mod arithmetic;
mod attention;
mod average;
mod batch;
mod block;
mod cache;
mod caught;
mod coming;
mod config;
mod config_reader;
mod config_unsupported;
mod continuations;
mod cuda;
mod decode;
mod decoder;
mod device;
mod error;
mod exchange;
mod expected;
mod experts;
mod family;
mod foreign;
mod fused;
mod gathered;
mod group;
mod group_check;
mod head;
mod host;
mod incremental;
mod input;
mod judge;
mod kept_memory;
mod kernel;
mod later;
mod layers;
mod learner;
mod learning_rate;
mod loader;
mod loss;
mod many;
mod mask_token;
mod model;
mod nccl;
mod network;
mod noised_continuations;
mod objective;
mod optimizer;
mod padded;
mod parameter;
mod part;
mod pattern;
pub mod plugin_tests;
mod profile;
mod rank_memory;
mod ranks;
mod recipe;
mod recompute;
mod reducer;
mod released;
mod remote_code;
mod replays;
mod ring;
mod rope;
mod rope_keys;
mod rotary;
mod self_test;
mod shared;
mod shared_file;
mod shares;
mod shim;
mod side_by_side;
pub mod simulated;
#[cfg(test)]
mod small;
mod snapshot;
mod step_sums;
mod sum;
mod summary;
mod tensor_files;
mod tensor_writer;
mod together;
mod torch_model;
mod totals;
mod transport;
mod visibility;
mod weight;
mod whole_texts;

pub use adapter::{AdapterConfig, Targets};
pub use arithmetic::{Arithmetic, Precision};
pub use batch::{MicroBatch, PADDING};
pub use config::{
    Activation, Adapted, Family, HeadNorm, Layer, Mixture, ModelConfig, NormKind, Norms, Positions, Residual,
};
pub use continuations::Continued;
pub use decode::{
    Budget, Caching, Canvas, Checked, Decoded, DiffusionDecoding, Filling, GapLength, Generated, Generation, GoOn,
    Infilled, Measured, Piece, Prompt, Reveal, Revealed, Reveals, Sampling, Score, Speculated, Speculating,
    Speculation, Start, Template, Watch, Watched, Writing, Written,
};
pub use device::{Device, DeviceSettings, num_threads, set_num_threads};
pub use error::ModelError;
pub use expected::Expected;
pub use group::{Exchanged, Group, Meeting, Patience, Place, own_address};
pub use learner::{Applied, GraphUse, Learner, Unread};
pub use learning_rate::{Decay, LearningRate};
pub use loader::{Loader, TorchPlugin, libtorch};
pub use model::Model;
pub use nccl::nccl_library;
pub use noised_continuations::{NoisedContinuation, NoisedContinued};
pub use objective::{Blocks, MaskedSet, Normaliser, Objective, ObjectiveKind, ObjectiveOptions};
pub use optimizer::{AdamW, Muon, Optimizer, StateKind};
pub use pattern::{Context, Pattern};
pub use profile::Profile;
pub use rank_memory::{RankMemory, Team, Trained};
pub use ranks::{Reduction, Sharding, allowed_ranks, exchanged_bytes};
pub use recipe::RECIPE_FILE;
pub use rope::{Rope, RopeScaling};
pub use self_test::{Compared, self_test};
pub use snapshot::Snapshot;
pub use step_sums::{RowSums, StepSums, Sums};
pub use summary::{Memory, Summary};
pub use tensor_writer::SavedFile;
pub use totals::Totals;
pub use transport::{Route, Transport};
