//! Kind: torch model. This crate does not name torch: tensors are the opaque handles of the ABI, which the plug-in's own tch turns
//! into tensors (`tch::Tensor::clone_from_ptr`, `Tensor::into_ptr`).

use std::ffi::{CStr, c_void};

use crate::abi::{self, Status, TorchBuild};
use crate::{Component, Error, instance};

/// A model with its own forward. Everything is called from one thread.
pub trait TorchModel: Component {
    /// The libtorch that this plug-in links, `c"2.11.0"`: compared exactly before a tensor crosses.
    const LIBTORCH: &'static CStr;

    /// Makes the modules: from `weights_dir`, or with random weights keyed by `seed` when it is empty.
    ///
    /// # Errors
    /// When files, device or dtype do not fit.
    fn load(&mut self, weights: &str, device: &str, dtype: &str, vocab_size: u32, seed: u64) -> Result<(), Error>;

    /// Shows every parameter as (name, borrowed handle, trainable), in the same order every time.
    ///
    /// # Errors
    /// What `visit` answers, or when nothing is loaded.
    fn parameters(
        &mut self,
        visit: &mut dyn FnMut(&str, *const abi::Tensor, bool) -> Result<(), Error>,
    ) -> Result<(), Error>;

    /// Logits `[B, L, V]` as an owned handle, from borrowed ids `[B, L]` and bias `[1 or B, 1, L, L]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    fn forward(
        &mut self,
        input_ids: *const abi::Tensor,
        attn_bias: *const abi::Tensor,
        train: bool,
    ) -> Result<*mut abi::Tensor, Error>;

    /// Writes into `dir` what [`load`](Self::load) reads.
    ///
    /// # Errors
    /// When the disk does not take it.
    fn save(&mut self, dir: &str) -> Result<(), Error>;
}

/// The table of `T`.
pub fn table<T: TorchModel>() -> &'static abi::TorchModel {
    const {
        &abi::TorchModel {
            struct_size: size_of::<abi::TorchModel>() as u32,
            built_against: Some(built_against::<T>),
            load: Some(load::<T>),
            parameters: Some(parameters::<T>),
            forward: Some(forward::<T>),
            save: Some(save::<T>),
        }
    }
}

unsafe extern "C" fn built_against<T: TorchModel>() -> *const TorchBuild {
    let build: &'static abi::Static<TorchBuild> = const {
        &abi::Static(TorchBuild {
            struct_size: size_of::<TorchBuild>() as u32,
            libtorch_version: T::LIBTORCH.as_ptr(),
            cxx11_abi: 1,
        })
    };
    &raw const build.0
}

unsafe extern "C" fn load<T: TorchModel>(
    instance: *mut abi::Instance,
    weights: abi::Str,
    device: abi::Str,
    dtype: abi::Str,
    vocab_size: u32,
    seed: u64,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call_mut(instance, error, |model: &mut T, _| {
            let [weights, device, dtype] = [weights, device, dtype].map(|text| instance::text(text));
            model.load(weights?, device?, dtype?, vocab_size, seed)
        })
    }
}

unsafe extern "C" fn parameters<T: TorchModel>(
    instance: *mut abi::Instance,
    visit: Option<abi::ParamVisitor>,
    ctx: *mut c_void,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call_mut(instance, error, |model: &mut T, _| {
            let visit = visit.ok_or_else(|| Error::argument("no visitor"))?;
            model.parameters(&mut |name, tensor, trainable| match visit(
                ctx,
                abi::Str::new(name),
                tensor,
                i32::from(trainable),
            ) {
                abi::OK => Ok(()),
                code => Err(Error::with_code(code, format!("the host did not take parameter `{name}`"))),
            })
        })
    }
}

unsafe extern "C" fn forward<T: TorchModel>(
    instance: *mut abi::Instance,
    input_ids: *const abi::Tensor,
    attn_bias: *const abi::Tensor,
    train: i32,
    out: *mut *mut abi::Tensor,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call_mut(instance, error, |model: &mut T, _| {
            *out = model.forward(input_ids, attn_bias, train != 0)?;
            Ok(())
        })
    }
}

unsafe extern "C" fn save<T: TorchModel>(
    instance: *mut abi::Instance,
    dir: abi::Str,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe { instance::call_mut(instance, error, |model: &mut T, _| model.save(instance::text(dir)?)) }
}
