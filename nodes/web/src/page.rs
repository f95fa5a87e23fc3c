//! A page: what all pages have around their own part, and its files.

use std::borrow::Cow;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

const FRAME: &str = include_str!("assets/frame.html");
const STYLE: &str = include_str!("assets/style.css");
const ICON: &str = include_str!("assets/icon.svg");

/// A page, at `/`, and the files that it loads.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Its `<main>`, and no more than that.
    pub main: &'static str,
    /// A link for the right end of the bar.
    pub link: &'static str,
    /// What stands below the bar.
    pub below: &'static str,
    /// Its own style sheet, if it has one: the path, and the text.
    pub sheet: Option<(&'static str, &'static str)>,
    /// Its scripts: paths and texts. The first one is started and imports the others.
    pub scripts: &'static [(&'static str, &'static str)],
}

impl Page {
    /// What answers to GETs of the page and its files.
    pub fn files<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let sheets = [("/style.css", STYLE)].into_iter().chain(self.sheet);
        let own = [("/", "text/html; charset=utf-8", self.html().into()), ("/icon.svg", "image/svg+xml", ICON.into())];
        let files = own
            .into_iter()
            .chain(sheets.map(|(path, text)| (path, "text/css; charset=utf-8", text.into())))
            .chain(self.scripts.iter().map(|&(path, text)| (path, "text/javascript; charset=utf-8", text.into())));
        files.fold(Router::new(), |router, (path, kind, text): (_, _, Cow<'static, str>)| {
            router.route(path, get(async move || ([(CONTENT_TYPE, kind)], text)))
        })
    }

    fn html(&self) -> String {
        let relative = |path: &'static str| path.trim_start_matches('/');
        let sheet = self.sheet.map(|(path, _)| format!("<link rel=\"stylesheet\" href=\"{}\">\n", relative(path)));
        let script = self.scripts.first();
        let script = script.map(|(path, _)| format!("<script type=\"module\" src=\"{}\"></script>", relative(path)));
        let files = [sheet, script].into_iter().flatten().collect::<String>();
        FRAME
            .replace("{files}", &files)
            .replace("{link}", self.link)
            .replace("{below}", self.below)
            .replace("{main}", self.main)
    }
}
