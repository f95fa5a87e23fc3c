//! The mathematics of masked diffusion that needs neither torch nor dora: the draw of t,
//! masking, and the keyed random numbers that make every batch a pure function of its sequence number.
//!
//! Source of the formulas: arXiv 2410.17891 and its public code.

pub mod blocks;
pub mod context;
pub mod keyed;
pub mod masking;
pub mod timestep;

pub use blocks::BlockSizes;
pub use timestep::TimestepDraw;

/// Training never draws t below this: the linear schedule's loss weight 1/t would grow without bound (paper's code: 1e-3).
pub const MIN_T: f64 = 1e-3;
