//! How a server is set up.

use std::net::SocketAddr;
use std::time::Duration;

/// What a server needs to know besides the model.
#[derive(Debug, Clone)]
pub struct Settings {
    pub address: SocketAddr,
    /// What a request must bring; empty: nothing.
    pub token: String,
    /// What the model is called.
    pub name: String,
    pub limits: Limits,
}

/// What one server grants.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Texts of one forward.
    pub rows: usize,
    /// Texts that wait.
    pub queue: usize,
    /// Bytes of a request.
    pub body: usize,
    /// Tokens of a text, with what is given; `None`: as many as the model was made for.
    pub tokens: Option<usize>,
    /// How long an answer may take.
    pub time: Duration,
    pub connections: usize,
    /// Bytes of keys and values that are kept for texts that begin like texts before them, while nothing is written.
    pub kept: usize,
}

impl Limits {
    /// `kept`, of so many MiB.
    pub fn kept_mib(mib: usize) -> usize {
        mib.saturating_mul(1 << 20)
    }
}

impl Default for Limits {
    fn default() -> Self {
        let (tokens, time, kept) = (None, Duration::from_secs(300), Self::kept_mib(256));
        Self { rows: 32, queue: 256, body: 1 << 20, tokens, time, connections: 256, kept }
    }
}
