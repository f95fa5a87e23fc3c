//! Runs programs that a model wrote: in a process that has no network, writes no file, starts no other process, and has limits on time
//! and memory. It needs Linux with user namespaces.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take.
const TIME: Duration = Duration::from_secs(10);
/// Bytes of memory that it may take.
const MEMORY: u64 = 2 << 30;
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Where programs are run.
#[derive(Debug)]
pub struct Sandbox {
    python: PathBuf,
}

impl Sandbox {
    /// Looks for Python and tries the limits. Errors if programs cannot be run so here.
    pub fn open() -> io::Result<Self> {
        let all = std::env::var_os("PATH").unwrap_or_default();
        let python = std::env::split_paths(&all).map(|folder| folder.join("python3")).find(|path| path.is_file());
        let python = python.ok_or_else(|| io::Error::other("there is no python3 on PATH, which runs the programs"))?;
        let sandbox = Self { python };
        if !sandbox.passes("assert 1 + 1 == 2\n")? {
            return Err(io::Error::other("a program that is right fails here"));
        }
        Ok(sandbox)
    }

    /// Whether a Python program ends well and in time. Errors if it cannot be run.
    pub fn passes(&self, program: &str) -> io::Result<bool> {
        let folder = std::env::temp_dir();
        let mut command = Command::new(&self.python);
        command.args(["-I", "-S", "-c", program]).current_dir(folder).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: only system calls that are safe between fork and exec; nothing is allocated.
        unsafe { command.pre_exec(confine) };
        let mut child = command.spawn().map_err(|e| io::Error::other(format!("{e}: no user namespaces here?")))?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            if start.elapsed() > TIME {
                child.kill()?;
                child.wait()?;
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Takes from this process what a program may not have.
fn confine() -> io::Result<()> {
    let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let limit = |what, most: u64| {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: a live rlimit.
        done(unsafe { libc::setrlimit(what, &raw const limit) })
    };
    // SAFETY: system calls with constants, live structures and strings that end with NUL.
    unsafe {
        done(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWIPC))?;
        let root = c"/".as_ptr();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        done(libc::mount(c"none".as_ptr(), root, std::ptr::null(), private, std::ptr::null()))?;
        let attributes =
            libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
        let size = std::mem::size_of::<libc::mount_attr>();
        let call = libc::SYS_mount_setattr;
        let set = libc::syscall(call, libc::AT_FDCWD, root, libc::AT_RECURSIVE, &raw const attributes, size);
        done(set as libc::c_int)?;
        done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
    }
    limit(libc::RLIMIT_CPU, TIME.as_secs())?;
    limit(libc::RLIMIT_AS, MEMORY)?;
    limit(libc::RLIMIT_FSIZE, 0)?;
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_NOFILE, 64)?;
    no_processes()
}

/// No new processes from here on, only threads. A limit on their number does not bind root.
fn no_processes() -> io::Result<()> {
    const fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    // glibc then takes clone, whose flags can be looked at.
    const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    // At 0 of what a filter sees is the number of the call, at 16 the low half of its first argument.
    let filter = [
        op(LOAD, 0, 0, 0),
        op(EQUAL, 0, 1, libc::SYS_clone3 as u32),
        op(RETURN, 0, 0, UNKNOWN),
        #[cfg(target_arch = "x86_64")]
        op(EQUAL, 5, 0, libc::SYS_fork as u32),
        #[cfg(target_arch = "x86_64")]
        op(EQUAL, 4, 0, libc::SYS_vfork as u32),
        op(EQUAL, 0, 2, libc::SYS_clone as u32),
        op(LOAD, 0, 0, 16),
        op(ANY_BIT, 0, 1, libc::CLONE_THREAD as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        op(RETURN, 0, 0, REFUSED),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: a live filter, which the kernel copies.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Each program would pass if the limit in its name did not hold.
    #[test]
    fn a_program_has_no_network_files_processes_or_endless_memory() {
        let Ok(sandbox) = Sandbox::open() else {
            difflow_tests::skip("namespaces", "running programs", "no python3 or no user namespaces here");
            return;
        };
        assert!(sandbox.passes("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()").unwrap());
        assert!(!sandbox.passes("assert False").unwrap());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        for (limit, program) in [
            ("files", format!("open({:?}, 'w')", file.display().to_string())),
            ("processes", "import os\nif os.fork() == 0: os._exit(0)".into()),
            ("commands", "import subprocess\nsubprocess.run(['true'], check=True)".into()),
            ("memory", "x = bytearray(3 << 30)".into()),
            ("network", "import socket\nassert len(socket.if_nameindex()) > 1".into()),
            ("environment", "import os\nassert 'HOME' in os.environ".into()),
        ] {
            assert!(!sandbox.passes(&program).unwrap(), "{limit}");
        }
        assert!(!file.exists());
    }
}
