//! A run that serves its newest checkpoint while it trains.

use std::net::TcpListener;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use difflow_tests::{Dataflow, Http};
use serde_json::json;

/// Far above what it takes, so that a slow machine fails no test.
const LONG: Duration = Duration::from_secs(240);

#[test]
fn a_run_serves_its_newest_checkpoint_and_goes_over_to_the_next_without_losing_a_request() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dataflow = Dataflow::open("data/experiments/serve-tiny.yml").shortened(12);
    let dataflow = dataflow.set("server", "PORT", port).set("trainer", "CHECKPOINT_EVERY", 4);
    let dataflow = dataflow.set("trainer", "SLOW_DOWN_SECONDS", 1.0);
    let mut run = dataflow.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (http, started) = (Http::new(port), Instant::now());
    let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    let ready = || listens() && http.get("/health").status == 200;
    while !ready() {
        assert!(started.elapsed() < LONG && run.try_wait().unwrap().is_none(), "it does not serve");
        thread::sleep(Duration::from_millis(100));
    }
    let models = || {
        let text = http.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix("difflow_models_total "));
        line.unwrap().parse::<u32>().unwrap()
    };
    let mut answers = 0;
    while models() < 3 {
        assert!(started.elapsed() < LONG && run.try_wait().unwrap().is_none(), "it serves no other checkpoint");
        let body = json!({"model": "serve-tiny", "prompt": "A day at", "max_tokens": 12, "seed": answers});
        let answer = http.post("/v1/completions", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answers += 1;
    }
    assert!(answers > 3, "only {answers} answers");
    let status = loop {
        match run.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() < LONG => thread::sleep(Duration::from_millis(100)),
            None => panic!("the run does not end"),
        }
    };
    assert!(status.success() && !listens(), "{status}");
}
