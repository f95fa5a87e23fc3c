//! A panic inside a torch model: the host gets a status, and that instance is not entered again.

#![allow(clippy::unwrap_used)]

use std::ffi::c_void;
use std::path::Path;
use std::ptr::{null, null_mut};

use difflow_plugin_sdk::abi::{self, Status};
use difflow_plugin_sdk::{Component, Error, instance};
use difflow_plugin_torch::tch::{Device, Kind, Tensor};
use difflow_plugin_torch::{Result, Source, TorchModel, table};

struct Fragile;

impl Component for Fragile {
    type Config = ();

    fn create((): ()) -> std::result::Result<Self, Error> {
        Ok(Self)
    }
}

impl TorchModel for Fragile {
    fn load(&mut self, _: &Source) -> Result<()> {
        panic!("load")
    }
    fn parameters(&self) -> Vec<(&str, &Tensor)> {
        panic!("parameters")
    }
    fn forward(&mut self, _: &Tensor, _: &Tensor, _: bool) -> Result<Tensor> {
        // As tch does in functions that are not called f_….
        Ok(Tensor::from_slice(&[1.0]).view([2]))
    }
    fn save(&self, _: &Path) -> Result<()> {
        panic!("save")
    }
    fn set_vocab_size(&mut self, _: i64) -> Result<()> {
        panic!("set_vocab_size")
    }
}

/// Calls twice on one new instance: a panic, then a poisoned instance.
fn poisons(function: &str, call: impl Fn(*mut abi::Instance) -> Status) {
    let mut made = null_mut();
    // SAFETY: a place for an instance, and no error struct.
    let status = unsafe { instance::create::<Fragile>(abi::Str::new("{}"), &raw mut made, null_mut()) };
    assert_eq!(status, abi::OK);
    assert_eq!(call(made), abi::ERR_PANIC, "{function}");
    assert_eq!(call(made), abi::ERR_INVALID_STATE, "{function}, again");
    // SAFETY: made above, not used again.
    unsafe { instance::destroy(made) };
}

extern "C-unwind" fn visit(_: *mut c_void, _: abi::Str, _: *const abi::Tensor, _: i32) -> Status {
    abi::OK
}

#[test]
fn a_panic_in_any_function_is_a_status() {
    let (torch, text) = (table::<Fragile>(), abi::Str::new);
    let tensor = Tensor::zeros([1, 1], (Kind::Int64, Device::Cpu));
    let handle: *const abi::Tensor = tensor.as_ptr().cast();
    // SAFETY: an instance of the table's type, and arguments as the header says; so are those below.
    poisons("load", |instance| unsafe {
        torch.load.unwrap()(instance, text(""), text("cpu"), text("f32"), 0, null_mut())
    });
    // SAFETY: as above.
    poisons("parameters", |instance| unsafe {
        torch.parameters.unwrap()(instance, Some(visit), null_mut(), null_mut())
    });
    poisons("forward", |instance| {
        let mut out = null_mut();
        // SAFETY: as above.
        let status = unsafe { torch.forward.unwrap()(instance, handle, handle, 0, &raw mut out, null_mut()) };
        assert!(out.is_null());
        status
    });
    // SAFETY: as above.
    poisons("save", |instance| unsafe { torch.save.unwrap()(instance, text("."), null_mut()) });
    // SAFETY: as above.
    poisons("set_vocab_size", |instance| unsafe { torch.set_vocab_size.unwrap()(instance, 9, null_mut()) });
}

#[test]
fn the_table_says_which_libtorch_it_was_compiled_against() {
    // SAFETY: a function without arguments that gives static data.
    let build = unsafe { table::<Fragile>().built_against.unwrap()() };
    assert_ne!(build, null());
    // SAFETY: static data with a C string.
    let version = unsafe { std::ffi::CStr::from_ptr((*build).libtorch_version) }.to_str().unwrap();
    assert_eq!(version.split('.').filter(|part| part.parse::<u32>().is_ok()).count(), 3, "{version}");
}
