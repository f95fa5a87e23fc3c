//! Devices and threads, without exposing torch.

use std::ffi::{c_char, c_int};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cuda;
use crate::error::ModelError;
use crate::shim::checked;

unsafe extern "C" {
    fn difflow_device_settings(
        tf32: c_int,
        deterministic: c_int,
        memory_fraction: f64,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_peak_memory(index: c_int, bytes: *mut u64, error: *mut c_char, room: usize) -> c_int;
}

/// Where a model lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    #[default]
    Cpu,
    /// CUDA device by index.
    Cuda(usize),
}

/// How CUDA computes in this process. On the CPU nothing of it matters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceSettings {
    /// Products of fp32 matrices in TF32: 10 bits of mantissa, several times the speed.
    pub tf32: bool,
    /// Only kernels that give the same bits each time on the same kind of device. An operation that has none is an error.
    pub deterministic: bool,
    /// The most of the device's memory that this process takes, as a share.
    pub memory_fraction: f64,
}

impl Default for DeviceSettings {
    fn default() -> Self {
        Self { tf32: false, deterministic: false, memory_fraction: 1.0 }
    }
}

impl DeviceSettings {
    /// Takes effect from now on; before a model is loaded.
    ///
    /// # Errors
    /// What torch says.
    pub fn set(self) -> Result<(), ModelError> {
        let (tf32, deterministic) = (c_int::from(self.tf32), c_int::from(self.deterministic));
        // SAFETY: plain numbers.
        checked(|error, room| unsafe {
            difflow_device_settings(tf32, deterministic, self.memory_fraction, error, room)
        })
    }
}

impl Device {
    /// Parses `auto`, `cpu`, `cuda` or `cuda:N` and makes the device usable. `auto` is the first CUDA device if there is
    /// one, else the CPU; asking for CUDA by name where there is none is an error.
    pub fn open(asked: &str) -> Result<Self, ModelError> {
        let wrong = |reason: String| ModelError::Device { asked: asked.to_owned(), reason };
        let index = match asked {
            "cpu" => return Ok(Self::Cpu),
            "auto" => return Ok(if load_cuda().is_ok() { Self::Cuda(0) } else { Self::Cpu }),
            "cuda" => 0,
            other => {
                let number = other.strip_prefix("cuda:").and_then(|n| usize::from_str(n).ok());
                number.ok_or_else(|| wrong("it is not the name of a device".to_owned()))?
            }
        };
        load_cuda().map_err(wrong)?;
        let count = tch::Cuda::device_count();
        if index as i64 >= count {
            return Err(wrong(format!("this machine has {count} CUDA device(s)")));
        }
        Ok(Self::Cuda(index))
    }

    /// Whether difflow's own kernels run on it; errors say why not.
    pub fn kernels(self) -> Result<(), String> {
        match self {
            Self::Cpu => Ok(()),
            Self::Cuda(index) => cuda::missing(index).map_or(Ok(()), Err),
        }
    }

    /// The most bytes that tensors on it have taken so far; `None` for the CPU, whose memory is the process's.
    ///
    /// # Errors
    /// What torch says.
    pub fn peak_memory(self) -> Result<Option<u64>, ModelError> {
        let Self::Cuda(index) = self else { return Ok(None) };
        let mut bytes = 0;
        // SAFETY: the number is written before the call returns.
        checked(|error, room| unsafe { difflow_peak_memory(index as c_int, &raw mut bytes, error, room) })?;
        Ok(Some(bytes))
    }

    pub(crate) fn torch(self) -> tch::Device {
        match self {
            Self::Cpu => tch::Device::Cpu,
            Self::Cuda(index) => tch::Device::Cuda(index),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Threads of one operation. The same number gives the same bits; another number may not.
pub fn set_num_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads.max(1)).unwrap_or(i32::MAX));
}

/// Threads of one operation now.
pub fn num_threads() -> usize {
    tch::get_num_threads().max(1) as usize
}

/// Loads libtorch's CUDA half from beside the CPU half. No symbol of this program names it, so the linker leaves it out;
/// loading it at run time lets one binary serve both kinds of machine.
#[cfg(target_os = "linux")]
pub(crate) fn load_cuda_half() -> Result<(), String> {
    // Nothing may ask torch about CUDA before this: the first answer, no, would stay.
    let path = torch_dir()?.join("libtorch_cuda.so");
    if !path.exists() {
        return Err(format!(
            "{} is not there: this is the CPU flavour of libtorch (set up with DEVICE=cuda)",
            path.display()
        ));
    }
    load_for_all(&path)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn load_cuda_half() -> Result<(), String> {
    if tch::Cuda::is_available() { Ok(()) } else { Err("this libtorch has no CUDA".to_owned()) }
}

/// Loads a library that belongs to the libtorch already loaded; it is never unloaded, and what is loaded later finds its symbols.
#[cfg(target_os = "linux")]
fn load_for_all(path: &Path) -> Result<(), String> {
    use std::ffi::{CStr, CString};
    use std::os::unix::ffi::OsStrExt;

    let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: a plain dlopen.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns null or a string that stays valid until the next dl call of this thread.
    let text = unsafe {
        let error = libc::dlerror();
        if error.is_null() { None } else { Some(CStr::from_ptr(error).to_string_lossy().into_owned()) }
    };
    Err(format!("cannot load {}: {}", path.display(), text.unwrap_or_default()))
}

/// Makes CUDA usable, if there is a device.
fn load_cuda() -> Result<(), String> {
    load_cuda_half()?;
    if tch::Cuda::is_available() {
        Ok(())
    } else {
        Err("libtorch finds no CUDA device; is the driver there?".to_owned())
    }
}

/// The directory that libtorch_cpu.so was loaded from.
#[cfg(target_os = "linux")]
pub(crate) fn torch_dir() -> Result<PathBuf, String> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| e.to_string())?;
    let path =
        maps.lines().find_map(|line| line.ends_with("/libtorch_cpu.so").then(|| line.find('/').map(|at| &line[at..])));
    path.flatten()
        .and_then(|path| PathBuf::from(path).parent().map(PathBuf::from))
        .ok_or_else(|| "libtorch is not loaded".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_device_are_refused_with_what_is_allowed() {
        assert_eq!(Device::open("cpu").unwrap(), Device::Cpu);
        for name in ["gpu", "cuda:", "cuda:x", "CPU", ""] {
            let error = Device::open(name).unwrap_err().to_string();
            assert!(error.contains("auto, cpu, cuda"), "{error}");
        }
    }
}
