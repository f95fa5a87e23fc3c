//! What requests get.

use std::process::Command;
use std::thread;
use std::time::Duration;

use difflow_tests::Answer;
use serde_json::{Value, json};

use crate::served::{Served, write_blocks};

pub fn ok(answer: Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

pub fn text(answer: &Value) -> String {
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// Requests with options of their own.
fn requests() -> Vec<Value> {
    let decoders = ["random", "threshold", "confidence", "entropy-bound", "stable", "first-hitting"];
    (0..32_u64)
        .map(|number| {
            let prompt = &"a day at the lake"[..1 + number as usize % 17];
            let mut body = json!({
                "prompt": prompt, "seed": number, "max_tokens": 5 + number % 23, "decoder": decoders[number as usize % 6],
                "temperature": 0.5 + 0.1 * (number % 7) as f64, "steps": 3 + number % 9
            });
            if number % 5 == 0 {
                body["block"] = (3 + number % 3).into();
            }
            if number % 7 == 3 {
                body["prompt"] = format!("{prompt} [MASK:{}] end", 1 + number % 4).into();
            }
            body
        })
        .collect()
}

/// Alone, among 31 others, and after the server was started again.
#[test]
fn a_text_is_the_same_alone_among_others_and_after_a_restart() {
    let write = |http: &difflow_tests::Http, body: &Value| ok(http.post("/v1/completions", body));
    let served = Served::diffusion(&[]);
    let requests = requests();
    let alone: Vec<String> = requests.iter().map(|body| text(&write(&served.http, body))).collect();
    assert!(alone.iter().collect::<std::collections::BTreeSet<_>>().len() > 20, "they are all alike: {alone:?}");
    let before = served.metric("difflow_forwards_total");
    let together = |served: &Served| -> Vec<String> {
        let asking = requests.iter().cloned().map(|body| {
            let http = served.http.clone();
            thread::spawn(move || text(&ok(http.post("/v1/completions", &body))))
        });
        asking.collect::<Vec<_>>().into_iter().map(|asking| asking.join().unwrap()).collect()
    };
    assert_eq!(together(&served), alone);
    let forwards = served.metric("difflow_forwards_total") - before;
    assert!(forwards < before, "nothing was written together: {forwards} forwards, {before} alone");
    let model = served.model.clone();
    let kept = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&file, kept.path().join(file.file_name().unwrap())).unwrap();
    }
    drop(served);
    let again = Served::start(kept.path(), &[]);
    assert_eq!(together(&again), alone);
}

/// The defaults, the keys and the lengths are the command's.
#[test]
fn a_text_is_the_one_that_difflow_sample_writes() {
    let folder = tempfile::tempdir().unwrap();
    write_blocks(folder.path());
    let config = json!({"difflow": {"DECODER": "threshold", "THRESHOLD": 0.7, "TEMPERATURE": 0.5}});
    std::fs::write(folder.path().join("generation_config.json"), config.to_string()).unwrap();
    let served = Served::start(folder.path(), &[]);
    for (arguments, body) in [
        (&["--prompt", "a day", "-n", "3"][..], json!({"prompt": "a day", "n": 3, "echo": true})),
        (&["--prompt", "a day", "--decoder", "ar"], json!({"prompt": "a day", "decoder": "ar", "echo": true})),
        (&["--infill", "a [MASK:2..5] day"], json!({"prompt": "a [MASK:2..5] day"})),
        (&["--prompt", ""], json!({"prompt": ""})),
    ] {
        let sample = Command::new(env!("CARGO_BIN_EXE_difflow"))
            .args(["sample", "--json", "--device", "cpu", "--threads", "1", "--seed", "5", "--checkpoint"])
            .arg(folder.path())
            .args(arguments)
            .output()
            .unwrap();
        assert!(sample.status.success(), "{}", String::from_utf8_lossy(&sample.stderr));
        let lines = String::from_utf8(sample.stdout).unwrap();
        let wanted: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].clone()).collect();
        let mut body = body;
        body["seed"] = 5.into();
        let answer = ok(served.http.post("/v1/completions", &body));
        let found: Vec<Value> = answer["choices"].as_array().unwrap().iter().map(|one| one["text"].clone()).collect();
        assert_eq!(found, wanted, "{arguments:?}");
    }
}

#[test]
fn an_answer_has_the_fields_of_openais() {
    let served = Served::diffusion(&[]);
    let body = json!({"model": "tiny", "prompt": ["a", "b c"], "n": 2, "max_tokens": 6, "seed": 1, "user": "somebody"});
    let answer = ok(served.http.post("/v1/completions", &body));
    assert_eq!(answer["object"], "text_completion");
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-") && answer["created"].as_u64().unwrap() > 1_700_000_000);
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|one| one["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(choices.iter().all(|one| one["finish_reason"] == "length" || one["finish_reason"] == "stop"));
    assert_eq!(answer["usage"]["prompt_tokens"], 2 + 4);
    let usage = &answer["usage"];
    let sum = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert!(usage["total_tokens"] == sum && usage["forwards"].as_u64().unwrap() > 0);
    // Without a seed there is another each time, and it is said.
    let seeds: Vec<Value> =
        (0..2).map(|_| ok(served.http.post("/v1/completions", &json!({"prompt": "a"})))["seed"].clone()).collect();
    assert_ne!(seeds[0], seeds[1]);
    let models = ok(served.http.get("/v1/models"));
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&"tiny".into(), &64.into()));
    assert_eq!(ok(served.http.get("/health")), json!({"status": "ok"}));
    let penalty = served.http.post("/v1/completions", &json!({"prompt": "a", "presence_penalty": 1.5}));
    assert!(penalty.status == 200 && penalty.head.contains("x-difflow-ignored: presence_penalty"), "{penalty:?}");
}

#[test]
fn what_is_wrong_or_not_supported_is_refused_by_name() {
    let served = Served::base(&[]);
    for (param, body) in [
        ("prompt", json!({})),
        ("prompt", json!({"prompt": []})),
        ("prompt", json!({"prompt": [37]})),
        ("suffix", json!({"prompt": "a", "suffix": "b"})),
        ("prompt", json!({"prompt": "a [MASK:3] b"})),
        ("prompt", json!({"prompt": "a [MASK:x] b"})),
        ("max_tokens", json!({"prompt": "a", "max_tokens": 64})),
        ("n", json!({"prompt": "a", "n": 0})),
        ("n", json!({"prompt": "a", "n": 129})),
        ("stop", json!({"prompt": "a", "stop": ""})),
        ("best_of", json!({"prompt": "a", "best_of": 4})),
        ("logit_bias", json!({"prompt": "a", "logit_bias": {"3": 1}})),
        ("frequency_penalty", json!({"prompt": "a", "frequency_penalty": 0.5})),
        ("logprobs", json!({"prompt": "a", "logprobs": 21})),
        ("stream_canvas", json!({"prompt": "a", "stream_canvas": true})),
        ("decoder", json!({"prompt": "a", "decoder": "threshold"})),
        ("messages", json!({"messages": [{"role": "user", "content": "a"}]})),
    ] {
        let path = if body.get("messages").is_some() { "/v1/chat/completions" } else { "/v1/completions" };
        let answer = served.http.post(path, &body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["param"], &error["type"]),
            (&param.into(), &"invalid_request_error".into()),
            "{body}: {error}"
        );
        assert!(!answer.body.contains("secret-place") && !answer.body.contains("/tmp"), "{}", answer.body);
    }
    let neutral = json!({
        "prompt": "a", "max_tokens": 2, "best_of": 1, "logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0,
        "suffix": null, "stop": [], "echo": false, "n": 1, "stream": false, "logprobs": null
    });
    ok(served.http.post("/v1/completions", &neutral));
    for (status, answer) in [
        (404, served.http.post("/v1/completions", &json!({"prompt": "a", "model": "other"}))),
        (404, served.http.get("/nothing")),
        (405, served.http.get("/v1/completions")),
    ] {
        assert!(answer.status == status && answer.json()["error"]["message"].is_string(), "{answer:?}");
    }
}

/// What a stream says bit by bit is what the same request gets at once.
#[test]
fn a_stream_is_the_text_in_pieces_and_ends_with_done() {
    for served in [Served::diffusion(&[]), Served::base(&[]), Served::blocks(&[])] {
        for block in [json!({}), json!({"stop": ["a", "q"]}), json!({"n": 3}), json!({"echo": true})] {
            let mut body = json!({"prompt": "a day", "seed": 3, "max_tokens": 30});
            block.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
            let whole = ok(served.http.post("/v1/completions", &body));
            body["stream"] = true.into();
            body["stream_options"] = json!({"include_usage": true});
            let stream = served.http.post("/v1/completions", &body);
            assert!(stream.status == 200 && stream.head.contains("text/event-stream"), "{stream:?}");
            let mut events = stream.events("message");
            assert_eq!(events.pop().as_deref(), Some("[DONE]"));
            let chunks: Vec<Value> = events.iter().map(|data| serde_json::from_str(data).unwrap()).collect();
            let (last, chunks) = chunks.split_last().unwrap();
            assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
            for wanted in whole["choices"].as_array().unwrap() {
                let mine =
                    chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|one| one["index"] == wanted["index"]);
                let mine: Vec<&Value> = mine.collect();
                let text: String = mine.iter().map(|one| one["text"].as_str().unwrap()).collect();
                assert_eq!(text, wanted["text"].as_str().unwrap());
                assert_eq!(mine.last().unwrap()["finish_reason"], wanted["finish_reason"]);
                assert!(mine[..mine.len() - 1].iter().all(|one| one["finish_reason"].is_null()));
            }
        }
    }
}

/// A client that draws the canvas sees the text that it is told.
#[test]
fn a_canvas_says_what_was_revealed_where() {
    for served in [Served::diffusion(&[]), Served::blocks(&[])] {
        for prompt in ["a day at", "a [MASK:4] day [MASK:2..3] end"] {
            let body = json!({"prompt": prompt, "seed": 4, "max_tokens": 20, "stream": true, "stream_canvas": true, "echo": true});
            let stream = served.http.post("/v1/completions", &body);
            let canvas: Vec<Value> =
                stream.events("canvas").iter().map(|data| serde_json::from_str(data).unwrap()).collect();
            let mut tokens: Vec<Option<String>> =
                canvas[0]["tokens"].as_array().unwrap().iter().map(|one| one.as_str().map(str::to_owned)).collect();
            let given = tokens.iter().flatten().count();
            assert!(given > 3 && canvas.len() > 2, "{canvas:?}");
            let mut end = tokens.len();
            for reveal in canvas[1..].iter().flat_map(|step| step["revealed"].as_array().unwrap()) {
                let position = reveal["position"].as_u64().unwrap() as usize;
                assert!(tokens[position].is_none(), "{position} was revealed twice");
                tokens[position] = Some(reveal["text"].as_str().unwrap().to_owned());
                if reveal["end"] == true && prompt == "a day at" {
                    end = end.min(position);
                }
            }
            let drawn: String = tokens[..end].iter().flatten().map(String::as_str).collect();
            let events = stream.events("message");
            let told: String = events[..events.len() - 1]
                .iter()
                .map(|data| {
                    serde_json::from_str::<Value>(data).unwrap()["choices"][0]["text"].as_str().unwrap().to_owned()
                })
                .collect();
            assert_eq!(drawn.replace("<eos>", ""), told);
        }
    }
}

#[test]
fn a_stop_ends_a_text_before_it_even_inside_a_block() {
    for served in [Served::diffusion(&[]), Served::blocks(&[]), Served::base(&[])] {
        let body = json!({"prompt": "a day", "seed": 8, "max_tokens": 40});
        let whole = text(&ok(served.http.post("/v1/completions", &body)));
        let letters: Vec<char> = whole.chars().collect();
        assert!(letters.len() > 6, "{whole}");
        // One that ends at its second letter at the earliest.
        let stop: String = letters[4..6].iter().collect();
        let mut stopped = body.clone();
        stopped["stop"] = json!([stop, "never there"]);
        let answer = ok(served.http.post("/v1/completions", &stopped));
        assert_eq!(text(&answer), whole[..whole.find(&stop).unwrap()]);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
}

/// The sum over a text is what `difflow score` says of it; a model that only fills canvases says how sure it was.
#[test]
fn log_probabilities_are_exact_where_the_model_reads_from_left_to_right() {
    let document = "a day at the lake.";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), document).unwrap();
    for served in [Served::base(&[]), Served::blocks(&[])] {
        let score = Command::new(env!("CARGO_BIN_EXE_difflow"))
            .args(["score", "--json", "--mode", "ar", "--device", "cpu", "--text"])
            .arg(file.path())
            .arg("--model")
            .arg(&served.model)
            .output()
            .unwrap();
        let score: Value = serde_json::from_slice(&score.stdout).unwrap();
        let wanted = -score["nats_per_token"].as_f64().unwrap() * score["tokens"].as_f64().unwrap();
        let tokenized = ok(served.http.post("/tokenize", &json!({"prompt": document, "add_special_tokens": false})));
        let ids = tokenized["tokens"].as_array().unwrap();
        let with_bos: Vec<Value> = [&[json!(1)], &ids[..]].concat();
        // As lm-eval asks: token ids, one token more, what was given back.
        let body = json!({
            "model": "tiny", "prompt": [ids, with_bos], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true
        });
        let answer = ok(served.http.post("/v1/completions", &body));
        for (number, given) in [ids.len(), ids.len() + 1].into_iter().enumerate() {
            let found = &answer["choices"][number]["logprobs"];
            let logs = found["token_logprobs"].as_array().unwrap();
            assert_eq!((logs.len(), found["tokens"].as_array().unwrap().len()), (given + 1, given + 1), "{found}");
            let sum: f64 = logs[..given].iter().filter_map(Value::as_f64).sum();
            assert!((sum - wanted).abs() < 1e-3, "{sum} {wanted}");
            assert_eq!(logs[0].is_null(), number == 1);
            let tops = found["top_logprobs"].as_array().unwrap();
            assert!(tops[1..].iter().all(|top| top.as_object().unwrap().len() == 1), "{tops:?}");
            // The most probable token that was written is the best one.
            assert_eq!(logs[given], *tops[given].as_object().unwrap().values().next().unwrap());
        }
    }
    let served = Served::diffusion(&[]);
    let answer =
        ok(served.http.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 7, "logprobs": 2, "seed": 1})));
    let logs = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    assert!(!logs.is_empty() && logs.iter().all(|log| log.as_f64().is_some_and(|log| log <= 0.0)), "{logs:?}");
    let echo = served.http.post("/v1/completions", &json!({"prompt": "a", "logprobs": 1, "echo": true}));
    assert_eq!((echo.status, &echo.json()["error"]["param"]), (400, &"echo".into()));
}

#[test]
fn a_gap_is_filled_between_its_two_sides_by_every_route() {
    let served = Served::diffusion(&[]);
    let body = json!({"prompt": "a day", "suffix": " at the lake", "gap": 4, "seed": 3});
    let answer = ok(served.http.post("/v1/completions", &body));
    let gap = text(&answer);
    assert!(gap.chars().count() <= 4, "{gap}");
    let whole = ok(served.http.post("/v1/completions", &json!({"prompt": "a day[MASK:4] at the lake", "seed": 3})));
    assert_eq!(text(&whole), format!("a day{} at the lake", whole["choices"][0]["filled"][0].as_str().unwrap()));
    assert!(whole["choices"][0]["filled"][0].as_str().unwrap().starts_with(&gap));
    let fim = ok(served.http.post("/v1/fim/completions", &body));
    assert_eq!(fim["choices"][0]["message"]["content"], gap);
    let found =
        ok(served.http.post("/v1/completions", &json!({"prompt": "a", "suffix": " b", "max_tokens": 3, "seed": 1})));
    assert!(text(&found).chars().count() <= 3);
    let none =
        ok(served.http.post("/v1/completions", &json!({"prompt": "a", "suffix": "", "max_tokens": 3, "seed": 1})));
    let same = ok(served.http.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 3, "seed": 1})));
    assert_eq!(text(&none), text(&same));
    // llama.vim: a warm-up, then the text around the cursor.
    let infill = |fields: Value| {
        let mut body = json!({
            "id_slot": 0, "input_prefix": "once\n", "input_suffix": "\nend", "input_extra": [{"filename": "b", "text": "more", "time": 3}],
            "prompt": "a day", "n_predict": 5, "stop": ["\n"], "n_indent": 0, "top_k": 0, "top_p": 0.9,
            "samplers": ["top_k", "top_p", "infill"], "stream": false, "cache_prompt": true, "t_max_prompt_ms": 500,
            "t_max_predict_ms": 1000, "seed": 1
        });
        fields.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        ok(served.http.post("/infill", &body))
    };
    assert_eq!(infill(json!({"n_predict": 0, "response_fields": [""]})), json!({}));
    let answer = infill(json!({"response_fields": ["content", "timings/predicted_n", "truncated", "tokens_cached"]}));
    let keys: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["content", "timings/predicted_n", "truncated", "tokens_cached"]);
    assert_eq!(infill(json!({}))["content"], answer["content"]);
}

#[test]
fn a_conversation_is_written_by_the_models_template() {
    let folder = tempfile::tempdir().unwrap();
    difflow_inference::tiny::write_model(folder.path(), true, 0.3);
    let template = "{% for m in messages %}{{ m['role'] }}. {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}me. {% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let served = Served::start(folder.path(), &[]);
    let messages = json!([
        {"role": "user", "content": "a day"},
        {"role": "assistant", "content": [{"type": "text", "text": "at "}, {"type": "text", "text": "sea"}]}
    ]);
    let body =
        json!({"model": "tiny", "messages": messages, "max_completion_tokens": 12, "seed": 6, "temperature": 0.7});
    let answer = ok(served.http.post("/v1/chat/completions", &body));
    assert_eq!(answer["object"], "chat.completion");
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    let ids = ok(served
        .http
        .post("/tokenize", &json!({"prompt": "user. a day\nassistant. at sea\nme. ", "add_special_tokens": false})));
    assert_eq!(answer["usage"]["prompt_tokens"], ids["count"]);
    let mut body = body;
    body["stream"] = true.into();
    let events = served.http.post("/v1/chat/completions", &body).events("message");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let told: String = chunks.iter().filter_map(|one| one["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(told, content);
    let image = json!([{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]);
    for (param, change) in [
        ("messages", json!({"messages": image})),
        ("tools", json!({"tools": [{}]})),
        ("messages", json!({"messages": []})),
    ] {
        let mut wrong = body.clone();
        change.as_object().unwrap().iter().for_each(|(name, value)| wrong[name] = value.clone());
        let answer = served.http.post("/v1/chat/completions", &wrong);
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &param.into()), "{answer:?}");
    }
}

/// Those whose client goes leave before the next forward; the others' places are theirs.
#[test]
fn a_gone_client_costs_nothing_and_too_many_are_told_to_come_again() {
    let served = Served::diffusion(&["--rows", "2", "--queue", "4", "--max-tokens", "5000"]);
    // A gap that nothing ends, one position a forward.
    let long = json!({"prompt": "a [MASK:1200] b", "decoder": "first-hitting", "stream": true});
    let request = served.http.request("POST", "/v1/completions", Some(&long.to_string()));
    let mut streams = Vec::new();
    // Two are written, and then four wait: at once some of the six would find the queue full.
    for (count, name, value) in [(2, "difflow_writing", 2.0), (4, "difflow_queue_depth", 4.0)] {
        for _ in 0..count {
            let mut stream = served.http.connect();
            std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
            streams.push(stream);
        }
        while served.metric(name) < value {
            thread::sleep(Duration::from_millis(20));
        }
    }
    let full = served.http.post("/v1/completions", &json!({"prompt": "a"}));
    assert!(full.status == 429 && full.head.contains("retry-after: 1"), "{full:?}");
    assert_eq!(full.json()["error"]["code"], "rate_limit_exceeded");
    // The health of the server is nothing that waits.
    assert_eq!(served.http.get("/health").status, 200);
    drop(streams);
    while served.metric("difflow_writing") > 0.0 || served.metric("difflow_queue_depth") > 0.0 {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(served.metric("difflow_cancelled_total") >= 2.0);
    let forwards = served.metric("difflow_forwards_total");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(served.metric("difflow_forwards_total"), forwards, "somebody is still written for");
    ok(served.http.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 3})));
}

#[test]
fn an_answer_that_takes_too_long_is_not_waited_for() {
    let served = Served::diffusion(&["--timeout", "1", "--max-tokens", "5000"]);
    let long = json!({"prompt": "a [MASK:1200] b", "decoder": "first-hitting"});
    let answer = served.http.post("/v1/completions", &long);
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (504, &"timeout".into()), "{answer:?}");
    while served.metric("difflow_writing") > 0.0 {
        thread::sleep(Duration::from_millis(20));
    }
}

/// What has begun is given to its end; then the program ends by itself.
#[test]
fn a_server_that_is_asked_to_end_delivers_its_last_answers() {
    let served = Served::diffusion(&["--rows", "2"]);
    let asking: Vec<_> = (0..6)
        .map(|seed| {
            let http = served.http.clone();
            let body = json!({"prompt": "a", "max_tokens": 60, "steps": 4000, "decoder": "first-hitting", "seed": seed, "n": 8});
            thread::spawn(move || http.post("/v1/completions", &body))
        })
        .collect();
    // All of them are there.
    while served.metric("difflow_tokens_total{kind=\"prompt\"}") < 12.0 {
        thread::sleep(Duration::from_millis(5));
    }
    served.signal(libc::SIGTERM);
    let answers: Vec<Answer> = asking.into_iter().map(|one| one.join().unwrap()).collect();
    let whole = answers.iter().filter(|answer| answer.status == 200 && answer.json()["choices"][7]["text"].is_string());
    assert!(whole.count() == 6, "{answers:?}");
    let (status, said) = served.ended();
    assert!(status.success() && said.iter().any(|line| line.starts_with("ending")), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("panicked")), "{said:?}");
}

/// A stream has the log-probabilities of the whole answer, with the last piece of each text; a chat has the same figures in its own form.
#[test]
fn streams_and_chats_have_the_log_probabilities_of_whole_answers() {
    let folder = tempfile::tempdir().unwrap();
    difflow_inference::tiny::write_model(folder.path(), false, 0.3);
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ bos_token }}{{ messages[0]['content'] }}").unwrap();
    let served = Served::start(folder.path(), &[]);
    let pieces = |path: &str, body: &Value| -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let events = served.http.post(path, &body).events("message");
        events[..events.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    };
    let ask = json!({"prompt": "a day", "max_tokens": 9, "seed": 4, "n": 2, "logprobs": 2});
    let whole = ok(served.http.post("/v1/completions", &ask));
    let told = pieces("/v1/completions", &ask);
    for number in 0..2 {
        let mine = told.iter().filter(|one| one["choices"][0]["index"] == number);
        let (mut text, mut logprobs) = (String::new(), Vec::new());
        for one in mine {
            text += one["choices"][0]["text"].as_str().unwrap();
            logprobs.extend(Some(&one["choices"][0]["logprobs"]).filter(|found| !found.is_null()));
        }
        let choice = &whole["choices"][number];
        assert_eq!((text.as_str(), &logprobs[..]), (choice["text"].as_str().unwrap(), &[&choice["logprobs"]][..]));
        assert!(
            choice["logprobs"]["token_logprobs"].as_array().unwrap().iter().all(|log| log.as_f64().unwrap() <= 0.0)
        );
    }
    let chat = json!({
        "messages": [{"role": "user", "content": "a day"}], "max_tokens": 9, "temperature": 0, "logprobs": true, "top_logprobs": 2
    });
    let answer = ok(served.http.post("/v1/chat/completions", &chat));
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let text: String = content.iter().map(|one| one["token"].as_str().unwrap()).collect();
    assert_eq!(text, answer["choices"][0]["message"]["content"].as_str().unwrap());
    for one in content {
        // Greedily, a token is the most probable one.
        let tops = one["top_logprobs"].as_array().unwrap();
        assert_eq!((&tops[0]["token"], &tops[0]["logprob"]), (&one["token"], &one["logprob"]));
        assert!(tops.len() == 2 && tops[0]["logprob"].as_f64() >= tops[1]["logprob"].as_f64(), "{tops:?}");
    }
    let told = pieces("/v1/chat/completions", &chat);
    assert_eq!(told.last().unwrap()["choices"][0]["logprobs"], answer["choices"][0]["logprobs"]);
    let wrong = json!({"messages": chat["messages"], "top_logprobs": 2});
    assert_eq!(served.http.post("/v1/chat/completions", &wrong).json()["error"]["param"], "top_logprobs");
}
