//! Records what torch does, by torch's own profiler (Kineto): operations, and on a GPU its kernels.

use std::ffi::CString;
use std::path::Path;

use crate::error::ModelError;
use crate::shim;

/// A recording that is under way, of this thread's operations. One at a time.
#[derive(Debug)]
pub struct Profile(());

impl Profile {
    /// Starts recording.
    ///
    /// # Errors
    /// What torch says.
    pub fn start() -> Result<Self, ModelError> {
        shim::profile_start()?;
        Ok(Self(()))
    }

    /// Stops, and writes the events as a trace that chrome://tracing, Perfetto and torch's tools read.
    ///
    /// # Errors
    /// What torch says.
    pub fn stop(self, file: &Path) -> Result<(), ModelError> {
        use std::os::unix::ffi::OsStrExt;
        let name = CString::new(file.as_os_str().as_bytes()).map_err(|e| ModelError::Torch(e.to_string()))?;
        shim::profile_stop(&name)
    }
}
