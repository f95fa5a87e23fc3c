//! Finetuning on conversations through whole dataflows: the trainer gets examples of which only answers are learned, and bad data is refused
//! before any training.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, program};
use serde_json::{Value, json};

use crate::metric;

const SOON: Duration = Duration::from_secs(60);

/// Turns in brackets; the template ends answers itself.
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}] {% else %}{{ m.content + eos_token }}\n\
                        {% endif %}{% endfor %}";

/// The paper's objective on these lines of JSON.
fn dataflow(steps: u64, lines: &[Value]) -> Dataflow {
    on(Dataflow::small_whole(steps), lines)
}

/// A dataflow on these lines of JSON.
fn on(dataflow: Dataflow, lines: &[Value]) -> Dataflow {
    let path = dataflow.folder().join("data.jsonl");
    fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let dataflow = dataflow.set("corpus", "SOURCES", json!([{"path": path}]).to_string());
    let dataflow = dataflow.set("corpus", "HELDOUT", "").set("corpus", "HELDOUT_DOCUMENTS", 4);
    // Its checker is one of stories.
    dataflow.set("evaluator", "HELDOUT", "").set("sampler", "CHECKER", "")
}

fn exchanges() -> Vec<Value> {
    (0..60).map(|n| json!({"question": format!("Who has the cup number {n}?"), "answer": format!("Sara has it {n} times.")})).collect()
}

fn conversations() -> Vec<Value> {
    let two = |n: u64| {
        json!([{"role": "user", "content": format!("Who has the cup {n}?")}, {"role": "assistant", "content": "Sara has it."},
               {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "By the river."}])
    };
    (0..60).map(|n| json!({"messages": two(n)})).collect()
}

fn with_template(dataflow: Dataflow, template: &str) -> Dataflow {
    let path: PathBuf = dataflow.folder().join("template.jinja");
    fs::write(&path, template).unwrap();
    dataflow.set("corpus", "MESSAGES_COLUMN", "messages").set("tokenizer", "CHAT_TEMPLATE", path.display().to_string())
}

fn inspect(dataflow: &Dataflow, options: &[&str]) -> Outcome {
    let mut command = Command::new(program("difflow"));
    command.args(["inspect", "data"]).arg(dataflow.write()).args(options).env("NO_COLOR", "1");
    command.current_dir(dataflow.folder());
    Outcome::of(command, SOON)
}

/// Diffusion and block diffusion train on answers alone, and the examples that are shown are those.
#[test]
fn answers_are_what_is_trained_on() {
    let keys = |dataflow: Dataflow| {
        dataflow.set("corpus", "PROMPT_COLUMN", "question").set("corpus", "RESPONSE_COLUMN", "answer").set(
            "tokenizer",
            "PAD_POLICY",
            "eos-once",
        )
    };
    // A base model that is finetuned left to right has no mask token: its sampler ended the run.
    let ar = Dataflow::small_whole(3).set("trainer", "OBJECTIVE", "ar").set("sampler", "INFILL_SAMPLES", 2);
    let all = [("diffusion", Dataflow::small_whole(3)), ("block", Dataflow::small(3)), ("ar", ar)];
    for (objective, dataflow) in all {
        let dataflow = keys(on(dataflow, &exchanges()));
        dataflow.run().well();
        let texts: Value =
            serde_json::from_slice(&fs::read(dataflow.run_folder().join("samples/step-00000003.json")).unwrap())
                .unwrap();
        let answers: Vec<&Value> =
            texts["samples"].as_array().unwrap().iter().filter(|text| text["kind"] == "answer").collect();
        assert!(!answers.is_empty() && texts["samples"][0]["kind"] == "answer", "{objective}: {texts}");
        for answer in answers {
            let prompt = answer["prompt"].as_str().unwrap();
            assert!(prompt.starts_with("Who has the cup number"), "{objective}: {answer}");
            assert!(!answer["text"].as_str().unwrap().contains(prompt), "{objective}: {answer}");
        }
        let scored = if objective == "ar" { "ar_loss" } else { "nelbo" };
        assert!(metric(&dataflow, scored)[&3].is_finite(), "{objective}");
        let losses = metric(&dataflow, "loss");
        assert_eq!(losses.keys().copied().collect::<Vec<_>>(), [1, 2, 3], "{objective}");
        assert!(losses.values().all(|loss| loss.is_finite() && *loss > 0.0), "{objective}: {losses:?}");
    }
    let dataflow = keys(dataflow(3, &exchanges()));
    let found: Value = serde_json::from_str(&inspect(&dataflow, &["-n", "5", "--json"]).well().text).unwrap();
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 5);
    assert!(found.iter().any(|example| example["document"] == 1), "several in a row: {found:?}");
    for example in found {
        let flags = |name: &str| -> Vec<bool> { serde_json::from_value(example[name].clone()).unwrap() };
        let (maskable, masked) = (flags("maskable"), flags("masked"));
        let first = maskable.iter().position(|&flag| flag).unwrap();
        assert!(first > 4 && maskable[first..].iter().all(|&flag| flag), "an answer up to its end token: {example}");
        assert!(masked.iter().zip(&maskable).all(|(&masked, &maskable)| maskable || !masked), "{example}");
    }
    let text = inspect(&dataflow, &["-n", "2"]).well().text;
    for part in ["batch 0, row 0, document 0", "Who has the cup number", "⟦", "Sara"] {
        assert!(text.contains(part), "{part} not in {text}");
    }
    let run = dataflow.run_folder();
    assert!(!run.exists(), "to look at the data makes no run");
}

/// A template with several turns: each answer is an example of its own, and filled with end tokens up to the end of its row.
#[test]
fn conversations_are_rendered_by_a_template() {
    let dataflow = with_template(dataflow(2, &conversations()), TEMPLATE);
    dataflow.run().well();
    let template =
        fs::read_to_string(dataflow.run_folder().join("checkpoints/step-00000002/chat_template.jinja")).unwrap();
    assert_eq!(template, TEMPLATE);
    let found: Value = serde_json::from_str(&inspect(&dataflow, &["-n", "8", "--json"]).well().text).unwrap();
    let learned =
        |example: &Value| example["maskable"].as_array().unwrap().iter().filter(|flag| **flag == true).count();
    for example in found.as_array().unwrap() {
        let tokens = example["tokens"].as_array().unwrap();
        assert_eq!((tokens.len(), &example["document"], &example["padding"]), (160, &json!(0), &json!(0)), "{example}");
        let given = 160 - learned(example);
        assert!((8..60).contains(&given), "{given} tokens of prompt");
    }
    let text = inspect(&dataflow, &["-n", "8"]).well().text;
    // The earlier answer is given, and the space that the template ends a prompt with is part of the answer's first token.
    assert!(text.contains("Sara has it.<eos>\n[Where?]⟦"), "{text}");
}

#[test]
fn bad_conversations_are_refused_before_any_training() {
    let refuses = |dataflow: Dataflow, parts: &[&str]| {
        dataflow.run_within(SOON).refused(78, parts);
        let steps = fs::read_dir(dataflow.run_folder().join("checkpoints")).map_or(0, |all| all.count());
        assert!(steps <= 1, "{parts:?}: it was trained");
    };
    let prompts = |dataflow: Dataflow| {
        dataflow.set("corpus", "PROMPT_COLUMN", "question").set("corpus", "RESPONSE_COLUMN", "answer")
    };
    refuses(
        prompts(dataflow(4, &[json!({"question": "a", "text": "b"})])),
        &["corpus", "RESPONSE_COLUMN", "`answer`", "question, text"],
    );

    let mut late = exchanges();
    late.push(json!({"question": "a", "answer": " "}));
    refuses(prompts(dataflow(4, &late)), &["corpus", "RESPONSE_COLUMN", "row 60", "is empty"]);

    let mut late = exchanges();
    late[57] = json!({"question": "a", "answer": "Sara walked to the river. ".repeat(60)});
    refuses(prompts(dataflow(4, &late)), &["tokenizer", "SEQUENCE_LENGTH", "document", "an answer of", "never cut"]);

    let mut late = conversations();
    late[50] = json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]});
    refuses(
        with_template(dataflow(4, &late), TEMPLATE),
        &["corpus", "MESSAGES_COLUMN", "row 50", "roles are out of order: message 1"],
    );

    let raises = "{% if messages|length > 2 %}{{ raise_exception('One turn only') }}{% endif %}{% for m in messages %}{{ m.content }} {% endfor %}";
    refuses(
        with_template(dataflow(4, &conversations()), raises),
        &["tokenizer", "CHAT_TEMPLATE", "document 0", "One turn only"],
    );

    let stream = prompts(dataflow(4, &exchanges())).set("tokenizer", "PACKING", "stream");
    refuses(stream, &["tokenizer", "PACKING", "stream cuts examples"]);
    let crossing = prompts(dataflow(4, &exchanges())).set("tokenizer", "PAD_POLICY", "eos-once").set(
        "trainer",
        "DOCUMENT_ATTENTION",
        "false",
    );
    refuses(crossing, &["trainer", "DOCUMENT_ATTENTION", "PACKING: one"]);
}
