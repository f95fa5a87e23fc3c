//! difflow's CUDA kernels (cuda/kernels.cu): compiled by nvrtc for the device at hand when it is first used, and launched through the
//! driver. Both libraries are opened at run time, so one program serves machines with and without a GPU.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libloading::Library;
use tch::Tensor;

use crate::device;
use crate::error::ModelError;
use crate::shim::checked;

const SOURCE: &str = include_str!("../../cuda/kernels.cu");

/// The functions of cuda/kernels.cu.
const NAMES: [&CStr; 9] = [
    c"add_layer_norm",
    c"add_rms_norm",
    c"add_layer_norm_slope",
    c"add_rms_norm_slope",
    c"cross_entropy",
    c"gelu_slope",
    c"swiglu",
    c"swiglu_slope",
    c"rotate",
];

unsafe extern "C" {
    fn difflow_stream(index: c_int, stream: *mut *mut c_void, error: *mut c_char, room: usize) -> c_int;
}

type Launch = unsafe extern "C" fn(
    function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: *mut c_void,
    arguments: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> c_int;

/// The kernels, loaded on one device.
#[derive(Debug)]
pub(crate) struct Kernels {
    index: usize,
    functions: HashMap<&'static CStr, *mut c_void>,
    launch: Launch,
    /// Multiprocessors of the device.
    pub processors: usize,
}

// SAFETY: handles of the driver, which may be used from any thread in which the device is current; they are never freed.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument<'a> {
    Memory(&'a Tensor),
    /// No tensor.
    Null,
    Int(i32),
    Long(u64),
    Float(f32),
}

impl<'a> From<Option<&'a Tensor>> for Argument<'a> {
    fn from(tensor: Option<&'a Tensor>) -> Self {
        tensor.map_or(Self::Null, Self::Memory)
    }
}

/// Blocks of a launch in both directions, and threads of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub x: usize,
    pub y: usize,
    pub threads: usize,
}

/// Those of a CUDA device; compiled at the first call, which takes a second or two. Errors say why there are none; the answer stays.
pub(crate) fn kernels(index: usize) -> Result<Arc<Kernels>, String> {
    type Found = Mutex<HashMap<usize, Result<Arc<Kernels>, String>>>;
    static FOUND: OnceLock<Found> = OnceLock::new();
    let mut found = FOUND.get_or_init(Found::default).lock().unwrap_or_else(PoisonError::into_inner);
    found.entry(index).or_insert_with(|| Kernels::new(index).map(Arc::new)).clone()
}

impl Kernels {
    fn new(index: usize) -> Result<Self, String> {
        // Torch makes its context current in this thread.
        let _ = Tensor::f_zeros([1], (tch::Kind::Float, tch::Device::Cuda(index))).map_err(|e| e.to_string())?;
        let driver = open(&["libcuda.so.1".into()])?;
        let attribute = |number: c_int| -> Result<c_int, String> {
            let mut value = 0;
            // SAFETY: the driver's function of that name and signature.
            let get = unsafe {
                driver.get::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int>(b"cuDeviceGetAttribute\0")
            };
            let get = get.map_err(|e| e.to_string())?;
            // SAFETY: `value` is written before the call returns.
            passed("cuDeviceGetAttribute", unsafe { get(&raw mut value, number, index as c_int) })?;
            Ok(value)
        };
        // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, and _MULTIPROCESSOR_COUNT.
        let (major, minor, processors) = (attribute(75)?, attribute(76)?, attribute(16)?);
        if major < 8 {
            return Err(format!("the device has compute capability {major}.{minor}; bf16 needs 8.0 or more"));
        }
        let program = compile(&format!("--gpu-architecture=sm_{major}{minor}"))?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the driver's functions of those names and signatures; `program` is a cubin.
        let (functions, launch) = unsafe {
            let load =
                driver.get::<unsafe extern "C" fn(*mut *mut c_void, *const c_void) -> c_int>(b"cuModuleLoadData\0");
            passed("cuModuleLoadData", load.map_err(|e| e.to_string())?(&raw mut module, program.as_ptr().cast()))?;
            let get = driver.get::<unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> c_int>(
                b"cuModuleGetFunction\0",
            );
            let get = get.map_err(|e| e.to_string())?;
            let mut functions = HashMap::new();
            for name in NAMES {
                let mut function = std::ptr::null_mut();
                passed("cuModuleGetFunction", get(&raw mut function, module, name.as_ptr()))?;
                functions.insert(name, function);
            }
            (functions, *driver.get::<Launch>(b"cuLaunchKernel\0").map_err(|e| e.to_string())?)
        };
        // Never unloaded: torch uses it, too.
        std::mem::forget(driver);
        Ok(Self { index, functions, launch, processors: processors as usize })
    }

    /// Starts a kernel on the stream that torch works on.
    ///
    /// # Safety
    /// The arguments are those that the kernel declares, and the tensors are on this device, contiguous and as large as it reads and writes.
    pub unsafe fn launch(&self, name: &CStr, grid: Grid, arguments: &[Argument]) -> Result<(), ModelError> {
        let function = self.functions.get(name).ok_or_else(|| ModelError::Torch(format!("no kernel {name:?}")))?;
        let mut stream = std::ptr::null_mut();
        // SAFETY: `stream` is written before the call returns.
        checked(|error, room| unsafe { difflow_stream(self.index as c_int, &raw mut stream, error, room) })?;
        // Each argument is passed by the address of its value: 8 bytes hold any of them.
        let mut values: Vec<u64> = arguments
            .iter()
            .map(|argument| match *argument {
                Argument::Memory(tensor) => tensor.data_ptr() as u64,
                Argument::Null => 0,
                Argument::Int(value) => u64::from(value as u32),
                Argument::Long(value) => value,
                Argument::Float(value) => u64::from(value.to_bits()),
            })
            .collect();
        let mut addresses: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let (x, y, threads) = (grid.x as c_uint, grid.y as c_uint, grid.threads as c_uint);
        let (launch, none) = (self.launch, std::ptr::null_mut());
        // SAFETY: the driver's function; the values live until it returns, and the rest is the caller's.
        let code = unsafe { launch(*function, x, y, 1, threads, 1, 1, 0, stream, addresses.as_mut_ptr(), none) };
        passed("cuLaunchKernel", code).map_err(|e| ModelError::Torch(format!("{name:?}: {e}")))
    }
}

/// The program as machine code of an architecture.
fn compile(architecture: &str) -> Result<Vec<u8>, String> {
    // libtorch's own is beside it, in the tree that pip makes.
    let beside = device::torch_dir()?.join("../../nvidia/cu13/lib/libnvrtc.so.13");
    let library = open(&[beside.to_string_lossy().into_owned(), "libnvrtc.so.13".into(), "libnvrtc.so.12".into()])?;
    let text = CString::new(SOURCE).map_err(|e| e.to_string())?;
    let options = [CString::new(architecture).map_err(|e| e.to_string())?, c"--std=c++17".to_owned()];
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    type Program = *mut c_void;
    type Create = unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int;
    type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
    type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
    type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
    // SAFETY: nvrtc's functions of those names and signatures; buffers have the sizes that it says.
    unsafe {
        let get = |e: libloading::Error| e.to_string();
        let create = library.get::<Create>(b"nvrtcCreateProgram\0").map_err(get)?;
        let compile = library.get::<Compile>(b"nvrtcCompileProgram\0").map_err(get)?;
        let bytes = |program: Program, size: &[u8], content: &[u8]| -> Result<Vec<u8>, String> {
            let mut count = 0;
            passed("nvrtc", library.get::<Size>(size).map_err(get)?(program, &raw mut count))?;
            let mut out = vec![0u8; count];
            passed("nvrtc", library.get::<Bytes>(content).map_err(get)?(program, out.as_mut_ptr().cast()))?;
            Ok(out)
        };
        let (mut program, none) = (std::ptr::null_mut(), std::ptr::null());
        let created = create(&raw mut program, text.as_ptr(), c"kernels.cu".as_ptr(), 0, none, none);
        passed("nvrtcCreateProgram", created)?;
        if compile(program, options.len() as c_int, options.as_ptr()) != 0 {
            let log = bytes(program, b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0")?;
            return Err(format!("nvrtc: {}", String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n'])));
        }
        bytes(program, b"nvrtcGetCUBINSize\0", b"nvrtcGetCUBIN\0")
    }
}

/// The first of these libraries that opens.
fn open(names: &[String]) -> Result<Library, String> {
    let mut problems = Vec::new();
    for name in names {
        // SAFETY: libraries of NVIDIA's, which run no code of consequence when they are loaded.
        match unsafe { Library::new(name) } {
            Ok(library) => return Ok(library),
            Err(e) => problems.push(e.to_string()),
        }
    }
    Err(problems.join("; "))
}

fn passed(what: &str, code: c_int) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{what} failed with code {code}")) }
}
