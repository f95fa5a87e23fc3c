//! A component in use.

use std::ffi::c_void;
use std::sync::Arc;

use difflow_plugin_abi as abi;

use crate::call::call;
use crate::error::PluginError;
use crate::find::Found;
use crate::library::{Component, Kind, Library};

/// An instance; dropped, it is destroyed.
#[derive(Debug)]
pub struct Instance {
    library: Arc<Library>,
    component: Component,
    pointer: *mut abi::Instance,
    state: Option<abi::State>,
}

// SAFETY: what a plug-in may be asked from which thread is said by the thread tags of the ABI; `create`, `destroy` and everything
// that changes an instance goes through `&mut` or the library's lock.
unsafe impl Send for Instance {}
// SAFETY: through `&self` only functions tagged [any] are called.
unsafe impl Sync for Instance {}

impl Instance {
    /// Makes an instance of a found component with a configuration.
    ///
    /// # Errors
    /// When the component is of another kind or refuses the configuration.
    pub fn create(found: &Found, kind: Kind, config: &str) -> Result<Self, PluginError> {
        let Found { library, component } = found;
        let id = component.id.clone();
        if component.kind != kind {
            let wanted = kind.name().to_owned();
            return Err(PluginError::Kind { id, found: component.kind.name().to_owned(), wanted });
        }
        let state = library.table::<abi::State>(&id, abi::STATE)?;
        let pointer = library.create(&id, if config.trim().is_empty() { "{}" } else { config })?;
        Ok(Self { library: library.clone(), component: component.clone(), pointer, state })
    }

    /// The component's id.
    pub fn id(&self) -> &str {
        &self.component.id
    }

    /// What it is an instance of.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// For calls over the boundary.
    pub fn pointer(&self) -> *mut abi::Instance {
        self.pointer
    }

    /// The table of the instance's kind.
    ///
    /// # Errors
    /// When there is none, or it is too short.
    pub fn table<T: abi::Sized32>(&self) -> Result<T, PluginError> {
        let kind = self.component.kind.id();
        self.library.table(self.id(), kind)?.ok_or_else(|| PluginError::Malformed {
            library: self.library.name(),
            problem: format!("component `{}`: no table of its own kind {kind:?}", self.id()),
        })
    }

    /// One call on this instance; see the ABI for what may be called when.
    ///
    /// # Errors
    /// What the plug-in answered.
    pub fn call(
        &self,
        function: &'static str,
        body: impl FnOnce(*mut abi::Instance, *mut abi::Error) -> abi::Status,
    ) -> Result<(), PluginError> {
        call(self.id(), function, |error| body(self.pointer, error))
    }

    /// Its state for a checkpoint; `None` when it has none.
    ///
    /// # Errors
    /// When it cannot say.
    pub fn save_state(&mut self) -> Result<Option<Vec<u8>>, PluginError> {
        let Some(save) = self.state.and_then(|state| state.save) else { return Ok(None) };
        let mut bytes: Vec<u8> = Vec::new();
        // SAFETY: `take` gets the Vec behind the context and only during the call.
        self.call("save", |instance, error| unsafe { save(instance, (&raw mut bytes).cast(), Some(take), error) })?;
        Ok(Some(bytes))
    }

    /// Gives back what [`save_state`](Self::save_state) gave.
    ///
    /// # Errors
    /// When it does not take it, or never had state.
    pub fn load_state(&mut self, bytes: &[u8]) -> Result<(), PluginError> {
        let Some(load) = self.state.and_then(|state| state.load) else {
            let message = "the checkpoint holds state for it, but it has no `difflow.state/1`".into();
            return Err(PluginError::Call { id: self.id().into(), function: "load", message });
        };
        // SAFETY: the bytes live through the call.
        self.call("load", |instance, error| unsafe { load(instance, bytes.as_ptr().cast(), bytes.len(), error) })
    }

    /// A wrong answer of this instance.
    pub(crate) fn wrong(&self, function: &'static str, found: impl ToString, wanted: impl ToString) -> PluginError {
        PluginError::Answer { id: self.id().into(), function, found: found.to_string(), wanted: wanted.to_string() }
    }

    /// A function that must be there.
    pub(crate) fn missing(&self, function: &'static str) -> PluginError {
        PluginError::MissingFunction { id: self.id().into(), function }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: made by `create`; this is its end.
        unsafe { self.library.destroy(&self.component.id, self.pointer) };
    }
}

/// # Safety
/// `ctx` is the Vec of [`Instance::save_state`], which is at work, and `bytes` holds `n` bytes.
unsafe extern "C-unwind" fn take(ctx: *mut c_void, bytes: *const c_void, n: usize) -> abi::Status {
    if n > 0 {
        // SAFETY: the caller's contract.
        unsafe { (*ctx.cast::<Vec<u8>>()).extend_from_slice(std::slice::from_raw_parts(bytes.cast::<u8>(), n)) };
    }
    abi::OK
}
