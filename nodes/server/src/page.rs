//! The page to play on.

use difflow_web::Page;

pub const PAGE: Page = Page {
    main: include_str!("page/main.html"),
    link: r#"<a class="link" href="openapi.json">API</a>"#,
    below: "",
    sheet: Some(("/play.css", include_str!("page/play.css"))),
    scripts: &[("/play.js", include_str!("page/play.js"))],
};
