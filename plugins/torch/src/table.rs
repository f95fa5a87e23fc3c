//! The function table of a torch model: handles and C strings on one side, tch and Rust on the other.

use std::error::Error as StdError;
use std::ffi::c_void;
use std::path::Path;

use difflow_plugin_sdk::abi::{self, Status};
use difflow_plugin_sdk::{Error, instance};
use tch::{Device, Kind, Tensor};

use crate::{Source, TorchModel};

static BUILD: abi::Static<abi::TorchBuild> = abi::Static(abi::TorchBuild {
    struct_size: size_of::<abi::TorchBuild>() as u32,
    libtorch_version: concat!(env!("DIFFLOW_LIBTORCH"), "\0").as_ptr().cast(),
    cxx11_abi: (env!("DIFFLOW_CXX11_ABI").as_bytes()[0] == b'1') as i32,
});

/// The table of `T`.
pub fn table<T: TorchModel>() -> &'static abi::TorchModel {
    const {
        &abi::TorchModel {
            struct_size: size_of::<abi::TorchModel>() as u32,
            built_against: Some(built_against),
            load: Some(load::<T>),
            parameters: Some(parameters::<T>),
            forward: Some(forward::<T>),
            save: Some(save::<T>),
            set_vocab_size: Some(set_vocab_size::<T>),
        }
    }
}

/// An error of any kind as one of the SDK: its own stays as it is, of others the first line is kept (C++ appends its stack).
fn failed(error: Box<dyn StdError>) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => *own,
        Err(other) => Error::argument(other.to_string().lines().next().unwrap_or_default()),
    }
}

extern "C-unwind" fn built_against() -> *const abi::TorchBuild {
    &raw const BUILD.0
}

/// # Safety
/// As the header says of `load`.
unsafe extern "C-unwind" fn load<T: TorchModel>(
    instance: *mut abi::Instance,
    weights_dir: abi::Str,
    device: abi::Str,
    dtype: abi::Str,
    seed: u64,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call_mut(instance, error, |model: &mut T, _| {
            let (dir, device, dtype) = (instance::text(weights_dir)?, instance::text(device)?, instance::text(dtype)?);
            let device = match device.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(number)) => Device::Cuda(number),
                _ if device == "cpu" => Device::Cpu,
                _ => return Err(Error::argument(format!("device `{device}`; known: cpu, cuda:N"))),
            };
            let kind = match dtype {
                "f32" => Kind::Float,
                "bf16" => Kind::BFloat16,
                other => return Err(Error::argument(format!("dtype `{other}`; known: f32, bf16"))),
            };
            let weights = (!dir.is_empty()).then(|| Path::new(dir));
            model.load(&Source { weights, device, kind, seed }).map_err(failed)
        })
    }
}

/// # Safety
/// As the header says of `parameters`.
unsafe extern "C-unwind" fn parameters<T: TorchModel>(
    instance: *mut abi::Instance,
    visit: Option<abi::ParameterVisitor>,
    ctx: *mut c_void,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract; handles live through the call.
    unsafe {
        instance::call(instance, error, |model: &T, _| {
            let visit = visit.ok_or_else(|| Error::argument("no visitor"))?;
            for (name, tensor) in model.parameters() {
                match visit(ctx, abi::Str::new(name), tensor.as_ptr().cast(), i32::from(model.is_trained(name))) {
                    abi::OK => {}
                    code => return Err(Error::with_code(code, format!("the host did not take parameter `{name}`"))),
                }
            }
            Ok(())
        })
    }
}

/// # Safety
/// As the header says of `forward`.
unsafe extern "C-unwind" fn forward<T: TorchModel>(
    instance: *mut abi::Instance,
    input_ids: *const abi::Tensor,
    attn_bias: *const abi::Tensor,
    train: i32,
    out: *mut *mut abi::Tensor,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host passes live at::Tensor objects of this very libtorch and a place for one.
    unsafe {
        instance::call_mut(instance, error, |model: &mut T, _| {
            let borrowed = |tensor: *const abi::Tensor| Tensor::clone_from_ptr(tensor.cast_mut().cast());
            let (ids, bias) = (borrowed(input_ids), borrowed(attn_bias));
            let mut logits = model.forward(&ids, &bias, train != 0).map_err(failed)?;
            *out = logits.as_mut_ptr().cast();
            // The host owns it now.
            std::mem::forget(logits);
            Ok(())
        })
    }
}

/// # Safety
/// As the header says of `save`.
unsafe extern "C-unwind" fn save<T: TorchModel>(
    instance: *mut abi::Instance,
    dir: abi::Str,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call(instance, error, |model: &T, _| model.save(Path::new(instance::text(dir)?)).map_err(failed))
    }
}

/// # Safety
/// As the header says of `set_vocab_size`.
unsafe extern "C-unwind" fn set_vocab_size<T: TorchModel>(
    instance: *mut abi::Instance,
    size: u64,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call_mut(instance, error, |model: &mut T, _| {
            let size = i64::try_from(size).map_err(|_| Error::argument("a vocabulary beyond 2^63 tokens"))?;
            model.set_vocab_size(size).map_err(failed)
        })
    }
}
