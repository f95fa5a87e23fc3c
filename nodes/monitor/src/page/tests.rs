//! The page as a reader on the network sees it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use difflow_schema::Preview;
use difflow_tests::Browser;

use super::*;
use crate::history::History;
use crate::history::tests::row;

const TOKEN: &str = "a-secret-of-this-test";

fn open(dir: &Path, token: &str) -> Page {
    Page::open("r", RunDir::new(dir, "r"), "127.0.0.1:0".parse().unwrap(), token).unwrap()
}

/// Sends a request as it stands and reads the whole answer.
fn ask(page: &Page, request: &str) -> String {
    let mut stream = TcpStream::connect(page.address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(page: &Page, path: &str) -> String {
    ask(page, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", page.address))
}

fn news(history: &History, state: &'static str) -> News {
    let step = history.metric("loss").map(|series| series.last().0);
    let status = Status { state, step, total: Some(1_000_000), ..Status::default() };
    let charts = crate::curves::charts(history);
    News { series: crate::curves::values(history, &charts), charts, status, ..News::default() }
}

/// A reader of the page's events, in a version of HTTP that sends them without chunks.
fn events(page: &Page) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(page.address).unwrap();
    stream.write_all(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    BufReader::new(stream)
}

#[test]
fn everything_that_the_page_loads_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let page = open(dir.path(), "");
    let index = get(&page, "/");
    assert!(index.starts_with("HTTP/1.1 200 OK\r\n") && index.contains("text/html"), "{index}");
    for header in ["content-security-policy: default-src 'none'", "nosniff", "connection: close", "no-referrer"] {
        assert!(index.contains(header), "{header} not in {index}");
    }
    let mut files = vec!["style.css", "icon.svg", "main.js"];
    let main = get(&page, "/main.js");
    files.extend(main.split("\"./").skip(1).filter_map(|rest| rest.split('"').next()));
    assert!(files.len() >= 9, "{files:?}");
    for file in files {
        assert!(get(&page, &format!("/{file}")).starts_with("HTTP/1.1 200 OK"), "{file}");
    }
    for (path, status) in
        [("/report.html", "404"), ("/samples/0", "404"), ("/samples/../run.json", "404"), ("/run.json", "404")]
    {
        assert!(get(&page, path).starts_with(&format!("HTTP/1.1 {status}")), "{path}");
    }
    page.end(News::default());
}

#[test]
fn a_page_is_read_only_and_knows_its_readers() {
    let dir = tempfile::tempdir().unwrap();
    let (open_page, closed) = (open(dir.path(), ""), open(dir.path(), TOKEN));
    assert!(ask(&open_page, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").starts_with("HTTP/1.1 403"));
    assert!(!ask(&open_page, "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").contains("<html"));
    for path in ["/", "/events", "/main.js", "/report.html", "/samples/0"] {
        let refused = get(&closed, path);
        assert!(refused.starts_with("HTTP/1.1 403") && !refused.contains(TOKEN), "{path}: {refused}");
    }
    let welcome = get(&closed, &format!("/?token={TOKEN}"));
    assert!(welcome.starts_with("HTTP/1.1 303") && welcome.contains("location: /\r\n"), "{welcome}");
    let cookie = welcome.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().split(';').next().unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: any.name\r\nCookie: {cookie}\r\n\r\n");
    assert!(ask(&closed, &request).starts_with("HTTP/1.1 200"));
    assert!(!closed.url().contains(TOKEN) && closed.url().contains("?token=PAGE_TOKEN"));
    open_page.end(News::default());
    closed.end(News::default());
}

/// Nothing that a page of another site can make a browser send may change a run.
#[test]
fn what_could_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let page = open(dir.path(), "");
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "ANYTHING"] {
        for path in ["/", "/events", "/nothing"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n");
            let refused = ask(&page, &request);
            assert!(refused.starts_with("HTTP/1.1 405") && refused.contains("allow: GET, HEAD"), "{method}: {refused}");
            assert!(refused.contains("content-security-policy: default-src 'none'"), "{refused}");
        }
    }
    page.end(News::default());
}

#[test]
fn what_is_no_http_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let page = open(dir.path(), "");
    let many: String = (0..100).map(|n| format!("a{n}: b\r\n")).collect();
    let long = "a".repeat(20_000);
    for (request, status) in [
        ("hello\r\n\r\n", "400"),
        ("GET / HTTP/9.9\r\n\r\n", "400"),
        ("GET  HTTP/1.1\r\n\r\n", "400"),
        ("GET /\u{7f} HTTP/1.1\r\n\r\n", "400"),
        (&format!("GET / HTTP/1.1\r\n{many}\r\n"), "431"),
        (&format!("GET / HTTP/1.1\r\nHost: {long}"), "431"),
    ] {
        let refused = ask(&page, request);
        assert!(refused.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {refused:?}");
    }
    page.end(News::default());
}

/// A reader who comes after the last news still learns that there will be no more.
#[test]
fn a_reader_who_comes_after_the_end_is_told_everything_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let page = open(dir.path(), "");
    page.shared.end(News::default());
    let mut told = String::new();
    events(&page).read_to_string(&mut told).unwrap();
    let events: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(events, ["state", "end"]);
    page.end(News::default());
}

/// Another port than the one that was asked for would be a page that nobody finds.
#[test]
fn a_taken_port_is_an_error_that_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Page::open("r", RunDir::new("runs", "r"), address, "").err().unwrap().to_string();
    for part in [address.to_string().as_str(), "is taken", "PAGE_PORT", "the run goes on"] {
        assert!(error.contains(part), "{part} not in {error}");
    }
}

#[test]
fn events_are_the_state_then_updates_then_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let page = open(dir.path(), "");
    let mut history = History::default();
    history.add(&row("loss", 1, 5.0));
    page.publish(news(&history, "training"));
    let mut lines = events(&page).lines().map_while(Result::ok).filter(|line| !line.is_empty());
    assert!(lines.by_ref().any(|line| line == "event: state"));
    assert!(lines.next().unwrap().contains(r#""loss":{"from":0,"points":[[1,5.0]]}"#));
    history.add(&row("loss", 2, 4.0));
    page.publish(news(&history, "training"));
    assert_eq!(lines.next().unwrap(), "event: update");
    assert!(lines.next().unwrap().contains(r#""loss":{"from":1,"points":[[2,4.0]]}"#));
    page.end(news(&history, "ended"));
    assert_eq!(lines.next().unwrap(), "event: end");
    assert!(lines.next().unwrap().contains(r#""state":"ended""#));
    assert_eq!(lines.next(), None, "the stream goes on after the end");
}

/// A reader who falls behind is told everything anew; the end must not get lost in that.
#[test]
fn a_reader_who_is_behind_is_told_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let page = open(dir.path(), "");
    let mut history = History::default();
    history.add(&row("loss", 1, 5.0));
    page.publish(news(&history, "training"));
    let mut reader = events(&page);
    let mut line = String::new();
    while !line.starts_with("event: state") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "no state");
    }
    for round in 0..100 {
        history.add(&row("loss", 2 + round, 4.0));
        page.publish(news(&history, "training"));
    }
    let texts = serde_json::json!({"step": 7, "samples": []});
    page.end(News { samples: Some(vec![7]), texts: Some(texts), ..news(&history, "ended") });
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let last = rest.split("event: ").last().unwrap();
    let told = last.strip_prefix("end\ndata: ").unwrap_or_else(|| panic!("the last event is {last}"));
    let told: serde_json::Value = serde_json::from_str(told.trim()).unwrap();
    assert_eq!(told["texts"]["step"], 7);
}

/// A reader that never reads, and one that never asks, may not hold up the run, nor its end.
#[test]
fn readers_who_do_nothing_hold_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let page = open(dir.path(), "");
    let mut history = History::default();
    (0..1000).for_each(|step| history.add(&row("loss", step, 1.0 / (step + 1) as f64)));
    let silent: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(page.address).unwrap()).collect();
    let mut deaf: Vec<TcpStream> = (0..READERS_AND_MORE).map(|_| TcpStream::connect(page.address).unwrap()).collect();
    for stream in &mut deaf {
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    }
    let (done, came) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for round in 0..200 {
            history.add(&row("loss", 0, f64::from(round)));
            page.publish(news(&history, "training"));
        }
        done.send("published").unwrap();
        page.end(news(&history, "ended"));
        done.send("ended").unwrap();
    });
    // They do nothing until this test is over: who waits for them waits for ever.
    for step in ["published", "ended"] {
        assert_eq!(came.recv_timeout(Duration::from_secs(120)), Ok(step), "it waits for readers");
    }
    drop((silent, deaf));
}

const READERS_AND_MORE: usize = 20;

/// A million steps in a real browser: what it keeps and draws stays as small as on the first day.
#[test]
fn a_browser_stays_small_over_a_million_steps() {
    let Some(mut browser) = Browser::open("the page over a million steps") else { return };
    let dir = tempfile::tempdir().unwrap();
    let page = open(dir.path(), "");
    let mut history = History::default();
    let names = ["loss", "loss_unweighted", "attn_mask_ratio", "learning_rate", "grad_norm", "tokens_per_s"];
    let mut publish = |from: u64, to: u64| {
        for step in from..to {
            names.iter().for_each(|name| history.add(&row(name, step, f64::from(step as u32 % 97) / 97.0)));
        }
        let preview = Preview {
            step: to,
            attn_mask_ratio: to as f64 / 1e6,
            length: 64,
            block: 64,
            attention: vec![128; 64 * 64],
            ..Preview::default()
        };
        page.publish(News { pattern: Some(preview), ..news(&history, "training") });
    };
    publish(1, 2000);
    browser.go(&page.url());
    let shown = |step: u64| {
        format!("document.querySelector('#tiles dd')?.textContent.replace(/\\D/g, '').startsWith('{step}')")
    };
    let limit = Duration::from_secs(60);
    browser.wait(&shown(1999), limit);
    let nodes = |browser: &mut Browser| browser.eval("document.querySelectorAll('*').length").as_u64().unwrap();
    let (heap, elements) = (browser.heap(), nodes(&mut browser));
    for part in 0..50 {
        publish(2000 + part * 20_000, 2000 + (part + 1) * 20_000);
        browser.wait(&shown(2000 + (part + 1) * 20_000 - 1), limit);
    }
    let (later, more) = (browser.heap(), nodes(&mut browser));
    eprintln!("JavaScript heap {heap} bytes after 2000 steps, {later} after 1002000; {elements} and {more} elements");
    assert!(later < heap + (4 << 20), "the heap grew from {heap} to {later} bytes");
    assert!(more < elements + 60, "{elements} elements became {more}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    page.end(News::default());
}
