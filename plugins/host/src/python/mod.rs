//! Plug-ins written in Python: a file is a library with one component, whose functions are answered by a Python process. To
//! everything else it is a library as any other.

mod helper;
mod transform;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use difflow_plugin_abi as abi;
use difflow_plugin_sdk::{Error, instance};
use difflow_schema::run::bytes_sha256;

use crate::error::PluginError;
use crate::library::Kind;
use helper::Helper;

/// A file that was opened.
struct Served {
    path: PathBuf,
    sha256: String,
    helper: Arc<Helper>,
    entry: &'static abi::Static<abi::Entry>,
}

/// By the id of the component. Files stay open, as libraries do.
static SERVED: Mutex<BTreeMap<String, Served>> = Mutex::new(BTreeMap::new());

fn served() -> MutexGuard<'static, BTreeMap<String, Served>> {
    SERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An instance.
struct Object {
    helper: Arc<Helper>,
    number: u64,
}

impl Drop for Object {
    fn drop(&mut self) {
        self.helper.destroy(self.number);
    }
}

/// Whether a path is that of a Python file.
pub(crate) fn is_python(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "py")
}

/// Opens a file. Returns its sha256 and the table of its component.
///
/// # Errors
/// The file cannot be read, Python cannot use it, or another file has the same id.
pub(crate) fn open(path: &Path) -> Result<(String, *const abi::Entry), PluginError> {
    let problem = |problem: String| PluginError::File { path: path.to_owned(), problem };
    let sha256 = bytes_sha256(&std::fs::read(path).map_err(|e| problem(e.to_string()))?);
    let mut served = served();
    if let Some(open) = served.values().find(|open| open.path == path && open.sha256 == sha256) {
        return Ok((sha256, &raw const open.entry.0));
    }
    let helper = Arc::new(Helper::start(path).map_err(problem)?);
    let id = helper.about.id.clone();
    if let Some(other) = served.get(&id).filter(|other| other.path != path) {
        return Err(PluginError::Duplicate { id, first: other.path.clone(), second: path.to_owned() });
    }
    let entry = entry(&helper).map_err(problem)?;
    let open = Served { path: path.to_owned(), sha256: sha256.clone(), helper, entry };
    served.insert(id, open);
    Ok((sha256, &raw const entry.0))
}

/// A table that stays.
fn entry(helper: &Helper) -> Result<&'static abi::Static<abi::Entry>, String> {
    let about = &helper.about;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == about.kind).ok_or("a component of an unknown kind")?;
    let c = |text: &str| CString::new(text.replace('\0', "")).map(CString::into_raw).map_err(|e| e.to_string());
    let component: &'static abi::Component = Box::leak(Box::new(abi::Component {
        struct_size: size_of::<abi::Component>() as u32,
        id: c(&about.id)?,
        kind: kind.id().as_ptr(),
        name: c(&about.name)?,
        version: c(&about.version)?,
        vendor: c(&about.vendor)?,
        license: c(&about.license)?,
        description: c(&about.description)?,
        config_schema: c(&about.config_schema.to_string())?,
    }));
    let components: &'static [*const abi::Component; 2] = Box::leak(Box::new([component, std::ptr::null()]));
    Ok(Box::leak(Box::new(abi::Static(abi::Entry {
        struct_size: size_of::<abi::Entry>() as u32,
        abi_major: abi::ABI_MAJOR,
        abi_minor: abi::ABI_MINOR,
        init: None,
        deinit: None,
        components: components.as_ptr(),
        create: Some(create),
        destroy: Some(instance::destroy),
        get_extension: Some(get_extension),
    }))))
}

fn of(id: &CStr) -> Option<Arc<Helper>> {
    served().get(id.to_string_lossy().as_ref()).map(|open| open.helper.clone())
}

/// # Safety
/// As the header says of `create`.
unsafe extern "C-unwind" fn create(
    id: *const c_char,
    config: abi::Str,
    out: *mut *mut abi::Instance,
    problem: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the host passes a C string, a text, and places to write to.
    unsafe {
        instance::create_with(out, problem, || {
            let helper =
                of(CStr::from_ptr(id)).ok_or_else(|| Error::argument("there is no component of this id here"))?;
            let number = helper.create(&String::from_utf8_lossy(config.bytes()))?;
            Ok(Object { helper, number })
        })
    }
}

/// # Safety
/// As the header says of `get_extension`.
unsafe extern "C-unwind" fn get_extension(id: *const c_char, extension: *const c_char) -> *const c_void {
    // SAFETY: the host passes C strings.
    let (id, extension) = unsafe { (CStr::from_ptr(id), CStr::from_ptr(extension)) };
    let Some(helper) = of(id) else { return std::ptr::null() };
    let about = &helper.about;
    if extension == Kind::NoiseSchedule.id() && about.kind == Kind::NoiseSchedule.name() {
        let table = if about.functions.iter().any(|name| name == "weight") { &WEIGHTED } else { &UNWEIGHTED };
        return (&raw const *table).cast();
    }
    if extension == Kind::AnnealingSchedule.id() && about.kind == Kind::AnnealingSchedule.name() {
        return (&raw const ANNEALING).cast();
    }
    if extension == Kind::BatchTransform.id() && about.kind == Kind::BatchTransform.name() {
        return (&raw const *difflow_plugin_sdk::transform::table::<Object>()).cast();
    }
    std::ptr::null()
}

static WEIGHTED: abi::NoiseSchedule = abi::NoiseSchedule { weight: Some(weight), ..UNWEIGHTED_TABLE };
static UNWEIGHTED: abi::NoiseSchedule = UNWEIGHTED_TABLE;
const UNWEIGHTED_TABLE: abi::NoiseSchedule = abi::NoiseSchedule {
    struct_size: size_of::<abi::NoiseSchedule>() as u32,
    alpha: Some(alpha),
    alpha_derivative: Some(alpha_derivative),
    weight: None,
};
static ANNEALING: abi::AnnealingSchedule = abi::AnnealingSchedule {
    struct_size: size_of::<abi::AnnealingSchedule>() as u32,
    attn_mask_ratio: Some(attn_mask_ratio),
    attn_mask: None,
};

/// Asks the process of an instance.
///
/// # Safety
/// The instance came from [`create`]; `numbers` and `out` hold `count` numbers, or are of no matter where that is 0.
unsafe fn ask(
    function: &str,
    instance: *const abi::Instance,
    (numbers, count): (*const f64, usize),
    out: *mut f64,
    problem: *mut abi::Error,
) -> abi::Status {
    if count == 0 {
        return abi::OK;
    }
    // SAFETY: the caller's contract.
    unsafe {
        instance::call(instance, problem, |object: &Object, _| {
            let (numbers, out) =
                (std::slice::from_raw_parts(numbers, count), std::slice::from_raw_parts_mut(out, count));
            object.helper.call(object.number, function, numbers, out)
        })
    }
}

/// Functions of t, as the header has them.
macro_rules! over_time {
    ($($name:ident)+) => {$(
        /// # Safety
        /// As the header says of it.
        unsafe extern "C-unwind" fn $name(
            instance: *const abi::Instance,
            t: *const f64,
            n: usize,
            out: *mut f64,
            problem: *mut abi::Error,
        ) -> abi::Status {
            // SAFETY: the host keeps the contract of the header.
            unsafe { ask(stringify!($name), instance, (t, n), out, problem) }
        }
    )+};
}

over_time! { alpha alpha_derivative weight }

/// # Safety
/// As the header says of it.
unsafe extern "C-unwind" fn attn_mask_ratio(
    instance: *const abi::Instance,
    step: u64,
    out: *mut f64,
    problem: *mut abi::Error,
) -> abi::Status {
    let step = step as f64;
    // SAFETY: as above, of one number.
    unsafe { ask("attn_mask_ratio", instance, (&raw const step, 1), out, problem) }
}
