//! The page over HTTP. Every route is a GET; there is nothing that a request could change.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use difflow_schema::run::RunDir;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, StatusCode};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, watch};

use super::access::{Access, Verdict};
use super::http::{self as wire, Answer, answer, refusal};
use super::view::{News, View};
use super::{GOODBYE, samples};

/// Most readers of events at a time.
const READERS: usize = 16;
/// Most connections at a time.
const CONNECTIONS: usize = 64;
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

/// What readers are told.
#[derive(Debug, Clone)]
enum Told {
    Update(Arc<str>),
    End(Arc<str>),
}

/// Between the monitor's thread and the page's.
pub struct Shared {
    run: String,
    dir: RunDir,
    pub access: Access,
    view: Mutex<View>,
    told: broadcast::Sender<Told>,
    /// The last update, once there is one.
    end: OnceLock<Arc<str>>,
    readers: Semaphore,
}

impl Shared {
    pub fn new(run: &str, dir: RunDir, access: Access) -> Self {
        let (told, _) = broadcast::channel(BEHIND);
        let (view, end, readers) = (Mutex::default(), OnceLock::new(), Semaphore::new(READERS));
        Self { run: run.to_owned(), dir, access, view, told, end, readers }
    }

    /// Takes news and tells the readers.
    pub fn publish(&self, news: News) {
        // Sent under the lock, so that a reader who comes now gets either the state with it or the update, in this order.
        let mut view = self.view();
        let update = view.take(news);
        _ = self.told.send(Told::Update(update.into()));
    }

    /// The same for the last time.
    pub fn end(&self, news: News) {
        let mut view = self.view();
        let update: Arc<str> = view.take(news).into();
        _ = self.end.set(update.clone());
        _ = self.told.send(Told::End(update));
    }

    /// Everything there is, the end if it has come, and what comes after it.
    fn enter(&self) -> (String, Option<Arc<str>>, broadcast::Receiver<Told>) {
        let view = self.view();
        (view.state(&self.run), self.end.get().cloned(), self.told.subscribe())
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
    let accepting = async {
        loop {
            let Ok(place) = connections.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        // A reader who goes away is no event.
                        _ = serve_one(stream, &shared).await;
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

async fn serve_one(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let request = match wire::read(&mut stream).await? {
        Ok(request) => request,
        Err(refused) => return wire::write(&mut stream, strict(*refused), false).await,
    };
    let head = request.method() == Method::HEAD;
    let admitted = admit(shared, &request);
    if let Err(refused) = admitted {
        return wire::write(&mut stream, strict(*refused), head).await;
    }
    if request.uri().path() != "/events" || head {
        return wire::write(&mut stream, strict(find(shared, request.uri().path())), head).await;
    }
    match shared.readers.try_acquire() {
        Ok(_place) => follow(&mut stream, shared).await,
        Err(_) => {
            let full = refusal(StatusCode::SERVICE_UNAVAILABLE, "too many readers at a time; close some");
            wire::write(&mut stream, strict(full), head).await
        }
    }
}

/// Lets in who may read; the others get an answer that says why not, or how.
fn admit(shared: &Shared, request: &Request<()>) -> Result<(), Box<Answer>> {
    match shared.access.judge(request.uri(), request.headers()) {
        Verdict::Enter => Ok(()),
        Verdict::Refuse(reason) => Err(refusal(StatusCode::FORBIDDEN, reason).into()),
        Verdict::Keep(cookie) => {
            let mut answer = refusal(StatusCode::SEE_OTHER, "");
            let values = [(SET_COOKIE, cookie), (LOCATION, request.uri().path().to_owned())];
            for (name, value) in values {
                // A path of a request that was read, and a token of letters: both are good values.
                answer.headers_mut().extend(HeaderValue::from_str(&value).map(|value| (name, value)));
            }
            Err(answer.into())
        }
    }
}

/// What lies at `path`.
fn find(shared: &Shared, path: &str) -> Answer {
    if let Some(&(_, kind, text)) = ASSETS.iter().find(|(at, ..)| *at == path) {
        return answer(StatusCode::OK, kind, text.as_bytes());
    }
    if let Some(step) = path.strip_prefix("/samples/").and_then(|step| step.parse().ok()) {
        return match samples::read(&shared.dir, step) {
            Ok(texts) => answer(StatusCode::OK, "application/json", texts.to_string().into_bytes()),
            Err(e) => refusal(StatusCode::NOT_FOUND, e.to_string()),
        };
    }
    match path {
        "/report.html" => match std::fs::read(shared.dir.report()) {
            Ok(page) => {
                let mut answer = answer(StatusCode::OK, HTML, page);
                answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(REPORT_POLICY));
                answer
            }
            Err(_) => refusal(StatusCode::NOT_FOUND, "there is no report yet"),
        },
        _ => refusal(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

/// Tells browsers to be strict.
fn strict(mut answer: Answer) -> Answer {
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        answer.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer
}

/// Tells one reader everything, and then what is new, until the end or until it goes away.
async fn follow(stream: &mut TcpStream, shared: &Shared) -> io::Result<()> {
    wire::begin_events(stream, strict(refusal(StatusCode::OK, ""))).await?;
    let mut told = everything(stream, shared).await?;
    while let Some(news) = &mut told {
        let mut nothing = [0; 64];
        tokio::select! {
            news = news.recv() => match news {
                Ok(Told::Update(update)) => wire::event(stream, "update", &update).await?,
                Ok(Told::End(update)) => return wire::event(stream, "end", &update).await,
                // Too far behind: everything anew.
                Err(RecvError::Lagged(_)) => told = everything(stream, shared).await?,
                Err(RecvError::Closed) => return Ok(()),
            },
            // Nothing more is asked on this connection; its end is the reader's.
            read = stream.read(&mut nothing) => if read? == 0 { return Ok(()) },
            () = tokio::time::sleep(ALIVE) => wire::sign_of_life(stream).await?,
        }
    }
    Ok(())
}

/// Tells everything; what comes after it, if anything does.
async fn everything(stream: &mut TcpStream, shared: &Shared) -> io::Result<Option<broadcast::Receiver<Told>>> {
    let (state, end, told) = shared.enter();
    wire::event(stream, "state", &state).await?;
    match end {
        Some(end) => wire::event(stream, "end", &end).await.map(|()| None),
        None => Ok(Some(told)),
    }
}
