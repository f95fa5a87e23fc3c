//! The clients that people have: OpenAI's for Python, curl, and lm-evaluation-harness.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use difflow_tests::{python, skip};
use serde_json::{Value, json};

use crate::served::Served;

/// The Python that `DIFFLOW_PYTHON` names, else that of the tests, if it has a module.
fn python_with(module: &str, what: &str) -> Option<PathBuf> {
    let named = std::env::var_os("DIFFLOW_PYTHON").map(PathBuf::from);
    let python = named.or_else(|| python(what))?;
    let found = Command::new(&python).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success()).then_some(python)
}

/// What a script prints, as JSON.
fn script(python: &PathBuf, text: &str, served: &Served) -> Value {
    let output = Command::new(python).args(["-c", text, &served.url()]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {err}"))
}

const OPENAI: &str = r#"
import json, sys, openai
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
told = {"models": [m.id for m in client.models.list()]}
ask = dict(model="tiny", prompt="a day", max_tokens=24, seed=3, temperature=0.8)
whole = client.completions.create(**ask)
told["whole"], told["usage"] = whole.choices[0].text, whole.usage.total_tokens
told["again"] = client.completions.create(**ask).choices[0].text
chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
told["stream"] = "".join(c.choices[0].text for c in chunks if c.choices)
told["stream_usage"] = chunks[-1].usage.total_tokens
told["many"] = [c.text for c in client.completions.create(**ask, n=3).choices]
told["stopped"] = client.completions.create(**ask, stop=[told["whole"][2]]).choices[0].text
told["suffix"] = client.completions.create(model="tiny", prompt="a", suffix=" b", seed=1, extra_body={"gap": 3}).choices[0].text
told["options"] = client.completions.create(**ask, extra_body={"decoder": "threshold", "steps": 9}).choices[0].text
told["logprobs"] = client.completions.create(**ask, logprobs=2).choices[0].logprobs.token_logprobs
chat = dict(model="tiny", messages=[{"role": "user", "content": "a day"}], max_tokens=8, seed=1)
told["chat"] = client.chat.completions.create(**chat).choices[0].message.content
told["chat_stream"] = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(**chat, stream=True))
for name, wrong in [("field", dict(ask, logit_bias={"5": 1})), ("model", dict(ask, model="other"))]:
    try:
        client.completions.create(**wrong)
    except openai.APIStatusError as e:
        told[name] = [type(e).__name__, e.status_code, e.body["param"]]
print(json.dumps(told))
"#;

#[test]
fn openais_client_for_python_drives_it() {
    let Some(python) = python_with("openai", "OpenAI's client") else {
        return skip("openai", "OpenAI's client", "no module openai; scripts/test-tools.sh installs it");
    };
    let folder = tempfile::tempdir().unwrap();
    difflow_inference::tiny::write_model(folder.path(), true, 0.3);
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0]['content'] }}. ").unwrap();
    let served = Served::start(folder.path(), &[]);
    let told = script(&python, OPENAI, &served);
    let whole = told["whole"].as_str().unwrap();
    assert!(whole.len() > 3, "{told}");
    assert_eq!((&told["again"], &told["stream"], &told["many"][0]), (&told["whole"], &told["whole"], &told["whole"]));
    assert_eq!((&told["stream_usage"], &told["models"]), (&told["usage"], &json!(["tiny"])));
    assert_ne!(told["many"][1], told["many"][0]);
    let stop = whole.chars().nth(2).unwrap();
    assert_eq!(told["stopped"], whole[..whole.find(stop).unwrap()]);
    assert!(told["suffix"].as_str().unwrap().chars().count() <= 3 && told["options"] != told["whole"], "{told}");
    assert_eq!(told["logprobs"].as_array().unwrap().len(), 24.min(told["logprobs"].as_array().unwrap().len()));
    assert_eq!(told["chat"], told["chat_stream"]);
    assert_eq!(told["field"], json!(["BadRequestError", 400, "logit_bias"]));
    assert_eq!(told["model"], json!(["NotFoundError", 404, "model"]));
}

/// `-N` shows every piece when it comes: the first is there while the text is still written.
#[test]
fn curl_sees_a_stream_as_it_comes() {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("curl", "a stream with curl", "there is no curl; apt-get install curl");
    }
    let served = Served::diffusion(&["--max-tokens", "5000"]);
    let body = json!({"prompt": "a [MASK:1200] b", "decoder": "first-hitting", "stream": true, "stream_canvas": true});
    let mut curl = Command::new("curl")
        .args(["-sN", "-H", "Content-Type: application/json", "-d", &body.to_string()])
        .arg(format!("{}/v1/completions", served.url()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
    for wanted in ["event: canvas", "data: {\"index\":0,\"tokens\"", "", "event: canvas", "data: {\"index\":0,\"open\""]
    {
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with(wanted), "{wanted}: {line}");
    }
    assert!(served.metric("difflow_writing") == 1.0, "the text was done before its first piece came");
    curl.kill().unwrap();
    curl.wait().unwrap();
    while served.metric("difflow_writing") > 0.0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

const LM_EVAL: &str = r#"
import json, sys
from types import SimpleNamespace
from lm_eval.models.openai_completions import LocalCompletionsAPI
lm = LocalCompletionsAPI(base_url=sys.argv[1] + "/v1/completions", model="tiny", tokenizer_backend="remote", batch_size=4, max_length=60)
texts = ["a day at the lake.", "once there was a bird.", "the end"]
asked = [SimpleNamespace(args=("a day", text), arguments=("a day", text)) for text in texts]
rolling = [SimpleNamespace(args=(text,), arguments=(text,)) for text in texts]
generate = SimpleNamespace(args=("a day", {"until": ["q"], "max_gen_toks": 9}), arguments=("a day", {"until": ["q"], "max_gen_toks": 9}))
print(json.dumps({
    "loglikelihood": lm.loglikelihood(asked, disable_tqdm=True), "rolling": lm.loglikelihood_rolling(rolling, disable_tqdm=True),
    "generated": lm.generate_until([generate], disable_tqdm=True)
}))
"#;

/// Its own figures are those of `difflow score`, in nats.
#[test]
fn lm_eval_scores_a_hybrid_model_with_the_figures_of_difflow_score() {
    let Some(python) = python_with("lm_eval", "lm-evaluation-harness") else {
        return skip(
            "lm-eval",
            "lm-evaluation-harness",
            "no module lm_eval in DIFFLOW_PYTHON: pip install 'lm_eval[api]'",
        );
    };
    let served = Served::blocks(&[]);
    let told = script(&python, LM_EVAL, &served);
    for (text, found) in
        ["a day at the lake.", "once there was a bird.", "the end"].iter().zip(told["rolling"].as_array().unwrap())
    {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let score = Command::new(env!("CARGO_BIN_EXE_difflow"))
            .args(["score", "--json", "--mode", "ar", "--device", "cpu", "--text"])
            .arg(file.path())
            .arg("--model")
            .arg(&served.model)
            .output()
            .unwrap();
        let score: Value = serde_json::from_slice(&score.stdout).unwrap();
        let wanted = -score["nats_per_token"].as_f64().unwrap() * score["tokens"].as_f64().unwrap();
        assert!((found.as_f64().unwrap() - wanted).abs() < 1e-3, "{text}: {found} {wanted}");
    }
    let likelihoods = told["loglikelihood"].as_array().unwrap();
    assert!(likelihoods.iter().all(|one| one[0].as_f64().unwrap() < 0.0 && one[1] == false), "{told}");
    assert!(told["generated"][0].is_string() && !told["generated"][0].as_str().unwrap().contains('q'), "{told}");
}
