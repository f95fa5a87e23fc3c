//! An S3 server on this machine: `moto`, a process of its own.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Http, python};

/// Far above what its start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stands for a secret: nothing that a run leaves may have it.
pub const SECRET: &str = "HIDDEN-s3cr3t";

/// The server. It ends with the test.
pub struct ObjectServer {
    process: Child,
    http: Http,
    _folder: TempDir,
}

impl ObjectServer {
    /// Starts one with a bucket `corpus`; `None` after saying that `what` is skipped.
    pub fn start(what: &str) -> Option<Self> {
        let python = python(what)?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("log");
        let file = File::create(&log).expect("a file");
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]).stdin(Stdio::null());
        let process = command.stdout(file.try_clone().expect("a second handle")).stderr(file).spawn();
        let mut process = process.expect("Python starts");
        let started = Instant::now();
        let port = loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let port =
                said.split("Running on http://127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next());
            if let Some(port) = port {
                break port.parse().expect("a port");
            }
            let over = process.try_wait().expect("it can be waited for").is_some() || started.elapsed() > PATIENCE;
            assert!(!over, "moto does not start: {said}");
            std::thread::sleep(Duration::from_millis(20));
        };
        // By that moto knows which of Amazon's services is meant.
        let head = "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, \
                    Signature=0\r\n";
        let server = Self { process, http: Http { port, head: head.to_owned() }, _folder: folder };
        server.send("PUT", "corpus", "", &[]);
        Some(server)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.http.port
    }

    /// Puts an object into the bucket; only who has credentials may read it.
    pub fn put(&self, key: &str, content: &[u8]) {
        self.send("PUT", &format!("corpus/{key}"), "", content);
    }

    /// Puts an object into the bucket that everybody may read.
    pub fn put_public(&self, key: &str, content: &[u8]) {
        self.send("PUT", &format!("corpus/{key}"), "x-amz-acl: public-read\r\n", content);
    }

    /// Removes an object.
    pub fn delete(&self, key: &str) {
        self.send("DELETE", &format!("corpus/{key}"), "", &[]);
    }

    fn send(&self, method: &str, path: &str, head: &str, content: &[u8]) {
        let Http { port, head: own } = &self.http;
        let mut request = format!(
            "{method} /{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{own}{head}\
             Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            content.len()
        )
        .into_bytes();
        request.extend(content);
        let answer = self.http.raw(&request);
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Tells a command of a server at a port of this machine, with a secret, and with less patience than people have.
pub fn object_store_env(command: &mut Command, port: u16) {
    for (name, value) in [
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ("AWS_SESSION_TOKEN", format!("{SECRET}-token")),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_MAX_ATTEMPTS", "3".to_owned()),
        ("AWS_TIMEOUT", "1s".to_owned()),
    ] {
        command.env(name, value);
    }
}
