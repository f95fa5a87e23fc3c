//! The live page of a real run, in a real browser.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use difflow_tests::{Browser, Dataflow};

/// Far above what anything here takes, so that a slow machine fails no test.
const LONG: Duration = Duration::from_secs(180);

/// A run that is going on.
struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

/// A test that fails leaves no run behind.
impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.interrupt();
            _ = self.child.wait();
        }
    }
}

impl Running {
    fn start(dataflow: &Dataflow) -> Self {
        let mut child = dataflow.command().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || out.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { child, lines, said: Vec::new() }
    }

    /// The rest of the line that begins with `start`.
    fn line(&mut self, start: &str) -> String {
        loop {
            let line =
                self.lines.recv_timeout(LONG).unwrap_or_else(|_| panic!("no line `{start}…` in {:?}", self.said));
            self.said.push(line.clone());
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    /// What Ctrl-C sends.
    fn interrupt(&self) {
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), libc::SIGINT) };
    }

    fn end(mut self) -> (i32, Vec<String>) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < LONG, "the run does not end");
            thread::sleep(Duration::from_millis(50));
        };
        self.said.extend(self.lines.iter());
        (status.code().unwrap_or(-1), std::mem::take(&mut self.said))
    }
}

fn with_page(steps: u64) -> Dataflow {
    Dataflow::small(steps).set("monitor", "PAGE", true).set("monitor", "PAGE_PORT", 0)
}

/// The run goes on until the test stops it, so that a slow browser misses nothing.
#[test]
fn the_page_follows_a_run_and_says_when_it_is_stopped() {
    let Some(mut browser) = Browser::open("the live page of a run") else { return };
    let dataflow = with_page(100_000).set("trainer", "SLOW_DOWN_SECONDS", 0.3).set("trainer", "ANNEAL_STEPS", 20);
    let dataflow = dataflow.set("trainer", "CHECKPOINT_EVERY", 25);
    let mut running = Running::start(&dataflow);
    let url = running.line("page: ");
    browser.screen(1440, 1000, false);
    browser.go(&url);
    browser.wait("document.getElementById('state').textContent === 'training'", LONG);
    let step = "Number((document.querySelector('#tiles dd').firstChild?.textContent ?? '').replace(/\\D/g, ''))";
    browser.wait(&format!("{step} > 1"), LONG);
    let before = browser.eval(step).as_u64().unwrap();
    browser.wait(&format!("{step} >= {}", before + 5), LONG);

    // Every part shows something that came from the run.
    let curve =
        "[...document.querySelectorAll('.card:has(.chart)')].find((c) => c.querySelector('h2').textContent.startsWith";
    for title in ["Training loss", "Visible right side", "Learning rate", "Gradient norm", "Speed", "Waiting for data"]
    {
        browser.wait(&format!("{curve}('{title}')).querySelector('.values b')"), LONG);
    }
    browser.wait(&format!("{curve}('Validation NELBO')).querySelectorAll('.values b').length === 2"), LONG);
    browser.wait("document.querySelectorAll('#batch-text .masked').length > 0", LONG);
    browser.wait("document.getElementById('batch-text').innerText.length > 100", LONG);
    browser.wait("document.querySelectorAll('#attention-strip canvas').length > 2", LONG);
    browser.wait("document.querySelectorAll('#sample-text span').length > 20", LONG);
    browser.wait(
        "[...document.querySelectorAll('#nodes tbody tr')].filter((r) => r.innerText.includes('running')).length >= 6",
        LONG,
    );
    browser.wait(
        "[...document.querySelectorAll('#nodes tbody tr')].some((r) => /trainer.*\\d+ %.*MB/s.test(r.innerText))",
        LONG,
    );
    browser.wait(
        "[...document.querySelectorAll('#edges tbody tr')].some((r) => /trainer → monitor.*\\d+/s.test(r.innerText))",
        LONG,
    );
    browser.picture("page-desktop");
    browser.dark(true);
    // Colours fade from one to the other.
    thread::sleep(Duration::from_secs(1));
    browser.picture("page-dark");
    browser.dark(false);

    // A text is played: fewer tokens are covered at its end than at its start.
    browser
        .eval("document.getElementById('sample-time').value = '0', document.getElementById('sample-time').oninput()");
    let covered = "document.querySelectorAll('#sample-text .masked').length";
    let at_first = browser.eval(covered).as_u64().unwrap();
    assert!(at_first > 5, "{at_first} tokens are covered at the start");
    browser.eval("document.getElementById('sample-play').click()");
    browser.wait(&format!("{covered} === 0"), LONG);

    browser.screen(390, 844, true);
    browser.wait("document.documentElement.scrollWidth <= innerWidth", LONG);
    let small = "[...document.querySelectorAll('button:not(.small), select')].filter((b) => b.offsetParent && b.offsetHeight < 32).length";
    assert_eq!(browser.eval(small), 0, "buttons too small for a finger");
    browser.picture("page-phone");

    running.interrupt();
    browser.wait("document.getElementById('state').textContent === 'stopped'", LONG);
    let (code, said) = running.end();
    assert_eq!(code, 0, "{said:?}");
    assert_eq!(
        said.iter().filter(|line| line.starts_with("page: ")).count(),
        1,
        "the address is printed once: {said:?}"
    );
    nothing_bad(&mut browser, &url);
    assert!(
        dataflow.run_folder().join("tensorboard").read_dir().unwrap().count() == 1,
        "no event file for TensorBoard"
    );
}

#[test]
fn the_page_says_when_a_run_is_over_and_shows_its_last_texts() {
    let Some(mut browser) = Browser::open("the page at the end of a run") else { return };
    let dataflow = with_page(20).set("trainer", "SLOW_DOWN_SECONDS", 0.5);
    let mut running = Running::start(&dataflow);
    let url = running.line("page: ");
    browser.screen(1440, 1000, false);
    browser.go(&url);
    browser.wait("document.getElementById('state').textContent === 'finished'", LONG);
    // Nobody serves them any more.
    assert_eq!(running.end().0, 0);
    browser.wait("document.getElementById('sample-where').textContent.startsWith('step 20')", LONG);
    browser.picture("page-finished");
    nothing_bad(&mut browser, &url);
}

/// Nothing was asked of another host, and the console is empty.
fn nothing_bad(browser: &mut Browser, url: &str) {
    let asked = browser.requested();
    assert!(asked.iter().any(|asked| asked.starts_with(url)), "the browser's requests are not seen: {asked:?}");
    let outside: Vec<String> = asked.into_iter().filter(|asked| !asked.starts_with(url)).collect();
    assert!(outside.iter().all(|asked| asked == "about:blank"), "asked elsewhere: {outside:?}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_taken_port_costs_the_page_and_not_the_run() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let outcome = with_page(3).set("monitor", "PAGE_PORT", port).run().well();
    let outcome = outcome.says(&[&format!("127.0.0.1:{port} is taken"), "PAGE_PORT", "trained 3 steps"]);
    assert!(!outcome.text.contains("page: http"), "{}", outcome.text);
}

#[test]
fn a_page_that_others_can_reach_is_refused_without_a_token() {
    with_page(3).set("monitor", "PAGE_HOST", "0.0.0.0").run().refused(78, &["PAGE_HOST", "PAGE_TOKEN"]);
}

/// Files of a run are handed to others; the token is not.
#[test]
fn the_token_stands_in_no_file_of_the_run() {
    let token = "a-secret-of-this-test-run";
    let dataflow = with_page(3).set("monitor", "PAGE_TOKEN", token);
    let outcome = dataflow.run().well().says(&["?token=PAGE_TOKEN"]);
    assert!(!outcome.text.contains(token));
    let files = files_in(&dataflow.run_folder());
    for name in ["run.json", "report.html", "audit.jsonl", "manifest.json"] {
        assert!(files.iter().any(|file| file.ends_with(name)), "no {name} in {files:?}");
    }
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(token.len()).any(|part| part == token.as_bytes());
        assert!(!found, "{} has the token", file.display());
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}
