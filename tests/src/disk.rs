//! A disk of the test's own that can be full or read-only.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip;

/// A mounted tmpfs; unmounted when dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts a disk of `kib` on a new folder at `path`; `None`, after saying that `what` is skipped, for users who may not.
    pub fn mount(path: &Path, kib: u64, what: &str) -> Option<Self> {
        std::fs::create_dir(path).expect("a folder");
        let size = format!("size={kib}k");
        let done = mount(&["-t", "tmpfs", "-o", &size, "tmpfs"], path);
        if !done {
            skip("tmpfs", what, "this user may not mount a tmpfs");
        }
        done.then(|| Self(path.to_owned()))
    }

    /// Changes its options, such as `ro`, `rw` or `size=1m`.
    pub fn remount(&self, options: &str) {
        assert!(mount(&["-o", &format!("remount,{options}")], &self.0), "remount,{options}");
    }
}

fn mount(arguments: &[&str], path: &Path) -> bool {
    Command::new("mount").args(arguments).arg(path).output().is_ok_and(|output| output.status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
