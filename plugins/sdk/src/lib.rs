//! Plug-ins for difflow in safe Rust.
//!
//! A component is a struct of options, made with [`config!`], and the trait of its kind; [`plugin!`] exports it. A
//! component that keeps more than its options, or has options that must fit each other, is any type that implements
//! [`Component`]. A complete noise schedule:
//!
//! ```
//! use difflow_plugin_sdk::{NoiseSchedule, config, plugin};
//!
//! config! {
//!     pub struct Power {
//!         /// Exponent of α = 1 − tᵖ.
//!         power: f64 = 2.0, exclusiveMinimum 0.0;
//!     }
//! }
//!
//! impl NoiseSchedule for Power {
//!     fn alpha(&self, t: f64) -> f64 {
//!         1.0 - t.powf(self.power)
//!     }
//!     fn alpha_derivative(&self, t: f64) -> f64 {
//!         -self.power * t.powf(self.power - 1.0)
//!     }
//! }
//!
//! plugin! {
//!     noise_schedule Power {
//!         id: "org.example.power-noise",
//!         name: "Power",
//!         vendor: "Example",
//!         license: "Apache-2.0",
//!         description: "α = 1 − tᵖ",
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! A panic becomes an error status and poisons that one instance; nothing unwinds into the host.

pub mod annealing;
pub mod batch;
mod batch_read;
mod batch_write;
pub mod component;
pub mod config;
pub mod error;
#[macro_use]
pub mod export;
pub mod instance;
pub mod noise;
pub mod recipe;
pub mod state;
pub mod transform;

pub use annealing::AnnealingSchedule;
pub use batch::{Batch, Column};
pub use component::Component;
pub use config::Config;
pub use difflow_plugin_abi as abi;
pub use error::Error;
pub use noise::NoiseSchedule;
pub use recipe::ModelRecipe;
#[doc(hidden)]
pub use serde_json;
pub use state::State;
pub use transform::BatchTransform;
