//! The page over HTTP. Every route is a GET; no request can change anything.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, SET_COOKIE};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use difflow_schema::run::RunDir;
use difflow_web::{Access, Page, Refusal, Verdict};
use futures::stream::{StreamExt, unfold};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use super::samples;
use super::view::{News, View};

/// Most readers of events at a time.
const READERS: usize = 16;
/// Updates that a reader may be behind; then it is told everything anew.
const BEHIND: usize = 8;
/// Between two signs of life to a reader for whom there is no news.
const ALIVE: Duration = Duration::from_secs(15);

const HTML: &str = "text/html; charset=utf-8";
const PAGE: Page = Page {
    main: include_str!("assets/main.html"),
    link: r#"<a id="report" class="link" href="report.html" hidden>report</a>"#,
    below: r#"<div id="bar" class="progress" role="progressbar" aria-label="steps done" aria-valuemin="0"><i></i></div>"#,
    sheet: None,
    scripts: &[
        ("/main.js", include_str!("assets/main.js")),
        ("/chart.js", include_str!("assets/chart.js")),
        ("/format.js", include_str!("assets/format.js")),
        ("/attention.js", include_str!("assets/attention.js")),
        ("/batch.js", include_str!("assets/batch.js")),
        ("/samples.js", include_str!("assets/samples.js")),
        ("/health.js", include_str!("assets/health.js")),
    ],
};

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

pub fn routes(shared: Arc<Shared>) -> Router {
    PAGE.files()
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
    difflow_web::be_strict(answer.headers_mut());
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
        Verdict::Refuse(refusal) => Some((StatusCode::FORBIDDEN, reason(refusal)).into_response()),
        Verdict::Keep(cookie) => {
            let there = request.uri().path().to_owned();
            Some((StatusCode::SEE_OTHER, [(SET_COOKIE, cookie), (LOCATION, there)]).into_response())
        }
    }
}

fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Host => "this page is read under an address or as localhost, not under another name",
        Refusal::Token => "this page needs its token: add ?token= and the monitor's PAGE_TOKEN to the address",
        Refusal::Origin => "this page is read by itself, not by other pages",
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
