//! NCCL for ranks that each have a GPU: c10d's, in a library beside the programs (shim/nccl.cpp), which is built where libtorch has CUDA. It is
//! opened at run time, as libtorch's CUDA half is, so one program serves machines with and without it.

use std::ffi::{c_char, c_int, c_uchar, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

use crate::device;
use crate::shim::checked;

/// Name of the library's file.
const FILE: &str = "libdifflow_nccl.so";

/// Makes a backend for the ranks that find each other through a store.
pub(crate) type Open = unsafe extern "C" fn(
    store: *mut c_void,
    rank: c_int,
    size: c_int,
    timeout_ms: i64,
    out: *mut *mut c_void,
    error: *mut c_char,
    room: usize,
) -> c_int;
type Identity = unsafe extern "C" fn(index: c_int, uuid: *mut c_uchar, error: *mut c_char, room: usize) -> c_int;

/// The library, loaded for good.
#[derive(Debug)]
pub(crate) struct Nccl {
    pub open: Open,
    identity: Identity,
}

/// The library beside this program. Errors say what is missing and what to do; the answer stays.
pub(crate) fn nccl() -> Result<&'static Nccl, String> {
    static FOUND: OnceLock<Result<Nccl, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let program = std::env::current_exe().map_err(|e| format!("where is this program: {e}"))?;
        Nccl::load(&program.parent().map_or_else(|| PathBuf::from(FILE), |folder| folder.join(FILE)))
    });
    found.as_ref().map_err(Clone::clone)
}

/// Looks whether ranks can exchange by NCCL what is on their GPUs, as far as difflow's library for it is concerned.
///
/// # Errors
/// What is missing, and what to do.
pub fn nccl_library() -> Result<(), String> {
    nccl().map(drop)
}

impl Nccl {
    pub fn load(path: &Path) -> Result<Self, String> {
        device::load_cuda_half()?;
        if !path.exists() {
            return Err(format!(
                "{} is not there: it is built where libtorch has CUDA; make setup build DEVICE=cuda",
                path.display()
            ));
        }
        let failed = |e: libloading::Error| format!("cannot load {}: {e}", path.display());
        // SAFETY: difflow's own library, which runs no code when it is loaded; functions of those names and signatures.
        unsafe {
            let library = Library::new(path).map_err(failed)?;
            let open = *library.get::<Open>(b"difflow_nccl_open\0").map_err(failed)?;
            let identity = *library.get::<Identity>(b"difflow_nccl_device\0").map_err(failed)?;
            // Never unloaded: backends have their functions there.
            std::mem::forget(library);
            Ok(Self { open, identity })
        }
    }

    /// What tells a CUDA device from all others, on other machines too.
    pub fn identity(&self, index: usize) -> Result<[u8; 16], String> {
        let mut uuid = [0; 16];
        // SAFETY: sixteen bytes, written before the call returns.
        let asked = checked(|error, room| unsafe { (self.identity)(index as c_int, uuid.as_mut_ptr(), error, room) });
        asked.map_err(|e| e.to_string())?;
        Ok(uuid)
    }
}
