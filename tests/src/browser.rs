//! A real browser without a window: Chromium, driven over its debugging pipe (the DevTools protocol).

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{root, skip};

/// Names under which Chromium or Chrome lies on PATH.
const NAMES: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell"];
/// How long the browser may take to answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page open.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    sent: u64,
    events: Vec<Value>,
    _profile: TempDir,
}

/// The program: what `DIFFLOW_CHROMIUM` names, else one on PATH, else the one that scripts/test-tools.sh fetched.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("DIFFLOW_CHROMIUM") {
        return Some(PathBuf::from(named));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name)));
    on_path.chain([root().join(".difflow/chromium/chromium")]).find(|program| program.is_file())
}

impl Browser {
    /// Starts one, or says that `what` is skipped because there is none.
    pub fn open(what: &str) -> Option<Self> {
        let Some(program) = program() else {
            let how = "as root: apt-get install chromium; without root: scripts/test-tools.sh; or name one with DIFFLOW_CHROMIUM";
            skip("browser", what, how);
            return None;
        };
        let profile = tempfile::tempdir().expect("a temporary folder");
        // Commands are read from file 3 and answers written to file 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null"])
            .arg(&program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--hide-scrollbars", "--disable-background-networking", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let commands = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { break };
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let (session, sent, events) = (None, 0, Vec::new());
        let mut browser = Self { child, commands, messages, session, sent, events, _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Gives the page a size; `phone`: with a finger and a fine screen.
    pub fn screen(&mut self, width: u32, height: u32, phone: bool) {
        let ratio = if phone { 2 } else { 1 };
        let size = json!({"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", size);
        self.call("Emulation.setTouchEmulationEnabled", json!({"enabled": phone}));
    }

    /// Prefers a dark page, or a light one.
    pub fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": value});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}));
    }

    /// Loads an address.
    pub fn go(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert!(answer.get("errorText").is_none(), "{url}: {answer}");
    }

    /// The value of a JavaScript expression, awaited.
    pub fn eval(&mut self, expression: &str) -> Value {
        let how = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", how);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true; one that fails, on a page that is not there yet, is not.
    pub fn wait(&mut self, expression: &str, limit: Duration) {
        let started = Instant::now();
        while self.eval(&format!("(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"))
            != true
        {
            let page = || "document.body ? document.body.innerText.slice(0, 2000) : ''";
            assert!(
                started.elapsed() < limit,
                "never true: {expression}\n{}\n{:?}",
                self.eval(page()),
                self.complaints()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Saves a picture of the whole page as `NAME.png` in `DIFFLOW_SCREENSHOTS`, by default `.difflow/screenshots`.
    pub fn picture(&mut self, name: &str) -> PathBuf {
        let folder = std::env::var_os("DIFFLOW_SCREENSHOTS").map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| root().join(".difflow/screenshots"));
        let answer = self.call("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let png = STANDARD.decode(answer["data"].as_str().expect("a picture")).expect("base64");
        let path = folder.join(format!("{name}.png"));
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&path, png))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// Bytes of JavaScript objects that are still used.
    pub fn heap(&mut self) -> u64 {
        self.call("HeapProfiler.collectGarbage", json!({}));
        self.call("Runtime.getHeapUsage", json!({}))["usedSize"].as_f64().expect("a size") as u64
    }

    /// What the page wrote to the console as a warning or an error, threw, or could not load.
    pub fn complaints(&mut self) -> Vec<String> {
        self.eval("0"); // everything before it has come by then
        let bad = |event: &&Value| {
            let parameters = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" => true,
                "Runtime.consoleAPICalled" => {
                    ["error", "warning", "assert"].iter().any(|kind| parameters["type"] == *kind)
                }
                "Log.entryAdded" => ["error", "warning"].iter().any(|level| parameters["entry"]["level"] == *level),
                _ => false,
            }
        };
        self.events.iter().filter(bad).map(Value::to_string).collect()
    }

    /// The addresses that were asked for.
    pub fn requested(&self) -> Vec<String> {
        let asked = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        asked.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned)).collect()
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.sent += 1;
        let mut command = json!({"id": self.sent, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).unwrap_or_else(|e| panic!("{method}: the browser is gone: {e}"));
        loop {
            let message = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{method}: no answer: {e}"));
            if message["id"] != self.sent {
                self.events.push(message);
                continue;
            }
            assert!(message.get("error").is_none(), "{method}: {message}");
            return message["result"].clone();
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The shell became the browser, and the browser's own processes end with it.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
