//! A plain HTTP client, which can also misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Far above what any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The data of the server-sent events of a name; those without one are `message`.
    pub fn events(&self, name: &str) -> Vec<String> {
        let of = |event: &str| {
            let field = |start: &str| event.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
            (field("event: ").unwrap_or("message".into()), field("data: "))
        };
        let events = self.body.split("\n\n").map(of);
        events.filter(|(of, _)| of == name).filter_map(|(_, data)| data).collect()
    }
}

/// A server at a port of this machine.
#[derive(Debug, Clone)]
pub struct Http {
    pub port: u16,
    /// Lines for every head, each with its end.
    pub head: String,
}

impl Http {
    pub fn new(port: u16) -> Self {
        Self { port, head: String::new() }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    pub fn get(&self, path: &str) -> Answer {
        self.raw(self.request("GET", path, None).as_bytes())
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.raw(self.request("POST", path, Some(&body.to_string())).as_bytes())
    }

    /// A request as it is sent.
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> String {
        let Self { port, head } = self;
        let start = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{head}");
        match body {
            None => start + "\r\n",
            Some(body) => {
                format!("{start}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            }
        }
    }

    /// Sends bytes and reads the answer to its end.
    pub fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // A server that has seen enough may close before it has everything.
        _ = stream.write_all(request);
        read(stream)
    }
}

/// Reads an answer to its end. An empty one has status 0.
pub fn read(stream: impl Read) -> Answer {
    let mut stream = BufReader::new(stream);
    let (mut head, mut line) = (String::new(), String::new());
    while stream.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line != "\r\n" {
        head += &line;
        line.clear();
    }
    let head = head.to_lowercase();
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut bytes = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let mut size = String::new();
            if !stream.read_line(&mut size).is_ok_and(|bytes| bytes > 0) {
                break;
            }
            let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
            let mut chunk = vec![0; size + 2];
            if size == 0 || stream.read_exact(&mut chunk).is_err() {
                break;
            }
            bytes.extend(&chunk[..size]);
        }
    } else {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        _ = stream.take(length.unwrap_or(u64::MAX)).read_to_end(&mut bytes);
    }
    Answer { status, head, body: String::from_utf8_lossy(&bytes).into_owned() }
}
