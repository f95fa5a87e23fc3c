//! Processes that train one model together ("ranks"), over libtorch's own c10d: they meet at an address, and then exchange tensors. Those in
//! host memory by Gloo, and those on a GPU by NCCL, once [`Group::connect`] has agreed on it.
//!
//! Every call is one of all ranks (but for what one sends to another): each of them makes the same calls in the same order. A rank that is lost makes the call of the others
//! fail, at once where its connection breaks and else after the timeout; the group is of no use then. Nothing but [`Group::all_reduce`] adds, so the order
//! of additions is the caller's.

use std::ffi::{CString, c_char, c_int, c_void};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::IntoRawFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use crate::error::ModelError;
use crate::nccl::Open;
use crate::shim::checked;

unsafe extern "C" {
    fn difflow_group_open(
        host: *const c_char,
        port: u16,
        listener: c_int,
        own: *const c_char,
        rank: c_int,
        size: c_int,
        join_ms: i64,
        timeout_ms: i64,
        out: *mut *mut c_void,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_group_add_device(group: *mut c_void, index: c_int, open: Open, error: *mut c_char, room: usize)
    -> c_int;
    fn difflow_group_close(group: *mut c_void);
    fn difflow_group_all_gather(
        group: *mut c_void,
        out: *mut c_void,
        own: *mut c_void,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_group_all_to_all(
        group: *mut c_void,
        out: *mut c_void,
        own: *mut c_void,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_group_start_all_to_all(
        group: *mut c_void,
        into: *mut c_void,
        own: *mut c_void,
        out: *mut *mut c_void,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_group_all_reduce(group: *mut c_void, tensor: *mut c_void, error: *mut c_char, room: usize) -> c_int;
    fn difflow_group_broadcast(
        group: *mut c_void,
        tensor: *mut c_void,
        root: c_int,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_group_start_broadcast(
        group: *mut c_void,
        tensor: *mut c_void,
        root: c_int,
        out: *mut *mut c_void,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
    fn difflow_started_wait(started: *mut c_void, error: *mut c_char, room: usize) -> c_int;
    fn difflow_started_drop(started: *mut c_void);
    fn difflow_group_send(group: *mut c_void, tensor: *mut c_void, to: c_int, error: *mut c_char, room: usize)
    -> c_int;
    fn difflow_group_receive(
        group: *mut c_void,
        tensor: *mut c_void,
        from: c_int,
        error: *mut c_char,
        room: usize,
    ) -> c_int;
}

/// Where ranks meet.
#[derive(Debug)]
pub enum Meeting {
    /// Of rank 0: the socket at which it waits for the others.
    Listen(TcpListener),
    /// Of the others: the address of that.
    Connect(SocketAddr),
}

impl Meeting {
    fn address(&self) -> std::io::Result<SocketAddr> {
        match self {
            Self::Listen(listener) => listener.local_addr(),
            Self::Connect(address) => Ok(*address),
        }
    }
}

/// This process among the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
}

/// How long a rank waits for others.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until all have come.
    pub join: Duration,
    /// In every exchange after that.
    pub exchange: Duration,
}

/// What the exchanges of a rank with the others took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Exchanged {
    /// With the time in which it waited for the others to come to them.
    pub seconds: f64,
    /// What it sent, each byte counted for each rank that gets it.
    pub bytes: u64,
}

/// A process, as far as another on the same machine can look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    /// What it is called.
    name: String,
    id: u32,
    /// The machine since it was started, and the name space of process ids.
    machine: String,
    /// What the machine is called.
    host: String,
}

/// Bytes of a [`Process`] as the ranks tell it to each other.
const TOLD: usize = 256;
/// The kernel's flag of a process that is ending (linux/sched.h).
const PF_EXITING: u32 = 4;

impl Process {
    fn own(name: &str) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            name: name.to_owned(),
            id: std::process::id(),
            machine: format!("{} {}", boot.trim(), space.display()),
            host: host.trim().to_owned(),
        }
    }

    fn told(&self) -> Vec<u8> {
        let mut bytes = format!("{}\n{}\n{}\n{}", self.id, self.machine, self.host, self.name).into_bytes();
        bytes.resize(TOLD, 0);
        bytes
    }

    fn heard(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.trim_end_matches(['\0', char::REPLACEMENT_CHARACTER]).splitn(4, '\n');
        let (id, machine, host) = (lines.next()?.parse().ok()?, lines.next()?.to_owned(), lines.next()?.to_owned());
        Some(Self { name: lines.next()?.to_owned(), id, machine, host })
    }

    /// What has become of it, where that explains that it does not answer.
    fn lost(&self) -> Option<&'static str> {
        let stat = match std::fs::read_to_string(format!("/proc/{}/stat", self.id)) {
            Ok(stat) => stat,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Some("has ended"),
            Err(_) => return None,
        };
        // Behind the name, which is in parentheses, stand the state and, six further on, flags of the kernel.
        let mut behind = stat.rsplit_once(") ")?.1.split(' ');
        let state = behind.next()?;
        let flags: u32 = behind.nth(5)?.parse().ok()?;
        match state {
            "Z" | "X" => Some("has ended"),
            // Its connections break before its state says that it has ended.
            _ if flags & PF_EXITING != 0 => Some("has ended"),
            "T" | "t" => Some("is stopped"),
            _ => None,
        }
    }
}

/// The ranks, once all have met.
#[derive(Debug)]
pub struct Group {
    raw: *mut c_void,
    place: Place,
    processes: Vec<Process>,
    timeout: Duration,
    exchanged: Mutex<Exchanged>,
    /// The CUDA device whose tensors are exchanged as they are.
    device: Option<usize>,
}

// SAFETY: c10d queues what several threads ask of a backend; no thread owns it.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

/// An exchange that goes on while its process computes: [`Group::finish`] waits for it.
#[derive(Debug)]
pub(crate) struct Started(*mut c_void);

// SAFETY: c10d's own threads work on it; no thread owns it.
unsafe impl Send for Started {}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: made by a `start_…`, dropped once. The exchange itself, if it goes on, keeps its tensor.
        unsafe { difflow_started_drop(self.0) }
    }
}

fn bytes(tensor: &Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}

fn raw(tensor: &Tensor) -> *mut c_void {
    tensor.as_ptr().cast_mut().cast()
}

impl Group {
    /// Waits until all ranks are there. `name` is what the others call this one when it is lost. Errors if not all come in time.
    pub fn open(meeting: Meeting, place: Place, name: &str, patience: Patience) -> Result<Self, ModelError> {
        let failed = |what: &str, e: &dyn std::fmt::Display| ModelError::Ranks(format!("{what}: {e}"));
        let address = meeting.address().map_err(|e| failed("the address at which ranks meet", &e))?;
        let own = own_address(address).map_err(|e| failed(&format!("no way to {address}"), &e))?;
        let text = |text: String| CString::new(text).map_err(|e| ModelError::Torch(e.to_string()));
        let (host, own) = (text(address.ip().to_string())?, text(own)?);
        let listener = match meeting {
            Meeting::Listen(listener) => listener.into_raw_fd(),
            Meeting::Connect(_) => -1,
        };
        let (rank, size) = (place.rank as c_int, place.size as c_int);
        let (join, exchange) = (patience.join.as_millis() as i64, patience.exchange.as_millis() as i64);
        let mut out = std::ptr::null_mut();
        // SAFETY: the texts live through the call, and the socket is handed over.
        let opened = checked(|error, room| unsafe {
            difflow_group_open(
                host.as_ptr(),
                address.port(),
                listener,
                own.as_ptr(),
                rank,
                size,
                join,
                exchange,
                &raw mut out,
                error,
                room,
            )
        });
        opened.map_err(|e| failed(&format!("rank {rank} of {size} cannot meet the others at {address}"), &e))?;
        let (processes, exchanged) = (Vec::new(), Mutex::default());
        let mut group = Self { raw: out, place, processes, timeout: patience.exchange, exchanged, device: None };
        let told = group.gather_bytes(&Process::own(name).told())?;
        let processes: Option<Vec<Process>> = told.chunks(TOLD).map(Process::heard).collect();
        group.processes = processes.ok_or_else(|| ModelError::Ranks("a rank does not say who it is".to_owned()))?;
        Ok(group)
    }

    /// What is on a CUDA device is exchanged as it is from now on, by the backend that `open` makes. All ranks come here.
    pub(crate) fn add_device(&mut self, index: usize, open: Open) -> Result<(), ModelError> {
        // SAFETY: a live group, and the function of difflow's library for NCCL.
        let added = self.call(0, |e, n| unsafe { difflow_group_add_device(self.raw, index as c_int, open, e, n) });
        added.map_err(|e| ModelError::Ranks(format!("NCCL does not start on cuda:{index}: {e}")))?;
        self.device = Some(index);
        Ok(())
    }

    /// Where a tensor of this device has to be to be exchanged.
    pub(crate) fn exchanges_on(&self, device: Device) -> Device {
        if self.device.is_some_and(|index| device == Device::Cuda(index)) { device } else { Device::Cpu }
    }

    /// Returns what the exchanges since the last call took, and begins to count anew.
    pub fn take_exchanged(&self) -> Exchanged {
        std::mem::take(&mut self.exchanged.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns which of the ranks this one is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Returns how many of the ranks before this one are on its machine.
    pub fn before_here(&self) -> usize {
        let own = self.processes.get(self.place.rank).map(|process| &process.machine);
        self.processes.iter().take(self.place.rank).filter(|process| Some(&process.machine) == own).count()
    }

    /// Returns the numbers of all ranks, in the order of the ranks. All give as many.
    pub fn gather(&self, own: &[f64]) -> Result<Vec<f64>, ModelError> {
        Ok(Vec::try_from(self.gathered(&Tensor::f_from_slice(own)?)?)?)
    }

    /// Returns the bytes of all ranks, in the order of the ranks. All give as many.
    pub fn gather_bytes(&self, own: &[u8]) -> Result<Vec<u8>, ModelError> {
        Ok(Vec::try_from(self.gathered(&Tensor::f_from_slice(own)?)?)?)
    }

    /// The flat tensors of all ranks, in the order of the ranks.
    pub(crate) fn gathered(&self, own: &Tensor) -> Result<Tensor, ModelError> {
        let all = Tensor::f_empty([own.size1()? * self.place.size as i64], (own.kind(), own.device()))?;
        let sent = bytes(own) * self.others();
        // SAFETY: live contiguous tensors, that of the result as large as those of all ranks.
        self.call(sent, |e, n| unsafe { difflow_group_all_gather(self.raw, raw(&all), raw(own), e, n) })?;
        Ok(all)
    }

    /// Returns the bytes of rank `root`; all give as many.
    pub fn bytes_of(&self, root: usize, own: &[u8]) -> Result<Vec<u8>, ModelError> {
        let mut tensor = Tensor::f_from_slice(own)?;
        self.broadcast(&mut tensor, root)?;
        Ok(Vec::try_from(tensor)?)
    }

    /// Everybody's flat fp32 (or byte) tensor becomes that of rank `root`.
    pub(crate) fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<(), ModelError> {
        let sent = if root == self.place.rank { bytes(tensor) * self.others() } else { 0 };
        // SAFETY: a live contiguous tensor, of one size in all ranks.
        self.call(sent, |e, n| unsafe { difflow_group_broadcast(self.raw, raw(tensor), root as c_int, e, n) })
    }

    /// As [`Group::broadcast`], without waiting. What is started first is exchanged first, and before what is asked for after it.
    pub(crate) fn start_broadcast(&self, tensor: &Tensor, root: usize) -> Result<Started, ModelError> {
        let sent = if root == self.place.rank { bytes(tensor) * self.others() } else { 0 };
        let mut out = std::ptr::null_mut();
        // SAFETY: as above; the exchange keeps the tensor.
        let start =
            |e, n| unsafe { difflow_group_start_broadcast(self.raw, raw(tensor), root as c_int, &raw mut out, e, n) };
        self.call(sent, start)?;
        Ok(Started(out))
    }

    /// As [`Group::all_to_all`], without waiting, as [`Group::start_broadcast`].
    pub(crate) fn start_all_to_all(&self, into: &Tensor, own: &Tensor) -> Result<Started, ModelError> {
        let mut out = std::ptr::null_mut();
        // SAFETY: as `all_to_all`; the exchange keeps the tensors.
        let start = |e, n| unsafe { difflow_group_start_all_to_all(self.raw, raw(into), raw(own), &raw mut out, e, n) };
        self.call(self.parted(own), start)?;
        Ok(Started(out))
    }

    /// Waits until an exchange is done.
    pub(crate) fn finish(&self, started: Started) -> Result<(), ModelError> {
        // SAFETY: what a `start_…` of this group made.
        self.call(0, |e, n| unsafe { difflow_started_wait(started.0, e, n) })
    }

    /// Gives a flat tensor to rank `to`, which [`Group::receive`]s one of the same size.
    pub(crate) fn send(&self, tensor: &Tensor, to: usize) -> Result<(), ModelError> {
        // SAFETY: a live contiguous tensor, of one size in both ranks.
        self.call(bytes(tensor), |e, n| unsafe { difflow_group_send(self.raw, raw(tensor), to as c_int, e, n) })
    }

    /// The tensor becomes that which rank `from` sends.
    pub(crate) fn receive(&self, tensor: &mut Tensor, from: usize) -> Result<(), ModelError> {
        // SAFETY: as above.
        self.call(0, |e, n| unsafe { difflow_group_receive(self.raw, raw(tensor), from as c_int, e, n) })
    }

    /// `out` gets this rank's part of the `own` of every rank, in the order of the ranks: flat tensors whose size is a multiple of the
    /// number of ranks.
    pub(crate) fn all_to_all(&self, out: &mut Tensor, own: &Tensor) -> Result<(), ModelError> {
        // SAFETY: live contiguous tensors of one size.
        self.call(self.parted(own), |e, n| unsafe { difflow_group_all_to_all(self.raw, raw(out), raw(own), e, n) })
    }

    /// Bytes that a rank sends of a tensor of which each gets a part.
    fn parted(&self, own: &Tensor) -> u64 {
        bytes(own) / self.place.size as u64 * self.others()
    }

    /// Everybody's flat fp32 tensor becomes the sum of all. libtorch adds, in an order that depends on the number of ranks and on where in the
    /// tensor an element is; all ranks get the same bytes.
    pub(crate) fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), ModelError> {
        // Each part goes around once to be added to, and once more.
        let sent = 2 * self.parted(tensor);
        // SAFETY: a live contiguous tensor, of one size in all ranks.
        self.call(sent, |e, n| unsafe { difflow_group_all_reduce(self.raw, raw(tensor), e, n) })
    }

    /// An exchange that sends so many bytes; where it fails, the error says which ranks are lost.
    fn call(&self, sent: u64, exchange: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), ModelError> {
        let began = Instant::now();
        checked(exchange).map_err(|e| ModelError::Ranks(self.explained(&e)))?;
        let mut exchanged = self.exchanged.lock().unwrap_or_else(PoisonError::into_inner);
        exchanged.seconds += began.elapsed().as_secs_f64();
        exchanged.bytes += sent;
        Ok(())
    }

    fn others(&self) -> u64 {
        self.place.size as u64 - 1
    }

    fn explained(&self, error: &ModelError) -> String {
        let Place { rank, size } = self.place;
        let own = self.processes.get(rank).map(|process| process.machine.as_str());
        let others = || self.processes.iter().enumerate().filter(|(number, _)| *number != rank);
        let called = |number: usize, Process { name, id, host, .. }: &Process| {
            format!("rank {number} of {size} ({name}, process {id} on {host})")
        };
        let lost = |(number, process): (usize, &Process)| {
            let how = process.lost().filter(|_| own == Some(process.machine.as_str()))?;
            Some(format!("{} {how}; ", called(number, process)))
        };
        let mut text: String = others().filter_map(lost).collect();
        if text.is_empty() {
            let seconds = self.timeout.as_secs_f64();
            let names: Vec<String> = others().map(|(number, process)| called(number, process)).collect();
            let which = if names.len() == 1 { "" } else { "one of " };
            text = format!(
                "{which}{} failed, or did not answer for {seconds} s; what it wrote says more, and so may the network between the \
                 machines; ",
                names.join(", ")
            );
        }
        format!("{text}start the run again, it goes on from the last checkpoint ({error})")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: made by `open`, closed once.
        unsafe { difflow_group_close(self.raw) }
    }
}

/// The address of this machine on the way to another, at which a rank waits for the others' exchanges; nothing is sent.
///
/// # Errors
/// There is no way to the other.
pub fn own_address(other: SocketAddr) -> std::io::Result<String> {
    let any: SocketAddr = if other.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(other)?;
    Ok(socket.local_addr()?.ip().to_string())
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
