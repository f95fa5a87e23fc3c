//! A server of a model, until it is dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use difflow_inference::{Blocks, tiny};
use difflow_tests::Http;
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(120);

pub struct Served {
    child: Child,
    lines: Receiver<String>,
    pub http: Http,
    pub model: PathBuf,
    folder: Option<TempDir>,
}

impl Served {
    /// Serves the model in a folder.
    pub fn start(model: &Path, options: &[&str]) -> Self {
        Self::with(model, options, &[])
    }

    pub fn with(model: &Path, options: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_difflow"))
            .args(["serve", "--port", "0", "--device", "cpu", "--threads", "1", "--name", "tiny", "--checkpoint"])
            .arg(model)
            .args(options)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        let other = sender.clone();
        thread::spawn(move || out.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        thread::spawn(move || err.lines().map_while(Result::ok).all(|line| other.send(format!("E {line}")).is_ok()));
        let mut said = Vec::new();
        let port = loop {
            let line = lines.recv_timeout(LONG).unwrap_or_else(|_| panic!("it does not serve: {said:?}"));
            if let Some(url) = line.strip_prefix("serving at http://127.0.0.1:") {
                break url.split('/').next().unwrap().parse().unwrap();
            }
            said.push(line);
        };
        Self { child, lines, http: Http::new(port), model: model.to_owned(), folder: None }
    }

    fn of(write: impl FnOnce(&Path), options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Its path must stand in no answer.
        let model = folder.path().join("secret-place");
        write(&model);
        let mut served = Self::start(&model, options);
        served.folder = Some(folder);
        served
    }

    /// A diffusion model that fills whole canvases.
    pub fn diffusion(options: &[&str]) -> Self {
        Self::of(|folder| tiny::write_model(folder, true, 0.3), options)
    }

    /// A base model that reads from left to right.
    pub fn base(options: &[&str]) -> Self {
        Self::of(|folder| tiny::write_model(folder, false, 0.3), options)
    }

    /// A model of block diffusion that also reads from left to right.
    pub fn blocks(options: &[&str]) -> Self {
        Self::of(write_blocks, options)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http.port)
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), signal) };
    }

    /// Waits until it says something that begins so; `E ` stands before its errors.
    pub fn says(&self, beginning: &str) {
        while !self.lines.recv_timeout(LONG).unwrap().starts_with(beginning) {}
    }

    /// Waits for the end; what it said on the way.
    pub fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().unwrap();
        (status, self.lines.iter().collect())
    }

    /// A counter of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.http.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Bytes of memory that the program has.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

pub fn write_blocks(folder: &Path) {
    let blocks = Blocks { size: 4, context: difflow_model::Context::Causal, shift: false, ar_weight: 0.5 };
    tiny::write_model(folder, true, 0.3);
    tiny::mark(folder, difflow_model::Objective::Block(blocks));
    tiny::write_origin(folder, None, |origin| origin.blocks = Some("4:3,row".to_owned()));
}
