//! A proxy in front of a server, which spoils answers and counts what it hands on.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What becomes of a request for bytes of an object.
pub enum Fault {
    /// Half of the answer, and nothing more until the client hangs up.
    Stall,
    /// 503, as S3 says that it has too much to do.
    Busy,
    /// Half of the answer, and the end of the connection.
    Cut,
    /// Half of the answer as if it were all.
    Short,
    /// It is handed on after something else has happened.
    After(Box<dyn FnOnce() + Send>),
}

/// A request that it has seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// As `GET /bucket/key`.
    pub what: String,
    /// Bytes of the body that the client got.
    pub bytes: usize,
    /// Whether it was for a part of an object.
    pub range: bool,
    /// How it was signed, as `Bearer`; empty if it was not.
    pub signed: String,
}

#[derive(Default)]
struct State {
    faults: VecDeque<(String, Fault)>,
    always_busy: bool,
    seen: Vec<Seen>,
}

/// The proxy. Its threads end with the test's process.
pub struct BadProxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl BadProxy {
    /// Begins to listen in front of the server at a port of this machine.
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State::default()));
        let own = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = own.clone();
                // A client that hangs up in the middle is what some faults are about.
                std::thread::spawn(move || answer(stream, server, &state).ok());
            }
        });
        Self { port, state }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Spoils the next request for bytes of an object whose key has `part` in it.
    pub fn fault(&self, part: &str, fault: Fault) {
        locked(&self.state).faults.push_back((part.to_owned(), fault));
    }

    /// Answers every request for bytes with 503 from now on, or no longer.
    pub fn always_busy(&self, busy: bool) {
        locked(&self.state).always_busy = busy;
    }

    /// Faults that have not happened yet.
    pub fn faults_left(&self) -> usize {
        locked(&self.state).faults.len()
    }

    /// What it has seen so far of keys with `part` in them.
    pub fn seen(&self, part: &str) -> Vec<Seen> {
        locked(&self.state).seen.iter().filter(|seen| seen.what.contains(part)).cloned().collect()
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request, and one answer.
fn answer(mut client: TcpStream, server: u16, state: &Mutex<State>) -> std::io::Result<()> {
    let (mut reader, mut head) = (BufReader::new(client.try_clone()?), String::new());
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let what = head.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let range = head.lines().any(|line| line.to_lowercase().starts_with("range:"));
    let signature = head.lines().find(|line| line.to_lowercase().starts_with("authorization:"));
    let signed = signature.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default().to_owned();
    let fault = {
        let mut state = locked(state);
        let next = range && state.faults.front().is_some_and(|(part, _)| what.contains(part));
        match (state.always_busy && range, next) {
            (true, _) => Some(Fault::Busy),
            (_, true) => state.faults.pop_front().map(|(_, fault)| fault),
            _ => None,
        }
    };
    let fault = match fault {
        Some(Fault::After(happens)) => {
            happens();
            None
        }
        fault => fault,
    };
    if matches!(fault, Some(Fault::Busy)) {
        let body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
        locked(state).seen.push(Seen { what, bytes: 0, range, signed });
        let head = format!("HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        return client.write_all((head + body).as_bytes());
    }
    let mut upstream = TcpStream::connect(("127.0.0.1", server))?;
    let lines = head.trim_end().lines().filter(|line| !line.to_lowercase().starts_with("connection:"));
    upstream.write_all((lines.collect::<Vec<_>>().join("\r\n") + "\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    let start = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let (head, body) = answer.split_at(start);
    let sent = if fault.is_some() { &body[..body.len() / 2] } else { body };
    locked(state).seen.push(Seen { what, bytes: sent.len(), range, signed });
    if matches!(fault, Some(Fault::Short)) {
        let head = String::from_utf8_lossy(head);
        let lines = head.trim_end().lines().filter(|line| !line.to_lowercase().starts_with("content-length:"));
        let lines = lines.collect::<Vec<_>>().join("\r\n");
        client.write_all(format!("{lines}\r\nContent-Length: {}\r\n\r\n", sent.len()).as_bytes())?;
    } else {
        client.write_all(head)?;
    }
    client.write_all(sent)?;
    if matches!(fault, Some(Fault::Stall)) {
        while client.read(&mut [0])? > 0 {}
    }
    Ok(())
}
