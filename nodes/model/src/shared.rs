//! Why a model may be used from several threads at once.
//!
//! `tch::Tensor` is `Send` but not `Sync`: its methods that change a tensor in place can be reached through a
//! `&Tensor` via a shallow clone. Reading one tensor from several threads is fine: libtorch counts references
//! atomically, and whether gradients are recorded is set per thread. So everything that holds the tensors of a model
//! follows one rule:
//!
//! **Through a `&Model` the values of its tensors are only read.** They change through `&mut Model`
//! (`add_mask_token`) and through the `Learner` that owns the model (`&mut self`). What a forward changes is behind a
//! mutex: the tables of the rotary embedding, and a plug-in's instance. That mutex is also held while a plug-in's
//! model is saved, because saving temporarily puts other values into its parameters.

use crate::adapter::Piece;
use crate::layers::Norm;
use crate::model::Model;
use crate::parameter::Parameter;
use crate::weight::Weight;

// SAFETY: the rule above; everything else in it is plain data.
unsafe impl Sync for Weight {}
// SAFETY: as above.
unsafe impl Sync for Norm {}
// SAFETY: as above.
unsafe impl Sync for Piece {}
// SAFETY: as above.
unsafe impl Sync for Parameter {}

/// Fails to compile when a part of the model cannot be sent or shared.
const fn may_be_shared<T: Send + Sync>() {}
const _: () = may_be_shared::<Model>();
