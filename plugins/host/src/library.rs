//! A library and the components in it.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use difflow_plugin_abi::{self as abi, Sized32};
use difflow_schema::run::bytes_sha256;
use libloading::os::unix;

use crate::call::{call, text};
use crate::elf;
use crate::error::PluginError;
use crate::python;

/// What a component can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    NoiseSchedule,
    AnnealingSchedule,
    BatchTransform,
    ModelRecipe,
    TorchModel,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::NoiseSchedule, Self::AnnealingSchedule, Self::BatchTransform, Self::ModelRecipe, Self::TorchModel];

    /// What it is called.
    fn names(self) -> Names {
        let names = |id, name, builtin_prefix| Names { id, name, builtin_prefix };
        match self {
            Self::NoiseSchedule => names(abi::NOISE_SCHEDULE, "noise schedule", "difflow.noise."),
            Self::AnnealingSchedule => names(abi::ANNEALING_SCHEDULE, "annealing schedule", "difflow.annealing."),
            Self::BatchTransform => names(abi::BATCH_TRANSFORM, "batch transform", "difflow.transform."),
            Self::ModelRecipe => names(abi::MODEL_RECIPE, "model recipe", "difflow.recipe."),
            Self::TorchModel => names(abi::TORCH_MODEL, "torch model", "difflow.torch."),
        }
    }

    /// The id in the ABI.
    pub fn id(self) -> &'static CStr {
        self.names().id
    }

    /// In words.
    pub fn name(self) -> &'static str {
        self.names().name
    }

    /// What stands before the name of a built-in component of this kind.
    pub fn builtin_prefix(self) -> &'static str {
        self.names().builtin_prefix
    }
}

struct Names {
    id: &'static CStr,
    name: &'static str,
    builtin_prefix: &'static str,
}

/// A descriptor, copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// For people.
    pub name: String,
    /// Of the component.
    pub version: String,
    /// Who made it.
    pub vendor: String,
    /// SPDX id.
    pub license: String,
    /// One sentence.
    pub description: String,
    /// JSON Schema of its configuration.
    pub config_schema: String,
}

/// A loaded library, or the built-in components. It is never unloaded: code that ran once may have left threads or thread-local
/// destructors behind.
#[derive(Debug)]
pub struct Library {
    /// Where it lies; `None` for the built-in components.
    pub path: Option<PathBuf>,
    /// Of the file.
    pub sha256: Option<String>,
    entry: abi::Entry,
    components: Vec<Component>,
    /// Whether `init` was called; locked while it is.
    ready: Mutex<bool>,
    /// Given to `init`, so it lives as long as the library.
    host: Box<abi::Static<abi::Host>>,
}

// SAFETY: the entry is a copy of immutable data, its functions are called as their thread tags say (create and destroy one at a time,
// under `ready`), and `host` is never changed.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// The built-in components.
    ///
    /// # Errors
    /// Never, while their own tests pass.
    pub fn builtin() -> Result<Arc<Self>, PluginError> {
        // SAFETY: the table that the SDK made.
        unsafe { Self::read(None, None, &raw const difflow_plugin_builtin::ENTRY.0) }
    }

    /// Loads a file: a library, or a plug-in in Python.
    ///
    /// # Errors
    /// Says which of the many things it is: not there, not readable, not ELF, another machine, no plug-in, another ABI, malformed.
    pub fn open(path: &Path) -> Result<Arc<Self>, PluginError> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if python::is_python(path) {
            let (sha256, entry) = python::open(&absolute)?;
            // SAFETY: a table that stays.
            return unsafe { Self::read(Some(absolute), Some(sha256), entry) };
        }
        let bytes = elf::read(path)?;
        if !elf::names_entry(&bytes) {
            return Err(PluginError::NoEntry { path: absolute });
        }
        let load = |e: libloading::Error| {
            let mut problem = e.to_string();
            // The names of libtorch's symbols change from version to version, so the loader may see it before difflow can compare.
            if elf::needs_libtorch(&bytes) {
                problem.push_str(
                    "; it needs libtorch: only programs that compute with models load it, and it must be built against the libtorch that they have",
                );
            }
            PluginError::Load { path: absolute.clone(), problem }
        };
        // RTLD_LOCAL keeps its symbols apart from those of other plug-ins, RTLD_NODELETE keeps it loaded.
        let flags = libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NODELETE;
        // SAFETY: loading runs the library's constructors. That is what choosing a plug-in means.
        let library = unsafe { unix::Library::open(Some(&absolute), flags) }.map_err(load)?;
        // SAFETY: the symbol, if it is there, is the table that the header declares; a symbol of pointer type is its address.
        let entry = unsafe { library.get::<*const abi::Entry>(abi::ENTRY_SYMBOL.as_bytes()) };
        let entry = *entry.map_err(|_| PluginError::NoEntry { path: absolute.clone() })?;
        std::mem::forget(library);
        // SAFETY: the exported symbol is a table, by the ABI, and stays loaded.
        unsafe { Self::read(Some(absolute), Some(bytes_sha256(&bytes)), entry) }
    }

    /// # Safety
    /// `table` is static data that begins as a table of any version does.
    unsafe fn read(
        path: Option<PathBuf>,
        sha256: Option<String>,
        table: *const abi::Entry,
    ) -> Result<Arc<Self>, PluginError> {
        let library = path.as_ref().map_or("the built-in components".to_owned(), |path| path.display().to_string());
        let malformed = |problem: &str| PluginError::Malformed { library: library.clone(), problem: problem.into() };
        // SAFETY: size and version stand at the same place in every version of the table.
        let (size, found_major, found_minor) = unsafe {
            let words = table.cast::<u32>();
            (words.read(), words.add(1).read(), words.add(2).read())
        };
        if size < 12 {
            return Err(malformed("its entry says that it is too short to hold a version"));
        }
        if found_major != abi::ABI_MAJOR {
            return Err(PluginError::Abi { library, found_major, found_minor });
        }
        // SAFETY: the exported symbol is a table of this major version.
        let entry = unsafe { abi::Entry::read(table) };
        let entry = entry.ok_or_else(|| malformed("its entry is shorter than that of ABI 1.0"))?;
        for (function, missing) in [
            ("create", entry.create.is_none()),
            ("destroy", entry.destroy.is_none()),
            ("get_extension", entry.get_extension.is_none()),
        ] {
            if missing {
                return Err(malformed(&format!("its entry lacks the mandatory function `{function}`")));
            }
        }
        // SAFETY: the ABI says that the list ends in NULL.
        let components = unsafe { components(entry.components) }.map_err(|problem| malformed(&problem))?;
        Ok(Arc::new(Self { path, sha256, entry, components, ready: Mutex::new(false), host: Box::new(host()) }))
    }

    /// What the library offers.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// For messages.
    pub fn name(&self) -> String {
        self.path.as_ref().map_or("builtin".into(), |path| path.display().to_string())
    }

    /// Makes an instance; [`crate::Instance`] frees it.
    pub(crate) fn create(&self, id: &str, config: &str) -> Result<*mut abi::Instance, PluginError> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let (false, Some(init)) = (*ready, self.entry.init) {
            let path = c_string(&self.name());
            // SAFETY: called once, before everything else, with strings and a host that stay.
            call(id, "init", |error| unsafe { init(&raw const self.host.0, path.as_ptr(), error) })?;
        }
        *ready = true;
        let (c_id, mut out) = (c_string(id), std::ptr::null_mut());
        let create = self.entry.create;
        call(id, "create", |error| {
            // SAFETY: under the lock, after `init`; the strings live through the call.
            create.map_or(abi::ERR_NOT_IMPLEMENTED, |create| unsafe {
                create(c_id.as_ptr(), abi::Str::new(config), &raw mut out, error)
            })
        })?;
        if out.is_null() {
            return Err(PluginError::Answer {
                id: id.into(),
                function: "create",
                found: "no instance and no error".into(),
                wanted: "an instance".into(),
            });
        }
        Ok(out)
    }

    /// Frees an instance.
    ///
    /// # Safety
    /// `instance` came from [`create`](Self::create) of this library and is not used again.
    pub(crate) unsafe fn destroy(&self, id: &str, instance: *mut abi::Instance) {
        let _one_at_a_time = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let destroy = self.entry.destroy;
        _ = call(id, "destroy", |_| {
            // SAFETY: the caller's contract; under the lock.
            destroy.map_or(abi::OK, |destroy| unsafe {
                destroy(instance);
                abi::OK
            })
        });
    }

    /// The table of an extension, copied as far as its writer knew it.
    pub(crate) fn table<T: Sized32>(&self, id: &str, extension: &CStr) -> Result<Option<T>, PluginError> {
        let (c_id, mut found) = (c_string(id), std::ptr::null());
        let get = self.entry.get_extension;
        call(id, "get_extension", |_| {
            // SAFETY: C strings that live through the call.
            get.map_or(abi::OK, |get| unsafe {
                found = get(c_id.as_ptr(), extension.as_ptr());
                abi::OK
            })
        })?;
        if found.is_null() {
            return Ok(None);
        }
        // SAFETY: the ABI says that it is the table of this extension.
        match unsafe { T::read(found.cast()) } {
            Some(table) => Ok(Some(table)),
            None => Err(PluginError::Malformed {
                library: self.name(),
                problem: format!("component `{id}`: its table of {extension:?} is shorter than that of ABI 1.0"),
            }),
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let ready = *self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let (true, Some(deinit)) = (ready, self.entry.deinit) {
            _ = call(&self.name(), "deinit", |_| {
                // SAFETY: instances hold an Arc of the library, so none is alive.
                unsafe { deinit() };
                abi::OK
            });
        }
    }
}

/// A C string without the NULs that would end it early.
fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// # Safety
/// `list` is NULL, or a list of descriptors that ends in NULL.
unsafe fn components(mut list: *const *const abi::Component) -> Result<Vec<Component>, String> {
    let mut all: Vec<Component> = Vec::new();
    if list.is_null() {
        return Err("its list of components is NULL".into());
    }
    // SAFETY: the caller says that the list ends in NULL and holds descriptors.
    unsafe {
        let text = |from| text(from).unwrap_or_default();
        while !(*list).is_null() {
            let number = all.len() + 1;
            let from = abi::Component::read(*list)
                .ok_or_else(|| format!("descriptor {number} is shorter than that of ABI 1.0"))?;
            let (id, kind) = (text(from.id), text(from.kind));
            if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) {
                return Err(format!("descriptor {number} has the id `{id}`; allowed: letters, digits, . - and _"));
            }
            let known = Kind::ALL.into_iter().find(|known| known.id().to_str() == Ok(kind.as_str()));
            let kind = known.ok_or_else(|| {
                let kinds: Vec<_> = Kind::ALL.iter().map(|known| known.id().to_string_lossy()).collect();
                format!("component `{id}` is of the unknown kind `{kind}`; this difflow knows {}", kinds.join(", "))
            })?;
            if all.iter().any(|other| other.id == id) {
                return Err(format!("component `{id}` is there twice"));
            }
            let config_schema = Some(text(from.config_schema)).filter(|schema| !schema.is_empty());
            all.push(Component {
                id,
                kind,
                name: text(from.name),
                version: text(from.version),
                vendor: text(from.vendor),
                license: text(from.license),
                description: text(from.description),
                config_schema: config_schema.unwrap_or_else(|| "{}".into()),
            });
            list = list.add(1);
        }
    }
    Ok(all)
}

fn host() -> abi::Static<abi::Host> {
    abi::Static(abi::Host {
        struct_size: size_of::<abi::Host>() as u32,
        abi_major: abi::ABI_MAJOR,
        abi_minor: abi::ABI_MINOR,
        host_data: std::ptr::null_mut(),
        name: c"difflow".as_ptr(),
        version: concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast(),
        log: Some(log),
        get_extension: None,
    })
}

/// # Safety
/// Both strings are valid.
unsafe extern "C-unwind" fn log(_: *const abi::Host, level: i32, target: abi::Str, message: abi::Str) {
    // SAFETY: the plug-in passes valid strings, by the ABI.
    let text = |text: abi::Str| String::from_utf8_lossy(unsafe { text.bytes() });
    let level = ["error", "warning", "info", "debug", "trace"][(level.clamp(1, 5) - 1) as usize];
    eprintln!("{level}: plug-in {}: {}", text(target), text(message));
}
