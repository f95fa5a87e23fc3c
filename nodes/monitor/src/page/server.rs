//! The page over HTTP. Every route is a GET; no request can change anything.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use difflow_schema::run::RunDir;
use futures::stream::{StreamExt, unfold};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio_io_timeout::TimeoutStream;

use super::access::{Access, Verdict};
use super::view::{News, View};
use super::{GOODBYE, samples};

/// Most readers of events at a time.
const READERS: usize = 16;
/// Most connections at a time.
const CONNECTIONS: usize = 64;
/// The longest head of a request, in bytes.
const HEAD: usize = 16 << 10;
/// Most header lines of a request.
const HEADERS: usize = 64;
/// How long a request may take to come in, and a piece of an answer to go out.
const PATIENCE: Duration = Duration::from_secs(10);
/// Updates that a reader may be behind; then it is told everything anew.
const BEHIND: usize = 8;
/// Between two signs of life to a reader for whom there is no news.
const ALIVE: Duration = Duration::from_secs(15);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ASSETS: [(&str, &str, &str); 10] = [
    ("/", HTML, include_str!("assets/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("/main.js", SCRIPT, include_str!("assets/main.js")),
    ("/chart.js", SCRIPT, include_str!("assets/chart.js")),
    ("/format.js", SCRIPT, include_str!("assets/format.js")),
    ("/attention.js", SCRIPT, include_str!("assets/attention.js")),
    ("/batch.js", SCRIPT, include_str!("assets/batch.js")),
    ("/samples.js", SCRIPT, include_str!("assets/samples.js")),
    ("/health.js", SCRIPT, include_str!("assets/health.js")),
];

/// Nothing from elsewhere, nothing inline, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The report has its styles inside, and no script.
const REPORT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                             frame-ancestors 'none'";

/// An event for readers: its name, and JSON.
#[derive(Debug, Clone)]
struct Told {
    event: &'static str,
    data: Arc<str>,
}

/// The last event.
const END: &str = "end";

/// Between the monitor's thread and the page's.
pub struct Shared {
    run: String,
    dir: RunDir,
    pub access: Access,
    view: Mutex<View>,
    told: broadcast::Sender<Told>,
    /// The last event, once there is one.
    end: OnceLock<Told>,
    readers: Arc<Semaphore>,
}

impl Shared {
    pub fn new(run: &str, dir: RunDir, access: Access) -> Self {
        let (told, _) = broadcast::channel(BEHIND);
        let (view, end, readers) = (Mutex::default(), OnceLock::new(), Arc::new(Semaphore::new(READERS)));
        Self { run: run.to_owned(), dir, access, view, told, end, readers }
    }

    /// Takes news and tells the readers.
    pub fn publish(&self, news: News) {
        // Sent under the lock, so that a reader who comes now gets either the state with it or the update, in this order.
        let mut view = self.view();
        let data = view.take(news).into();
        _ = self.told.send(Told { event: "update", data });
    }

    /// The same for the last time.
    pub fn end(&self, news: News) {
        let mut view = self.view();
        let end = Told { event: END, data: view.take(news).into() };
        _ = self.end.set(end.clone());
        _ = self.told.send(end);
    }

    /// Everything there is, and what comes after it: the end, if it has come.
    fn enter(&self) -> (Told, broadcast::Receiver<Told>) {
        let view = self.view();
        let state = Told { event: "state", data: view.state(&self.run).into() };
        let Some(end) = self.end.get() else { return (state, self.told.subscribe()) };
        let (again, news) = broadcast::channel(1);
        _ = again.send(end.clone());
        (state, news)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until `stopped`, and until readers have what they asked for, but not longer than [`GOODBYE`].
///
/// # Errors
/// When the system takes the listener back.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let service = TowerToHyperService::new(routes(shared));
    let mut http = http1::Builder::new();
    // One request a connection, so that a reader who is done holds no place.
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    http.max_buf_size(HEAD).max_headers(HEADERS);
    let accepting = async {
        loop {
            let Ok(place) = connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let mut stream = TimeoutStream::new(stream);
                    stream.set_write_timeout(Some(PATIENCE));
                    let answering = http.serve_connection(TokioIo::new(Box::pin(stream)), service.clone());
                    tokio::spawn(async move {
                        // A reader who goes away is no event.
                        _ = answering.await;
                        drop(place);
                    });
                }
                // Out of file handles: they come back when readers leave.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let leaving = async {
        _ = stopped.wait_for(|stop| *stop).await;
        // One place is taken by whoever comes next; all others are free when the last reader has taken the last event.
        _ = tokio::time::timeout(GOODBYE, connections.acquire_many(CONNECTIONS as u32 - 1)).await;
    };
    tokio::select! {
        () = accepting => {}
        () = leaving => {}
    }
    Ok(())
}

fn routes(shared: Arc<Shared>) -> Router {
    let assets = ASSETS.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(async move || ([(CONTENT_TYPE, kind)], text)))
    });
    assets
        .route("/samples/{step}", get(texts))
        .route("/report.html", get(report))
        .route("/events", get(events))
        .fallback(async || missing("there is nothing here"))
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

fn missing(reason: impl Into<String>) -> Response {
    (StatusCode::NOT_FOUND, reason.into()).into_response()
}

/// Answers those who may read, and tells every browser to be strict.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut answer = match refusal(&shared, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    let headers = answer.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Says why a request is not answered, or how it would be; `None`: it is.
fn refusal(shared: &Shared, request: &Request) -> Option<Response> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let answer = (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "this page is only read: GET");
        return Some(answer.into_response());
    }
    match shared.access.judge(request.uri(), request.headers()) {
        Verdict::Enter => None,
        Verdict::Refuse(reason) => Some((StatusCode::FORBIDDEN, reason).into_response()),
        Verdict::Keep(cookie) => {
            let there = request.uri().path().to_owned();
            Some((StatusCode::SEE_OTHER, [(SET_COOKIE, cookie), (LOCATION, there)]).into_response())
        }
    }
}

async fn texts(State(shared): State<Arc<Shared>>, Path(step): Path<String>) -> Response {
    let Ok(step) = step.parse() else { return missing("there is nothing here") };
    match samples::read(&shared.dir, step) {
        Ok(texts) => ([(CONTENT_TYPE, "application/json")], texts.to_string()).into_response(),
        Err(e) => missing(e.to_string()),
    }
}

async fn report(State(shared): State<Arc<Shared>>) -> Response {
    match std::fs::read(shared.dir.report()) {
        Ok(page) => ([(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, REPORT_POLICY)], page).into_response(),
        Err(_) => missing("there is no report yet"),
    }
}

/// Tells one reader everything, and then what is new, until the end or until it goes away.
async fn events(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(place) = shared.readers.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many readers at a time; close some").into_response();
    };
    let reader = Reader { shared, news: None, ended: false, _place: place };
    let event = |told: Told| Ok::<_, Infallible>(Event::default().event(told.event).data(told.data));
    let alive = KeepAlive::new().interval(ALIVE);
    Sse::new(unfold(reader, Reader::next).map(event)).keep_alive(alive).into_response()
}

/// A reader of events.
struct Reader {
    shared: Arc<Shared>,
    /// `None`: it knows nothing yet.
    news: Option<broadcast::Receiver<Told>>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// What it is told next; `None` after the end.
    async fn next(mut self) -> Option<(Told, Self)> {
        if self.ended {
            return None;
        }
        let told = match &mut self.news {
            Some(news) => news.recv().await,
            None => Err(RecvError::Lagged(0)),
        };
        let told = match told {
            Ok(told) => told,
            Err(RecvError::Closed) => return None,
            // Too far behind: everything anew.
            Err(RecvError::Lagged(_)) => {
                let (state, news) = self.shared.enter();
                self.news = Some(news);
                state
            }
        };
        self.ended = told.event == END;
        Some((told, self))
    }
}
