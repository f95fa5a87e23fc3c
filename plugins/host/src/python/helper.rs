//! A Python process that serves one file.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

/// What stands between it and the file.
const RUNNER: &str = include_str!("runner.py");
/// Numbers of a request at most: neither side ever waits for the other to read while both pipes are full.
const AT_ONCE: usize = 4096;

/// What a file is.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct About {
    pub kind: String,
    pub id: String,
    pub name: String,
    pub version: String,
    pub vendor: String,
    pub license: String,
    pub description: String,
    pub functions: Vec<String>,
    pub config_schema: Value,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Of the configuration, when that is wrong.
    pub pointer: Option<String>,
    pub message: String,
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self { pointer: None, message }
    }
}

/// The process; it ends with this one, whose end closes its input.
#[derive(Debug)]
pub(super) struct Helper {
    pub about: About,
    pipes: Mutex<Pipes>,
}

#[derive(Debug)]
struct Pipes {
    child: Child,
    input: UnixStream,
    output: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts `python3`, which reads the file.
    ///
    /// # Errors
    /// There is no Python, or it cannot use the file.
    pub fn start(file: &Path) -> Result<Self, String> {
        let cannot = |e: Error| format!("cannot start python3, which a schedule in Python needs: {e}");
        let (input, other) = UnixStream::pair().map_err(cannot)?;
        let mut command = Command::new("python3");
        command.arg("-c").arg(RUNNER).arg(file).stdin(Stdio::from(OwnedFd::from(other))).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        // Its copy of the socket: the process's end must be seen.
        drop(command);
        let output = child.stdout.take().ok_or("python3 has no output")?;
        let mut pipes = Pipes { child, input, output: BufReader::new(output) };
        let about = pipes.answer().map_err(|refusal| refusal.message)?;
        let about =
            serde_json::from_value(about).map_err(|e| format!("python3 gave an answer that cannot be read: {e}"))?;
        Ok(Self { about, pipes: Mutex::new(pipes) })
    }

    /// Makes an instance. Returns its number.
    pub fn create(&self, config: &str) -> Result<u64, Refusal> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        pipes.send(&json!({"call": "create", "config": config}), &[])?;
        pipes.answer()?["instance"].as_u64().ok_or_else(|| "an instance without a number".to_owned().into())
    }

    /// Forgets an instance. A process that has ended has forgotten all.
    pub fn destroy(&self, instance: u64) {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        _ = pipes.send(&json!({"call": "destroy", "instance": instance}), &[]);
    }

    /// One function of an instance at all the numbers.
    pub fn call(&self, instance: u64, function: &str, numbers: &[f64], out: &mut [f64]) -> Result<(), Refusal> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        for (numbers, out) in numbers.chunks(AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
            pipes.send(&json!({"call": function, "instance": instance, "count": numbers.len()}), numbers)?;
            pipes.answer()?;
            let mut bytes = vec![0; 8 * out.len()];
            pipes.output.read_exact(&mut bytes).map_err(|e| format!("the answer of python3 is cut short: {e}"))?;
            for (to, eight) in out.iter_mut().zip(bytes.as_chunks().0) {
                *to = f64::from_le_bytes(*eight);
            }
        }
        Ok(())
    }
}

impl Pipes {
    fn send(&mut self, line: &Value, numbers: &[f64]) -> Result<(), Refusal> {
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            // A process that has ended must not end this one by a signal, which is what writing to a pipe does.
            // SAFETY: a socket of ours, and as many bytes as said.
            let sent =
                unsafe { libc::send(self.input.as_raw_fd(), rest.as_ptr().cast(), rest.len(), libc::MSG_NOSIGNAL) };
            match usize::try_from(sent) {
                Ok(sent) => rest = &rest[sent..],
                Err(_) if Error::last_os_error().kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(self.ended()),
            }
        }
        Ok(())
    }

    /// The line of an answer.
    fn answer(&mut self) -> Result<Value, Refusal> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(n) if n > 0 => {}
            _ => return Err(self.ended()),
        }
        let value: Value =
            serde_json::from_str(&line).map_err(|e| format!("python3 answered `{}`: {e}", line.trim()))?;
        match value["error"].as_str() {
            None => Ok(value),
            Some(message) => {
                Err(Refusal { pointer: value["pointer"].as_str().map(str::to_owned), message: message.to_owned() })
            }
        }
    }

    fn ended(&mut self) -> Refusal {
        let how = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        Refusal::from(format!("its python3 process has ended ({how})"))
    }
}
