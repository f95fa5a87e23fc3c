//! The page to play on.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const SHEET: &str = "text/css; charset=utf-8";
const ASSETS: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/play.js", SCRIPT, include_str!("page/play.js")),
    ("/play.css", SHEET, include_str!("page/play.css")),
    ("/style.css", SHEET, difflow_web::STYLE),
    ("/icon.svg", "image/svg+xml", difflow_web::ICON),
];

/// Its files.
pub fn files<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(async move || ([(CONTENT_TYPE, kind)], text)))
    })
}
