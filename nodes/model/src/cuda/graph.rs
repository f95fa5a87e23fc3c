//! CUDA graphs: operations that are recorded once and then given to the device in one call.

use std::ffi::{c_char, c_int, c_void};

use crate::error::ModelError;
use crate::shim::checked;

unsafe extern "C" {
    fn difflow_graph_begin(
        index: c_int,
        give_back: c_int,
        out: *mut *mut c_void,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_graph_end(graph: *mut c_void, error: *mut c_char, room: usize) -> c_int;
    fn difflow_graph_replay(graph: *mut c_void, error: *mut c_char, room: usize) -> c_int;
    fn difflow_graph_drop(graph: *mut c_void);
    fn difflow_memory_info(index: c_int, unused: *mut u64, all: *mut u64, error: *mut c_char, room: usize) -> c_int;
    fn difflow_memory_taken(index: c_int, bytes: *mut u64, error: *mut c_char, room: usize) -> c_int;
}

/// What was recorded. It keeps the memory of the results, which it writes anew each time; the tensors that it reads must be kept by whoever
/// recorded it.
#[derive(Debug)]
pub(crate) struct Graph(*mut c_void);

// SAFETY: owns what it points to; the driver takes graphs from any thread.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` gives CUDA device `index`; nothing of it is done yet. `work` must not wait for the device, nor copy to it or from
    /// it, nor depend on numbers that change from time to time: they are recorded as they are. Returns what it returns. With `give_back`,
    /// memory that this process keeps without using it is given back before, for the recording to take.
    ///
    /// # Errors
    /// Those of `work`; what cannot be recorded.
    pub fn record<T>(
        index: usize,
        give_back: bool,
        work: impl FnOnce() -> Result<T, ModelError>,
    ) -> Result<(Self, T), ModelError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: on success `raw` is owned here.
        checked(|error, room| unsafe {
            difflow_graph_begin(index as c_int, c_int::from(give_back), &raw mut raw, error, room)
        })?;
        let graph = Self(raw);
        let made = work();
        // SAFETY: a recording that was begun, and is ended once.
        let ended = checked(|error, room| unsafe { difflow_graph_end(graph.0, error, room) });
        // What stopped the work is the cause of a recording that cannot be ended.
        let made = made?;
        ended?;
        Ok((graph, made))
    }

    /// Does all of it again, with what is in the tensors now. Does not wait for the device.
    pub fn replay(&self) -> Result<(), ModelError> {
        // SAFETY: a whole recording.
        checked(|error, room| unsafe { difflow_graph_replay(self.0, error, room) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: owned, and dropped once.
        unsafe { difflow_graph_drop(self.0) }
    }
}

/// Memory of a device, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceMemory {
    /// Nobody's.
    pub unused: u64,
    pub all: u64,
    /// What tensors of this process take.
    pub taken: u64,
}

impl DeviceMemory {
    /// That of CUDA device `index` now.
    pub fn of(index: usize) -> Result<Self, ModelError> {
        let (index, mut unused, mut all, mut taken) = (index as c_int, 0, 0, 0);
        // SAFETY: the numbers are written before the calls return.
        checked(|error, room| unsafe { difflow_memory_info(index, &raw mut unused, &raw mut all, error, room) })?;
        // SAFETY: as above.
        checked(|error, room| unsafe { difflow_memory_taken(index, &raw mut taken, error, room) })?;
        Ok(Self { unused, all, taken })
    }
}
