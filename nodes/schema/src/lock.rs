//! File locks: the kernel releases a lock when its process ends, however it ends, so no lock is ever stale.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a lock is waited for: longer than a process of a killed run takes to notice that its daemon is gone.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is held by another process ({holder})", path.display())]
    Taken {
        /// The lock's file.
        path: PathBuf,
        /// Its process id, or `unknown` where it left none.
        holder: String,
    },
    /// The file cannot be made or locked.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Takes the lock `path` and leaves the process id in it. Keep the file: dropping it gives the lock back.
///
/// # Errors
/// When another process still has it after `patience`, or the folder cannot be written to.
pub fn take(path: &Path, patience: Duration) -> Result<File, LockError> {
    let io = |source| LockError::Io { path: path.to_owned(), source };
    // Not truncated: until it is locked, what it says is the holder's.
    let mut file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path).map_err(io)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(e)) => return Err(io(e)),
            Err(TryLockError::WouldBlock) if started.elapsed() >= patience => {
                let mut holder = String::new();
                _ = file.read_to_string(&mut holder);
                let known = !holder.is_empty() && holder.len() < 20 && holder.bytes().all(|b| b.is_ascii_digit());
                let holder = if known { holder } else { "unknown".to_owned() };
                return Err(LockError::Taken { path: path.to_owned(), holder });
            }
            Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(100)),
        }
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
    write!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_once_and_says_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = take(&path, Duration::ZERO).unwrap();
        let error = take(&path, Duration::from_millis(150)).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        take(&path, Duration::ZERO).unwrap();
    }

    /// The file of a killed run stays, with any content; it blocks nobody.
    #[test]
    fn a_file_that_nobody_locks_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "999999999999999999999999 and more").unwrap();
        take(&path, Duration::ZERO).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), std::process::id().to_string());
    }
}
