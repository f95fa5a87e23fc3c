//! A panic inside a component: the host gets a status and a message, that instance is not entered again, others go on.

#![allow(clippy::unwrap_used)]

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use difflow_plugin_sdk::abi::{self, ArrowArray, ArrowSchema, Sized32};
use difflow_plugin_sdk::batch::Field;
use difflow_plugin_sdk::{
    AnnealingSchedule, Batch, BatchTransform, Component, Error, ModelRecipe, NoiseSchedule, State, config, entry,
};

config! {
    struct Options {
        /// The function that panics.
        panics: String = "";
    }
}

struct Fragile(String);

impl Fragile {
    fn enter(&self, function: &str) {
        assert_ne!(self.0, function, "as asked");
    }
}

impl Component for Fragile {
    type Config = Options;

    fn create(options: Options) -> Result<Self, Error> {
        let fragile = Self(options.panics);
        // Not through a dropped value, which may panic as well.
        assert_ne!(fragile.0, "create", "as asked");
        Ok(fragile)
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        self.enter("destroy");
    }
}

impl NoiseSchedule for Fragile {
    fn alpha(&self, t: f64) -> f64 {
        self.enter("alpha");
        1.0 - t
    }
    fn alpha_derivative(&self, _: f64) -> f64 {
        self.enter("alpha_derivative");
        -1.0
    }
    fn weight(&self, t: f64) -> f64 {
        self.enter("weight");
        1.0 / t
    }
}

impl AnnealingSchedule for Fragile {
    const WHOLE_PATTERN: bool = true;

    fn attn_mask_ratio(&self, _: u64) -> f64 {
        self.enter("attn_mask_ratio");
        1.0
    }
    fn attn_mask(&self, _: u64, _: u64, _: usize, _: &mut [bool]) {
        self.enter("attn_mask");
    }
}

impl State for Fragile {
    fn save(&self) -> Result<Vec<u8>, Error> {
        self.enter("save");
        Ok(Vec::new())
    }
    fn load(&mut self, _: &[u8]) -> Result<(), Error> {
        self.enter("load");
        Ok(())
    }
}

impl BatchTransform for Fragile {
    fn accepts(&self, _: &[Field]) -> Result<(), Error> {
        self.enter("output_schema");
        Ok(())
    }
    fn process(&mut self, _: u64, _: u64, batch: Batch) -> Result<Batch, Error> {
        self.enter("process");
        Ok(batch)
    }
}

impl ModelRecipe for Fragile {
    fn recipe(&self) -> &str {
        self.enter("recipe");
        "{}"
    }
}

entry! {
    static ENTRY;
    noise_schedule Fragile { id: "t.noise", name: "", vendor: "", license: "", description: "" }
    annealing_schedule Fragile, with state { id: "t.annealing", name: "", vendor: "", license: "", description: "" }
    batch_transform Fragile { id: "t.transform", name: "", vendor: "", license: "", description: "" }
    model_recipe Fragile { id: "t.recipe", name: "", vendor: "", license: "", description: "" }
}

fn no_error() -> abi::Error {
    let struct_size = size_of::<abi::Error>() as u32;
    abi::Error { struct_size, code: 0, message: null_mut(), path: null_mut(), release: None, private_data: null_mut() }
}

fn create(id: &CStr, panics: &str) -> (i32, *mut abi::Instance) {
    let (text, mut out) = (format!(r#"{{"panics": "{panics}"}}"#), null_mut());
    // SAFETY: C strings, and a place for an instance.
    let status = unsafe { ENTRY.0.create.unwrap()(id.as_ptr(), abi::Str::new(&text), &raw mut out, null_mut()) };
    (status, out)
}

fn table<T: Sized32>(id: &CStr, extension: &CStr) -> T {
    // SAFETY: C strings.
    let table = unsafe { ENTRY.0.get_extension.unwrap()(id.as_ptr(), extension.as_ptr()) };
    assert!(!table.is_null());
    // SAFETY: the table of this extension.
    unsafe { T::read(table.cast()) }.unwrap()
}

fn destroy(instance: *mut abi::Instance) {
    // SAFETY: made by `create`, not used again.
    unsafe { ENTRY.0.destroy.unwrap()(instance) }
}

/// An instance whose `function` panics: the first call says so, the second is not let in.
fn poisons(id: &CStr, function: &str, call: impl Fn(*mut abi::Instance, *mut abi::Error) -> abi::Status) {
    let (status, instance) = create(id, function);
    assert_eq!(status, abi::OK, "{function}");
    for (wanted, part) in [(abi::ERR_PANIC, "as asked"), (abi::ERR_INVALID_STATE, "panicked before")] {
        let mut error = no_error();
        assert_eq!(call(instance, &raw mut error), wanted, "{function}");
        // SAFETY: filled by the SDK.
        let message = unsafe { CStr::from_ptr(error.message) }.to_string_lossy().into_owned();
        assert!(message.contains(part), "{function}: {message}");
        // SAFETY: filled by the SDK, released once.
        unsafe { error.release.unwrap()(&raw mut error) };
        assert!(error.message.is_null() && error.release.is_none());
    }
    destroy(instance);
    let (_, other) = create(id, "");
    assert_ne!(call(other, null_mut()), abi::ERR_INVALID_STATE, "{function}: another instance is not poisoned");
    destroy(other);
}

#[test]
fn a_panic_in_a_schedule_is_a_status() {
    let noise: abi::NoiseSchedule = table(c"t.noise", abi::NOISE_SCHEDULE);
    let functions = [("alpha", noise.alpha), ("alpha_derivative", noise.alpha_derivative), ("weight", noise.weight)];
    for (name, function) in functions {
        let (t, mut out) = ([0.5], [0.0]);
        let out = &raw mut out;
        // SAFETY: an instance of this kind; one number in, one out.
        poisons(c"t.noise", name, |instance, error| unsafe {
            function.unwrap()(instance, t.as_ptr(), 1, out.cast(), error)
        });
    }
    let annealing: abi::AnnealingSchedule = table(c"t.annealing", abi::ANNEALING_SCHEDULE);
    // SAFETY: an instance of this kind, and a place for a number.
    poisons(c"t.annealing", "attn_mask_ratio", |instance, error| unsafe {
        annealing.attn_mask_ratio.unwrap()(instance, 1, &raw mut *Box::leak(Box::new(0.0)), error)
    });
    // SAFETY: an instance of this kind, and a place for 2 × 2 bytes.
    poisons(c"t.annealing", "attn_mask", |instance, error| unsafe {
        annealing.attn_mask.unwrap()(instance, 1, 2, 2, Box::leak(Box::new([0u8; 4])).as_mut_ptr(), error)
    });
}

#[test]
fn a_panic_in_state_or_recipe_is_a_status() {
    let state: abi::State = table(c"t.annealing", abi::STATE);
    extern "C-unwind" fn take(_: *mut std::ffi::c_void, _: *const std::ffi::c_void, _: usize) -> abi::Status {
        abi::OK
    }
    // SAFETY: an instance with state.
    poisons(c"t.annealing", "save", |instance, error| unsafe {
        state.save.unwrap()(instance, null_mut(), Some(take), error)
    });
    // SAFETY: an instance with state; no bytes.
    poisons(c"t.annealing", "load", |instance, error| unsafe { state.load.unwrap()(instance, null(), 0, error) });
    let recipe: abi::ModelRecipe = table(c"t.recipe", abi::MODEL_RECIPE);
    // SAFETY: an instance of this kind, and a place for a text.
    poisons(c"t.recipe", "recipe", |instance, error| unsafe {
        recipe.recipe.unwrap()(instance, &raw mut *Box::leak(Box::new(abi::Str::new(""))), error)
    });
}

/// The input was moved into `process`: it must be released although the component panicked.
#[test]
fn a_panic_in_a_transform_is_a_status_and_releases_the_input() {
    let transform: abi::BatchTransform = table(c"t.transform", abi::BATCH_TRANSFORM);
    let schema = ArrowSchema {
        format: c"+s".as_ptr(),
        name: c"".as_ptr(),
        metadata: null(),
        flags: 0,
        n_children: 0,
        children: null_mut(),
        dictionary: null_mut(),
        release: None,
        private_data: null_mut(),
    };
    /// # Safety
    /// `array` is a live array whose private data is a counter.
    unsafe extern "C-unwind" fn release(array: *mut ArrowArray) {
        // SAFETY: the counter lives as long as the array.
        unsafe {
            *(*array).private_data.cast::<u32>() += 1;
            (*array).release = None;
        }
    }
    let mut releases = 0u32;
    let releases_at = &raw mut releases;
    let process = |instance, error| {
        let mut buffers = [null()];
        let mut array = ArrowArray {
            length: 3,
            null_count: 0,
            offset: 0,
            n_buffers: 1,
            n_children: 0,
            buffers: buffers.as_mut_ptr(),
            children: null_mut(),
            dictionary: null_mut(),
            release: Some(release),
            private_data: releases_at.cast(),
        };
        // SAFETY: all zero is an empty array.
        let mut out: ArrowArray = unsafe { std::mem::zeroed() };
        // SAFETY: an instance of this kind, and valid arrays.
        let status = unsafe { transform.process.unwrap()(instance, 0, 0, &raw mut array, &raw mut out, error) };
        assert!(array.release.is_none());
        if let Some(release) = out.release {
            // SAFETY: made by the SDK, released once.
            unsafe { release(&raw mut out) };
        }
        status
    };
    poisons(c"t.transform", "process", process);
    // SAFETY: the counter is alive.
    assert_eq!(unsafe { releases_at.read() }, 3, "the panic, the poisoned instance and the sound one");
    poisons(c"t.transform", "output_schema", |instance, error| {
        // SAFETY: all zero is an empty schema.
        let mut out: ArrowSchema = unsafe { std::mem::zeroed() };
        // SAFETY: an instance of this kind, and valid schemas.
        let status = unsafe { transform.output_schema.unwrap()(instance, &raw const schema, &raw mut out, error) };
        if let Some(release) = out.release {
            // SAFETY: made by the SDK, released once.
            unsafe { release(&raw mut out) };
        }
        status
    });
}

#[test]
fn a_panic_in_create_makes_no_instance_and_one_in_destroy_stays_inside() {
    assert_eq!(create(c"t.noise", "create").0, abi::ERR_PANIC);
    let (status, instance) = create(c"t.noise", "destroy");
    assert_eq!(status, abi::OK);
    destroy(instance);
}
