//! The live page: what it shows (`view`), and how it is served (`server`).
//!
//! The monitor passes it new data once a second; everything else happens on a separate thread, so that no reader,
//! however slow, delays the monitor.

mod attention;
mod batch;
mod samples;
mod server;
mod status;
mod view;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use difflow_schema::run::RunDir;
use difflow_web::{Access, Limits};
use tokio::sync::watch;

pub use batch::Words;
pub use samples::{read as texts_of, steps as sample_steps};
pub use status::Status;
pub use view::News;

use server::Shared;

/// One request a connection, so that a reader who is done holds no place; the end waits for readers who have not taken the last event.
const LIMITS: Limits =
    Limits { connections: 64, keep_alive: false, patience: Duration::from_secs(10), goodbye: Duration::from_secs(5) };

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Somebody else listens there.
    #[error(
        "the page's address {0} is taken by another program; the run goes on without its page (PAGE_PORT: 0 takes a free port, PAGE: false wants no page)"
    )]
    Taken(SocketAddr),
    /// Anything else.
    #[error("the page cannot be served at {address}: {source}; the run goes on without its page")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A page that is being served.
pub struct Page {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Page {
    /// Serves the page of the run in `dir` at `address`.
    ///
    /// # Errors
    /// When nothing can listen there.
    pub fn open(run: &str, dir: RunDir, address: SocketAddr, token: &str) -> Result<Self, PageError> {
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => PageError::Taken(address),
            _ => PageError::Io { address, source },
        };
        let listener = TcpListener::bind(address).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let shared = Arc::new(Shared::new(run, dir, Access::new(address.port(), token)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let (stop, stopped) = watch::channel(false);
        let serving = shared.clone();
        let serve = move || {
            if let Err(e) = runtime.block_on(difflow_web::serve(listener, server::routes(serving), LIMITS, stopped)) {
                eprintln!("warning: the page ended: {e}");
            }
        };
        let thread = std::thread::Builder::new().name("page".into()).spawn(serve).map_err(fail)?;
        Ok(Self { address, shared, stop, thread })
    }

    /// What to type into a browser. The token is left out: this ends up in logs.
    pub fn url(&self) -> String {
        let host = match self.address.ip() {
            ip if ip.is_unspecified() => format!("THIS-MACHINE:{}", self.address.port()),
            _ => self.address.to_string(),
        };
        let token = if self.shared.access.wants_token() { "?token=PAGE_TOKEN" } else { "" };
        format!("http://{host}/{token}")
    }

    /// Shows what is new.
    pub fn publish(&self, news: News) {
        self.shared.publish(news);
    }

    /// Shows the last news, gives readers a moment to take it, and ends.
    pub fn end(self, news: News) {
        self.shared.end(news);
        _ = self.stop.send(true);
        if self.thread.join().is_err() {
            eprintln!("warning: the page's thread panicked");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "page/tests.rs"]
mod tests;
