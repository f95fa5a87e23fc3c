//! Kind: model recipe.

use crate::abi::{self, Status};
use crate::{Component, instance};

/// How to read a base model that difflow does not know by name, as JSON: docs/PLUGINS.md has the keys.
pub trait ModelRecipe: Component + Sync {
    /// The recipe; the same text at every call.
    fn recipe(&self) -> &str;
}

/// The table of `T`.
pub fn table<T: ModelRecipe>() -> &'static abi::ModelRecipe {
    const { &abi::ModelRecipe { struct_size: size_of::<abi::ModelRecipe>() as u32, recipe: Some(recipe::<T>) } }
}

/// # Safety
/// As the header says of `recipe`.
unsafe extern "C-unwind" fn recipe<T: ModelRecipe>(
    instance: *const abi::Instance,
    out: *mut abi::Str,
    error: *mut abi::Error,
) -> Status {
    // SAFETY: the host keeps the header's contract.
    unsafe {
        instance::call(instance, error, |recipe: &T, _| {
            *out = abi::Str::new(recipe.recipe());
            Ok(())
        })
    }
}
