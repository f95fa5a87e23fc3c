//! Torch models from plug-ins, as handles: this crate does not depend on libtorch. The model crate turns them into
//! tensors.

use std::ffi::c_void;
use std::fmt;
use std::path::Path;

use difflow_plugin_abi::{self as abi, Sized32};

use crate::call::{call, text};
use crate::error::PluginError;
use crate::find::Found;
use crate::instance::Instance;
use crate::library::Kind;

/// Which libtorch something is built against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libtorch {
    /// `2.11.0`, for example.
    pub version: String,
    /// 0 or 1.
    pub cxx11_abi: i32,
}

impl fmt::Display for Libtorch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (C++11 ABI {})", self.version, self.cxx11_abi)
    }
}

/// A torch model at work.
#[derive(Debug)]
pub struct TorchModel {
    instance: Instance,
    table: abi::TorchModel,
    load: abi::Load,
    parameters: abi::Parameters,
    forward: abi::Forward,
    save: abi::Save,
}

/// Takes a parameter: its name, its tensor, whether it is trained.
pub type Visitor<'a> = &'a mut dyn FnMut(&str, *const abi::Tensor, bool) -> Result<(), String>;

impl TorchModel {
    /// An instance of a found component, which must be built against the libtorch of this program.
    ///
    /// # Errors
    /// When it is built against another one, or cannot be made.
    pub fn of(found: &Found, config: &str, own: &Libtorch) -> Result<Self, PluginError> {
        let other = Self::built_against(found)?;
        if other != *own {
            let id = found.component.id.clone();
            return Err(PluginError::Libtorch { id, found: other.to_string(), wanted: own.to_string() });
        }
        let instance = Instance::create(found, Kind::TorchModel, config)?;
        let table: abi::TorchModel = instance.table()?;
        let load = table.load.ok_or_else(|| instance.missing("load"))?;
        let parameters = table.parameters.ok_or_else(|| instance.missing("parameters"))?;
        let forward = table.forward.ok_or_else(|| instance.missing("forward"))?;
        let save = table.save.ok_or_else(|| instance.missing("save"))?;
        Ok(Self { instance, table, load, parameters, forward, save })
    }

    /// The libtorch that a found component is built against.
    ///
    /// # Errors
    /// When it does not say.
    pub fn built_against(found: &Found) -> Result<Libtorch, PluginError> {
        let id = &found.component.id;
        let malformed = |problem: String| PluginError::Malformed { library: found.library.name(), problem };
        let table: Option<abi::TorchModel> = found.library.table(id, abi::TORCH_MODEL)?;
        let table = table.ok_or_else(|| {
            let (id, wanted) = (id.clone(), Kind::TorchModel.name().to_owned());
            PluginError::Kind { id, found: found.component.kind.name().to_owned(), wanted }
        })?;
        let function = "built_against";
        let ask = table.built_against.ok_or_else(|| PluginError::MissingFunction { id: id.clone(), function })?;
        let mut build = std::ptr::null();
        call(id, function, |_| {
            // SAFETY: a function without arguments that the ABI allows to be called at any time.
            build = unsafe { ask() };
            abi::OK
        })?;
        if build.is_null() {
            return Err(malformed(format!("component `{id}`: built_against answered NULL")));
        }
        // SAFETY: the ABI says that it is a static difflow_torch_build.
        let build = unsafe { abi::TorchBuild::read(build) };
        let build = build.ok_or_else(|| malformed(format!("component `{id}`: its libtorch build is too short")))?;
        // SAFETY: NULL or a static C string, by the ABI.
        let version = unsafe { text(build.libtorch_version) };
        Ok(Libtorch { version: version.unwrap_or_else(|| "unknown".into()), cxx11_abi: build.cxx11_abi })
    }

    /// Reads the weights in `dir`, or makes a small model with random ones.
    ///
    /// # Errors
    /// When the plug-in cannot.
    pub fn load(&mut self, dir: Option<&Path>, device: &str, dtype: &str, seed: u64) -> Result<(), PluginError> {
        let dir = dir.map_or(Ok(String::new()), absolute)?;
        let (dir, device, dtype) = (abi::Str::new(&dir), abi::Str::new(device), abi::Str::new(dtype));
        // SAFETY: the strings live through the call.
        self.instance.call("load", |instance, error| unsafe { (self.load)(instance, dir, device, dtype, seed, error) })
    }

    /// Shows every parameter to `visit`; the handles are valid during it.
    ///
    /// # Errors
    /// When the plug-in fails, or `visit` does not take one.
    pub fn parameters(&mut self, visit: Visitor) -> Result<(), PluginError> {
        let mut context = Context { visit, refused: None };
        let pointer: *mut Context = &raw mut context;
        // SAFETY: the context lives through the call and is used by `take` only.
        let done = self.instance.call("parameters", |instance, error| unsafe {
            (self.parameters)(instance, Some(take), pointer.cast(), error)
        });
        match context.refused {
            Some(problem) => Err(self.instance.wrong("parameters", problem, "what the header says of parameters")),
            None => done,
        }
    }

    /// Logits of ids under an attention bias: a new tensor, which the caller owns.
    ///
    /// # Errors
    /// When the plug-in fails or gives no tensor.
    ///
    /// # Safety
    /// Both are live `at::Tensor` objects of the libtorch that was compared in [`TorchModel::of`].
    pub unsafe fn forward(
        &mut self,
        input_ids: *const abi::Tensor,
        attn_bias: *const abi::Tensor,
        train: bool,
    ) -> Result<*mut abi::Tensor, PluginError> {
        let mut out = std::ptr::null_mut();
        // SAFETY: the caller's contract, and a place for one pointer.
        self.instance.call("forward", |instance, error| unsafe {
            (self.forward)(instance, input_ids, attn_bias, i32::from(train), &raw mut out, error)
        })?;
        if out.is_null() { Err(self.instance.wrong("forward", "no tensor", "logits [B, L, V]")) } else { Ok(out) }
    }

    /// Writes config.json and weights into an existing folder.
    ///
    /// # Errors
    /// When the plug-in cannot.
    pub fn save(&mut self, dir: &Path) -> Result<(), PluginError> {
        let dir = absolute(dir)?;
        // SAFETY: the string lives through the call.
        self.instance.call("save", |instance, error| unsafe { (self.save)(instance, abi::Str::new(&dir), error) })
    }

    /// Makes the vocabulary larger.
    ///
    /// # Errors
    /// When the plug-in cannot.
    pub fn set_vocab_size(&mut self, size: u64) -> Result<(), PluginError> {
        let grow = self.table.set_vocab_size.ok_or_else(|| self.instance.missing("set_vocab_size"))?;
        // SAFETY: a live instance.
        self.instance.call("set_vocab_size", |instance, error| unsafe { grow(instance, size, error) })
    }

    /// The component behind it.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The same, for its state.
    pub fn instance_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}

/// A path for a plug-in, which need not have this program's working directory in mind.
fn absolute(dir: &Path) -> Result<String, PluginError> {
    let problem = |problem: &str| PluginError::File { path: dir.to_owned(), problem: problem.to_owned() };
    let path = std::path::absolute(dir).map_err(|e| problem(&e.to_string()))?;
    path.to_str().map(str::to_owned).ok_or_else(|| problem("is a path that is not UTF-8; plug-ins take no other"))
}

struct Context<'a> {
    visit: Visitor<'a>,
    refused: Option<String>,
}

/// # Safety
/// `ctx` is the context of [`TorchModel::parameters`], which is at work.
unsafe extern "C-unwind" fn take(
    ctx: *mut c_void,
    name: abi::Str,
    parameter: *const abi::Tensor,
    trainable: i32,
) -> abi::Status {
    // SAFETY: the caller's contract, and a borrowed string, by the ABI.
    let (context, name) = unsafe { (&mut *ctx.cast::<Context>(), String::from_utf8_lossy(name.bytes())) };
    let taken = if parameter.is_null() {
        Err(format!("NULL for parameter `{name}`"))
    } else {
        (context.visit)(&name, parameter, trainable != 0)
    };
    match taken {
        Ok(()) => abi::OK,
        Err(problem) => {
            context.refused.get_or_insert(problem);
            abi::ERR_INVALID_ARGUMENT
        }
    }
}
