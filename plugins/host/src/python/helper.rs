//! A Python process that serves one file.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use difflow_plugin_sdk::Error;
use serde::Deserialize;
use serde_json::{Value, json};

/// What stands between it and the file.
const RUNNER: &str = include_str!("runner.py");

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

/// The process; it ends with this one, whose end closes its input.
#[derive(Debug)]
pub(super) struct Helper {
    pub about: About,
    pipes: Mutex<Pipes>,
}

/// A request is read whole before it is answered, so neither side waits for the other to read while both pipes are full.
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
        let cannot = |e: std::io::Error| format!("cannot start python3, which a plug-in in Python needs: {e}");
        let (input, other) = UnixStream::pair().map_err(cannot)?;
        let mut command = Command::new("python3");
        command.arg("-c").arg(RUNNER).arg(file).stdin(Stdio::from(OwnedFd::from(other))).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        // Its copy of the socket: the process's end must be seen.
        drop(command);
        let output = child.stdout.take().ok_or("python3 has no output")?;
        let mut pipes = Pipes { child, input, output: BufReader::new(output) };
        let about = pipes.answer().map_err(|error| error.to_string())?;
        let about =
            serde_json::from_value(about).map_err(|e| format!("python3 gave an answer that cannot be read: {e}"))?;
        Ok(Self { about, pipes: Mutex::new(pipes) })
    }

    /// Makes an instance. Returns its number.
    pub fn create(&self, config: &str) -> Result<u64, Error> {
        let answer = self.pipes().ask(&json!({"call": "create", "config": config}), &[])?;
        answer["instance"].as_u64().ok_or_else(|| Error::state("an instance without a number"))
    }

    /// Forgets an instance. A process that has ended has forgotten all.
    pub fn destroy(&self, instance: u64) {
        _ = self.pipes().send(&json!({"call": "destroy", "instance": instance}), &[]);
    }

    /// One function of an instance at all the numbers.
    pub fn call(&self, instance: u64, function: &str, numbers: &[f64], out: &mut [f64]) -> Result<(), Error> {
        let mut pipes = self.pipes();
        pipes.ask(&json!({"call": function, "instance": instance, "count": numbers.len()}), numbers)?;
        let mut bytes = vec![0; 8 * out.len()];
        let read = pipes.output.read_exact(&mut bytes);
        read.map_err(|e| Error::state(format!("the answer of python3 is cut short: {e}")))?;
        for (to, eight) in out.iter_mut().zip(bytes.as_chunks().0) {
            *to = f64::from_le_bytes(*eight);
        }
        Ok(())
    }

    /// A request that is a line only.
    pub fn ask(&self, line: &Value) -> Result<Value, Error> {
        self.pipes().ask(line, &[])
    }

    fn pipes(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipes {
    fn ask(&mut self, line: &Value, numbers: &[f64]) -> Result<Value, Error> {
        self.send(line, numbers)?;
        self.answer()
    }

    fn send(&mut self, line: &Value, numbers: &[f64]) -> Result<(), Error> {
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
                Err(_) if std::io::Error::last_os_error().kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(self.ended()),
            }
        }
        Ok(())
    }

    /// The line of an answer.
    fn answer(&mut self) -> Result<Value, Error> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(n) if n > 0 => {}
            _ => return Err(self.ended()),
        }
        let value: Value = serde_json::from_str(&line).map_err(|e| {
            Error::state(format!("python3 answered `{}`: {e}", line.chars().take(80).collect::<String>()))
        })?;
        let Some(message) = value["error"].as_str() else { return Ok(value) };
        // With a pointer, the configuration is wrong.
        Err(match value["pointer"].as_str() {
            Some(pointer) => Error::config(pointer, message),
            None => Error::state(message),
        })
    }

    fn ended(&mut self) -> Error {
        let how = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        Error::state(format!("its python3 process has ended ({how})"))
    }
}

/// A process that has refused its file, or is of no use, is gone with its pipes, and leaves no zombie.
impl Drop for Pipes {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
