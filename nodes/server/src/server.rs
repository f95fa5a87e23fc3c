//! A server: its threads, and what they share.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use difflow_inference::Opening;
use difflow_web::Access;
use tokio::sync::{Semaphore, watch};

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::model::Loaded;
use crate::queue::Queue;
use crate::settings::Settings;
use crate::{routes, worker};

/// Gap lengths that are searched or wait for it.
const SEARCHES: usize = 32;
/// How long a request's head may take to come in, and a piece of an answer to go out.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between the threads of a server.
pub struct Shared {
    pub settings: Settings,
    pub access: Access,
    pub queue: Queue,
    pub metrics: Metrics,
    /// A search takes the machine for itself: one at a time, and so many wait.
    pub searching: Semaphore,
    pub searches: Arc<Semaphore>,
    model: RwLock<Option<Arc<Loaded>>>,
    next: Mutex<Option<Arc<Loaded>>>,
}

impl Shared {
    /// The model that is served; `None` before there is one.
    pub fn model(&self) -> Option<Arc<Loaded>> {
        self.model.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same for a request.
    pub fn served(&self) -> Result<Arc<Loaded>, ApiError> {
        self.model().ok_or_else(ApiError::loading)
    }

    pub fn has_model(&self) -> bool {
        self.model().is_some()
    }

    /// Whether another model waits to be served.
    pub fn has_next(&self) -> bool {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Serves the model that waits.
    pub fn switch(&self) {
        if let Some(next) = self.next.lock().unwrap_or_else(PoisonError::into_inner).take() {
            *self.model.write().unwrap_or_else(PoisonError::into_inner) = Some(next);
            self.metrics.switched();
        }
    }

    fn offer(&self, model: Loaded) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(model));
        if !self.has_model() {
            self.switch();
        }
        self.queue.wake();
    }
}

/// Why there is no server, or it has no model.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody else listens there.
    #[error("{0} is taken by another program; allowed: a free port, or 0 for any")]
    Taken(SocketAddr),
    /// Anything else.
    #[error("cannot listen at {address}: {source}")]
    Io { address: SocketAddr, source: io::Error },
    /// The model cannot be opened.
    #[error("{0}")]
    Model(Box<dyn std::error::Error + Send + Sync>),
}

/// A server that listens. It answers once it has a model.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    http: JoinHandle<()>,
    worker: JoinHandle<()>,
}

impl Server {
    /// Listens. Errors when nothing can listen there.
    pub fn open(mut settings: Settings) -> Result<Self, ServerError> {
        let address = settings.address;
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ServerError::Taken(address),
            _ => ServerError::Io { address, source },
        };
        let listener = TcpListener::bind(address).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        settings.address = listener.local_addr().map_err(fail)?;
        let shared = Arc::new(Shared {
            access: Access::new(settings.address.port(), &settings.token),
            queue: Queue::new(settings.limits.queue),
            metrics: Metrics::default(),
            searching: Semaphore::new(1),
            searches: Arc::new(Semaphore::new(SEARCHES)),
            model: RwLock::default(),
            next: Mutex::default(),
            settings,
        });
        // Two threads for all connections; tokenizing and searches have threads of their own.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(fail)?;
        let (stop, stopped) = watch::channel(false);
        let limits = difflow_web::Limits {
            connections: shared.settings.limits.connections,
            keep_alive: true,
            patience: PATIENCE,
            goodbye: shared.settings.limits.time,
        };
        let routes = routes::all(shared.clone());
        let serve = move || {
            if let Err(e) = runtime.block_on(difflow_web::serve(listener, routes, limits, stopped)) {
                eprintln!("error: the server ended: {e}");
            }
            // A search that nobody waits for is not waited for either.
            runtime.shutdown_background();
        };
        let http = std::thread::Builder::new().name("http".into()).spawn(serve).map_err(fail)?;
        let own = shared.clone();
        let worker = std::thread::Builder::new().name("model".into()).spawn(move || worker::run(&own)).map_err(fail)?;
        Ok(Self { address: shared.settings.address, shared, stop, http, worker })
    }

    /// Serves this checkpoint from now on, when what is being written is done; until then, the one before. Errors if it cannot be opened
    /// or has other tokens.
    pub fn serve(&self, checkpoint: &Path, opening: &Opening) -> Result<(), ServerError> {
        // In a thread that ends, and its threads with it: with more of them than processors, those that compute would sleep between any two
        // operations, and a text by itself take twice as long.
        let tokens = self.shared.settings.limits.tokens;
        let opened = std::thread::scope(|scope| scope.spawn(|| Loaded::open(checkpoint, opening, tokens)).join());
        let model = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(ServerError::Model)?;
        if let Some(before) = self.shared.model() {
            before.session.words().agree(model.session.words()).map_err(|e| ServerError::Model(e.into()))?;
        }
        self.shared.offer(model);
        Ok(())
    }

    /// What to type into a browser. The token is left out: this ends up in logs.
    pub fn url(&self) -> String {
        let host = match self.address.ip() {
            ip if ip.is_unspecified() => format!("THIS-MACHINE:{}", self.address.port()),
            _ => self.address.to_string(),
        };
        let token = if self.shared.access.wants_token() { "?token=TOKEN" } else { "" };
        format!("http://{host}/{token}")
    }

    /// Takes no more requests, gives those that came their answers, and ends.
    pub fn end(self) {
        self.shared.queue.end();
        _ = self.stop.send(true);
        for thread in [self.http, self.worker] {
            // Who waits for nothing any more is not written for.
            if thread.join().is_err() {
                eprintln!("error: a thread of the server panicked");
            }
            self.shared.queue.clear();
        }
    }
}
