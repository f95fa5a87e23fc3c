use serde_json::json;

use super::*;
use crate::session::Session;
use crate::tiny;

const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] + ' ' + m.content + '. ' }}{% endfor %}{% if add_generation_prompt %}a {% endif %}";

fn facts(template: Option<String>, pad_policy: &str, fill_multiple: Option<usize>) -> ExampleFacts {
    ExampleFacts {
        template,
        template_file: None,
        template_date: None,
        separator: "?".into(),
        pad_policy: pad_policy.into(),
        turns: "apart".into(),
        several_a_row: true,
        fill_multiple,
    }
}

/// A session of a model that was finetuned so, in a folder of its own.
fn finetuned(examples: ExampleFacts, template: Option<&str>) -> (tempfile::TempDir, Session) {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path(), true, 0.3);
    tiny::write_origin(dir.path(), None, |origin| origin.examples = Some(examples));
    if let Some(template) = template {
        std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    }
    let session = Session::open(dir.path(), &tiny::opening()).unwrap();
    (dir, session)
}

fn conversation() -> Conversation {
    Conversation::exchange("ab", "cd").unwrap()
}

fn read(tokens: &[u32]) -> String {
    tiny::words().decode(tokens).unwrap()
}

/// What the tokenizer node does in training, and what ends an answer there.
#[test]
fn an_exchange_is_joined_and_ended_as_in_training() {
    let exchange = |policy, multiple| {
        let (_dir, session) = finetuned(facts(None, policy, multiple), None);
        session.chat().unwrap().unwrap().exchange(&conversation()).unwrap()
    };
    let once = exchange("eos-once", None);
    assert_eq!((read(&once.document.tokens), once.document.given, once.answer), ("<bos>ab?cd<eos>".into(), 4, 3));
    let filled = exchange("eos-fill", Some(5));
    assert_eq!(read(&filled.document.tokens), "<bos>ab?cd<eos><eos><eos><eos>");
    assert_eq!((filled.document.given, filled.answer), (4, 3), "end tokens that only fill are no part of the answer");
    let open = exchange("ignore", None);
    assert_eq!((read(&open.document.tokens), open.answer), ("<bos>ab?cd".into(), 2));
}

/// A model that was asked otherwise than it was taught would seem to know nothing.
#[test]
fn a_question_is_the_beginning_of_its_exchange() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    let mut template = ChatTemplate::of_model(dir.path(), TRAINED_ON.parse().unwrap()).unwrap().unwrap();
    template.name_ends(Some("<bos>".into()), Some("<eos>".into()));
    let sha256 = bytes_sha256(template.identity().to_string().as_bytes());
    for (facts, template, wanted) in [
        (facts(None, "eos-once", None), None, "<bos>ab?"),
        (facts(Some(sha256.clone()), "eos-once", None), Some(TEMPLATE), "u ab. a "),
    ] {
        let (_dir, session) = finetuned(facts, template);
        let chat = session.chat().unwrap().unwrap();
        let question = chat.question(&[json!({"role": "user", "content": "ab"})]).unwrap();
        assert_eq!(read(&question), wanted);
        let exchange = chat.exchange(&conversation()).unwrap();
        assert_eq!(exchange.document.tokens[..exchange.document.given], question);
    }
    let (_dir, session) = finetuned(facts(Some(sha256.clone()), "eos-once", None), None);
    let error = session.chat().err().unwrap().to_string();
    assert!(error.contains("chat template") && error.contains(&sha256), "{error}");
}

#[test]
fn several_turns_need_a_template_and_plain_documents_have_no_chat() {
    let (_dir, session) = finetuned(facts(None, "eos-once", None), None);
    let turns =
        [("user", "a"), ("assistant", "b"), ("user", "c")].map(|(role, text)| json!({"role": role, "content": text}));
    let error = session.chat().unwrap().unwrap().question(&turns).unwrap_err().to_string();
    assert!(error.contains("3 messages") && error.contains("without a chat template"), "{error}");
    assert!(tiny::session(true, 0.3).chat().unwrap().is_none());
}

#[test]
fn a_model_that_was_not_finetuned_here_is_asked_by_its_own_template_and_one_that_was_as_it_was_taught() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path(), true, 0.3);
    let messages = [json!({"role": "user", "content": "ab"})];
    let open = || Session::open(dir.path(), &tiny::opening()).unwrap();
    assert!(open().chat_or_own_template().unwrap().is_none());
    std::fs::write(dir.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    let question = open().chat_or_own_template().unwrap().unwrap().question(&messages).unwrap();
    assert_eq!(read(&question), "u ab. a ");
    assert!(open().chat().unwrap().is_none());
    tiny::write_origin(dir.path(), None, |origin| origin.examples = Some(facts(None, "eos-once", None)));
    let question = open().chat_or_own_template().unwrap().unwrap().question(&messages).unwrap();
    assert_eq!(read(&question), "<bos>ab?");
}
