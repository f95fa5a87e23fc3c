//! Requests that mean no good.

use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::Duration;

use difflow_tests::{Http, Random, read_answer};
use serde_json::{Value, json};

use crate::served::Served;

const TOKEN: &str = "a-secret-of-this-test";

#[test]
fn the_token_is_needed_whole_and_everywhere_but_for_health() {
    let folder = tempfile::tempdir().unwrap();
    difflow_inference::tiny::write_model(folder.path(), true, 0.3);
    let served = Served::with(folder.path(), &[], &[("DIFFLOW_TOKEN", TOKEN)]);
    let body = json!({"prompt": "a", "max_tokens": 2});
    let with = |head: &str| Http { head: head.to_owned(), ..served.http.clone() };
    let almost = &TOKEN[..TOKEN.len() - 1];
    for head in [
        String::new(),
        "Authorization: Bearer wrong\r\n".into(),
        format!("Authorization: Bearer {almost}\r\n"),
        format!("Authorization: Bearer {TOKEN}x\r\n"),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Cookie: difflow-1={TOKEN}\r\n"),
        "x-api-key: \r\n".into(),
    ] {
        let answer = with(&head).post("/v1/completions", &body);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &"invalid_api_key".into()), "{head}");
        assert_eq!((with(&head).get("/").status, with(&head).get("/metrics").status), (401, 401));
        assert_eq!(with(&head).get("/health").status, 200);
    }
    for head in [format!("Authorization: Bearer {TOKEN}\r\n"), format!("x-api-key: {TOKEN}\r\n")] {
        assert_eq!(with(&head).post("/v1/completions", &body).status, 200, "{head}");
        let foreign = format!("{head}Origin: https://evil.example\r\n");
        assert_eq!(with(&foreign).post("/v1/completions", &body).status, 403);
    }
    let entered = served.http.get(&format!("/?token={TOKEN}"));
    assert!(
        entered.status == 303 && entered.head.contains("samesite=strict") && entered.head.contains("location: /\r")
    );
    let open = Served::diffusion(&[]);
    let rebound = open.http.request("GET", "/v1/models", None).replace("127.0.0.1", "evil.example");
    assert_eq!(open.http.raw(rebound.as_bytes()).status, 403);
}

#[test]
fn a_server_that_others_can_reach_does_not_start_without_a_token() {
    let start = |arguments: &[&str], token: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_difflow"))
            .args(["serve", "--checkpoint", "/nowhere", "--port", "0"])
            .args(arguments)
            .env("DIFFLOW_TOKEN", token)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(start(&["--host", "0.0.0.0"], "").contains("DIFFLOW_TOKEN"));
    let weak = start(&["--host", "0.0.0.0"], "short-secret");
    assert!(weak.contains("at least 16") && !weak.contains("short-secret"), "{weak}");
    assert!(start(&[], "").contains("/nowhere"));
}

/// `DIFFLOW_MALFORMED` of them, HTTP, JSON, UTF-8, sizes and numbers, from a fixed seed: nothing panics, what is wrong gets a 4xx, and the server still writes.
#[test]
fn malformed_requests_are_refused_and_harm_nobody() {
    let count = std::env::var("DIFFLOW_MALFORMED").map_or(3000, |count| count.parse().unwrap());
    let served = Served::blocks(&["--timeout", "5"]);
    let mut random = Random::new(18);
    let good = json!({"prompt": "a day", "seed": 7, "max_tokens": 8});
    let wanted = served.http.post("/v1/completions", &good).json()["choices"].clone();
    let before = served.memory();
    let mut codes = std::collections::BTreeMap::<u16, usize>::new();
    for _ in 0..count {
        let request = hostile(&served.http, &mut random);
        let mut stream = served.http.connect();
        _ = stream.write_all(&request);
        // Some wait for more than they sent.
        _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = read_answer(stream);
        *codes.entry(answer.status).or_default() += 1;
        let allowed = [0, 200, 400, 401, 403, 404, 405, 408, 413, 414, 417, 431, 501, 505];
        let shown = || String::from_utf8_lossy(&request[..request.len().min(400)]).into_owned();
        assert!(allowed.contains(&answer.status), "{answer:?} to {}", shown());
        if answer.status >= 400 && !answer.body.is_empty() {
            assert!(answer.json()["error"]["message"].is_string(), "{answer:?}");
        }
        assert!(!answer.body.contains("secret-place"), "{answer:?}");
    }
    assert!(codes.get(&400).copied().unwrap_or(0) > count / 3 && codes.len() >= 5, "{codes:?}");
    assert_eq!(served.http.post("/v1/completions", &good).json()["choices"], wanted);
    let grown = served.memory().saturating_sub(before);
    assert!(grown < 128 << 20, "memory grew by {grown} bytes");
    served.signal(libc::SIGTERM);
    let (status, said) = served.ended();
    assert!(status.success() && !said.iter().any(|line| line.contains("panicked")), "{said:?}");
}

fn hostile(http: &Http, random: &mut Random) -> Vec<u8> {
    const NAMES: [&str; 22] = [
        "prompt",
        "suffix",
        "max_tokens",
        "n",
        "stop",
        "logprobs",
        "echo",
        "stream",
        "gap",
        "seed",
        "temperature",
        "top_p",
        "top_k",
        "steps",
        "block",
        "window",
        "decoder",
        "threshold",
        "guidance",
        "refresh",
        "messages",
        "repetition_penalty",
    ];
    const PATHS: [&str; 8] = [
        "/v1/completions",
        "/v1/completions",
        "/v1/chat/completions",
        "/infill",
        "/tokenize",
        "/detokenize",
        "/v1/fim/completions",
        "/v1/%00",
    ];
    let value = |random: &mut Random| -> Value {
        match random.below(18) {
            0 => Value::Null,
            1 => json!(-1),
            2 => json!(0),
            3 => json!(u64::MAX),
            4 => json!(1e308),
            5 => json!("x".repeat(random.below(3000))),
            6 => json!([]),
            7 => json!({}),
            8 => json!([[], [1, 2], ["a"]]),
            9 => json!(true),
            10 => json!("[MASK:99999999999999999999]"),
            11 => json!("a [MASK:1..60000] b [MASK"),
            12 => json!("\u{0}\u{FFFD}\u{1F600}"),
            13 => json!([4_294_967_295_u64]),
            14 => json!(-1e-300),
            15 => json!(["a", "b"]),
            16 => json!([{"role": "user", "content": [{"type": "text"}]}]),
            _ => json!(random.below(70)),
        }
    };
    let mut body = json!({"prompt": "a day", "max_tokens": 4});
    for _ in 0..1 + random.below(3) {
        body[NAMES[random.below(NAMES.len())]] = value(random);
    }
    let path = PATHS[random.below(PATHS.len())];
    let mut text = body.to_string().into_bytes();
    let damage = |bytes: &mut Vec<u8>, random: &mut Random| {
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len().max(1)).min(bytes.len());
            match random.below(4) {
                0 if at < bytes.len() => bytes[at] = random.below(256) as u8,
                1 => bytes.truncate(at),
                2 => drop(bytes.splice(at..at, [0xff, 0xc3, b'"', b'\\'])),
                _ => drop(bytes.splice(at..at, b"[[[[[[[[{\"".repeat(20))),
            }
        }
    };
    match random.below(8) {
        0 => {
            damage(&mut text, random);
            let head = http
                .request("POST", path, Some(""))
                .replace("Content-Length: 0", &format!("Content-Length: {}", text.len()));
            [head.as_bytes(), &text].concat()
        }
        1 => {
            let mut whole = http.request("POST", path, Some(&body.to_string())).into_bytes();
            damage(&mut whole, random);
            whole
        }
        2 => (0..random.below(2000)).map(|_| random.below(256) as u8).collect(),
        3 => {
            let length = ["-1", "99999999999", "2000000", "4x", "3"][random.below(5)];
            let head =
                http.request("POST", path, Some("")).replace("Content-Length: 0", &format!("Content-Length: {length}"));
            [head.as_bytes(), &text].concat()
        }
        4 => {
            let method = ["PUT", "DELETE", "TRACE", "GET", "PATCH", "BREW"][random.below(6)];
            http.request(method, path, Some(&body.to_string())).into_bytes()
        }
        5 => {
            let head = format!("X-Long: {}\r\n", "y".repeat(random.below(40_000)));
            Http { head, ..http.clone() }.request("POST", path, Some("{}")).into_bytes()
        }
        _ => http.request("POST", path, Some(&body.to_string())).into_bytes(),
    }
}

/// Slow senders and a flood of streams that are given up hold nobody else.
#[test]
fn slow_senders_and_given_up_streams_hold_nobody_else() {
    let served = Served::diffusion(&["--rows", "4", "--queue", "64"]);
    let body = json!({"prompt": "a", "max_tokens": 60, "decoder": "first-hitting", "stream": true}).to_string();
    let request = served.http.request("POST", "/v1/completions", Some(&body));
    let mut slow: Vec<_> = (0..20).map(|_| served.http.connect()).collect();
    for (number, stream) in slow.iter_mut().enumerate() {
        let part = request.len() * (number + 1) / 40;
        stream.write_all(&request.as_bytes()[..part]).unwrap();
    }
    for _ in 0..200 {
        let mut stream = served.http.connect();
        stream.write_all(request.as_bytes()).unwrap();
    }
    let answer = loop {
        let answer = served.http.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 3, "seed": 1}));
        if answer.status != 429 {
            break answer;
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(answer.status, 200, "{answer:?}");
    while served.metric("difflow_writing") > 0.0 {
        thread::sleep(Duration::from_millis(20));
    }
    drop(slow);
}
