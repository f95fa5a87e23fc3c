//! How a command ended.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Exit code and everything that was written.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output, then standard error.
    pub text: String,
}

impl Outcome {
    /// Runs a command to its end. One that is not over after `limit` is stopped, and the test fails with what was written.
    pub fn of(mut command: Command, limit: Duration) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let read = |stream: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.map(|mut stream| stream.read_to_end(&mut bytes));
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let out = read(child.stdout.take().map(|s| Box::new(s) as _));
        let err = read(child.stderr.take().map(|s| Box::new(s) as _));
        let started = Instant::now();
        let mut over = true;
        let status = loop {
            if let Some(status) = child.try_wait().expect("the program can be waited for") {
                break status;
            }
            if started.elapsed() > limit && over {
                over = false;
                // dora's processes end with their parent: see `difflow run`.
                child.kill().expect("the program can be killed");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let text = out.join().unwrap_or_default() + &err.join().unwrap_or_default();
        assert!(over, "not over after {limit:?}:\n{text}");
        Self { code: status.code().unwrap_or(-1), text }
    }

    /// Fails unless it ended well.
    pub fn well(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.text);
        self
    }

    /// Fails unless it ended with `code` and said every one of `parts`.
    pub fn refused(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}", self.text);
        self.says(parts)
    }

    /// Fails unless it said every one of `parts`.
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.text.contains(part), "`{part}` is not in:\n{}", self.text);
        }
        self
    }
}
