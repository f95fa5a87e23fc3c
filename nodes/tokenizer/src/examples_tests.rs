use std::fs;
use std::path::Path;

use difflow_schema::{Documents, Sequences};

use super::*;
use crate::build::Build;
use crate::store::Store;
use crate::words::tests::world;

/// `<eos>` behind each answer; a letter for each role.
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ ' ' + m.role[0] + ' ' + m.content }}\
                        {% if m.role == 'assistant' %}{{ eos_token + '\n' }}{% endif %}{% endfor %}\
                        {% if add_generation_prompt %}{{ ' a' }}{% endif %}";

/// Ids of letters, as the tokenizer of `world` has them: 0 `<bos>`, 1 `<eos>`, 3 a, 4 b, …
fn ids(text: &str) -> Vec<u32> {
    let id = |word: &str| match word {
        "<bos>" => 0,
        "<eos>" => 1,
        letter => u32::from(letter.as_bytes()[0] - b'a') + 3,
    };
    text.split_whitespace().map(id).collect()
}

fn exchange(prompt: &str, response: &str) -> String {
    Conversation::exchange(prompt, response).unwrap().to_json()
}

fn conversation(messages: &[(&str, &str)]) -> String {
    let messages = messages.iter().map(|(role, content)| json!({"role": role, "content": content}));
    Conversation::of(messages.collect()).unwrap().to_json()
}

/// What becomes of a conversation: the tokens, and those that are learned.
fn examples(
    change: impl FnOnce(&mut Config),
    template: Option<&str>,
    messages: &str,
) -> Result<Vec<(Vec<u32>, Vec<u32>)>> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config { sequence_length: 12, pad_policy: PadPolicy::Ignore, ..world(dir.path(), 29) };
    if let Some(template) = template {
        fs::write(
            dir.path().join("tokenizer_config.json"),
            json!({"bos_token": "<bos>", "eos_token": {"content": "<eos>"}, "chat_template": template}).to_string(),
        )
        .unwrap();
    }
    change(&mut config);
    let words = Words::open(&config).unwrap();
    let examples = Examples::open(&config, &words)?;
    let mut found = Vec::new();
    for mut example in examples.of(7, messages, &words)? {
        examples.finish(&mut example, 0);
        let learned = example.answers.iter().flat_map(|place| example.tokens[place.clone()].to_vec()).collect();
        found.push((example.tokens, learned));
    }
    Ok(found)
}

fn one(change: impl FnOnce(&mut Config), template: Option<&str>, messages: &str) -> (Vec<u32>, Vec<u32>) {
    let mut all = examples(change, template, messages).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn without_a_template_prompt_and_response_are_joined() {
    let (tokens, learned) = one(|_| {}, None, &exchange("a b", "c d"));
    assert_eq!((tokens, learned), (ids("<bos> a b c d"), ids("c d")));
    let (tokens, learned) = one(|config| config.separator = " x ".into(), None, &exchange("a b", "c <eos>"));
    assert_eq!(tokens[..5], ids("<bos> a b x c"), "{tokens:?}");
    assert_eq!(learned[0], 5);
    assert!(!learned.contains(&1), "a text cannot forge a special token: {learned:?}");
    let several = conversation(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let error = examples(|_| {}, None, &several).unwrap_err().to_string();
    for part in ["CHAT_TEMPLATE: found `document 7", "2 answers", "several turns need a chat template"] {
        assert!(error.contains(part), "{part} not in {error}");
    }
}

/// The white space that a template writes behind the end token would stand between an answer and its end.
#[test]
fn a_template_that_ends_answers_is_not_ended_again() {
    for policy in [PadPolicy::Ignore, PadPolicy::EosOnce] {
        let (tokens, learned) = one(|config| config.pad_policy = policy, Some(TEMPLATE), &exchange("b", "c d"));
        assert_eq!((tokens, learned), (ids("<bos> u b a c d <eos>"), ids("c d <eos>")), "{policy:?}");
    }
    // Another token ends its turns; the one that ends a document is put behind it.
    let plain = TEMPLATE.replace("eos_token + '\n'", "' z'");
    let (tokens, learned) = one(|config| config.pad_policy = PadPolicy::EosOnce, Some(&plain), &exchange("b", "c"));
    assert_eq!((tokens, learned), (ids("<bos> u b a c z <eos>"), ids("c z <eos>")));
}

#[test]
fn what_follows_an_answer_is_the_policys() {
    let of = |policy, multiple| {
        one(|config| (config.pad_policy, config.fill_multiple) = (policy, multiple), None, &exchange("a b", "c"))
    };
    let (prompt, end) = (ids("<bos> a b c"), ids("<eos>"));
    let with = |ends: usize| ([&prompt[..], &end.repeat(ends)].concat(), [&ids("c")[..], &end.repeat(ends)].concat());
    assert_eq!(of(PadPolicy::Ignore, None), with(0));
    assert_eq!(of(PadPolicy::EosOnce, None), with(1));
    assert_eq!(of(PadPolicy::EosFill, None), with(8));
    assert_eq!(of(PadPolicy::EosFill, Some(3)), with(2));
    assert_eq!(of(PadPolicy::EosFill, Some(5)), with(1));
}

#[test]
fn turns_say_which_answers_are_learned() {
    let messages =
        conversation(&[("system", "s"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e f")]);
    let of = |turns| {
        examples(|config| (config.turns, config.sequence_length) = (turns, 16), Some(TEMPLATE), &messages).unwrap()
    };
    let (first, all) = (ids("<bos> s s u b a c <eos>"), ids("<bos> s s u b a c <eos> u d a e f <eos>"));
    assert_eq!(of(TurnsKey::Apart), [(first, ids("c <eos>")), (all.clone(), ids("e f <eos>"))]);
    assert_eq!(of(TurnsKey::Last), [(all.clone(), ids("e f <eos>"))]);
    assert_eq!(of(TurnsKey::Together), [(all, ids("c <eos> e f <eos>"))]);
}

/// A template's own marks, which transformers reads too, and a difference of prefixes give the same places.
#[test]
fn generation_blocks_say_where_answers_are() {
    let marked = TEMPLATE.replace("{% if m.role == 'assistant' %}{{ eos_token + '\n' }}{% endif %}", "")
        .replace("{{ ' ' + m.role[0] + ' ' + m.content }}", "{% if m.role == 'assistant' %} a{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}\n{% else %}{{ ' ' + m.role[0] + ' ' + m.content }}{% endif %}");
    let messages = conversation(&[("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e f")]);
    for turns in [TurnsKey::Apart, TurnsKey::Together, TurnsKey::Last] {
        let of = |template: &str| {
            examples(|config| (config.turns, config.sequence_length) = (turns, 16), Some(template), &messages)
        };
        assert_eq!(of(&marked).unwrap(), of(TEMPLATE).unwrap(), "{turns:?}");
    }
}

/// The answer is what is learned: cut, it would teach to stop in the middle.
#[test]
fn a_prompt_is_cut_from_the_left_and_an_answer_never() {
    let long = exchange("b c d e f g h i j k l m", "x y");
    let cut = one(|config| config.pad_policy = PadPolicy::EosOnce, None, &long);
    assert_eq!(cut, (ids("<bos> f g h i j k l m x y <eos>"), ids("x y <eos>")));
    let refused = |change: &dyn Fn(&mut Config), messages: &str| {
        let problems = examples(|config| change(config), None, messages).unwrap_err().downcast::<Problems>().unwrap();
        problems.to_string()
    };
    let error = refused(&|config| config.long_documents = LongDocuments::Refuse, &long);
    for part in ["SEQUENCE_LENGTH: found `12`", "document 7", "15 tokens with its prompt", "LONG_DOCUMENTS: cut"] {
        assert!(error.contains(part), "{part} not in {error}");
    }
    let error = refused(&|config| config.pad_policy = PadPolicy::EosOnce, &exchange("a", "b c d e f g h i j k l m"));
    for part in ["document 7", "an answer of 13 tokens", "at least 14", "never cut"] {
        assert!(error.contains(part), "{part} not in {error}");
    }
    // As long as a row, with the one token before it that it is predicted from.
    let (tokens, learned) =
        one(|config| config.pad_policy = PadPolicy::EosOnce, None, &exchange("a", "b c d e f g h i j k"));
    assert_eq!((tokens.len(), tokens[0], learned.len()), (12, 0, 11));
}

#[test]
fn a_template_that_cannot_be_used_is_named_before_any_training() {
    let messages = exchange("a", "b");
    let fails = |template: &str| examples(|_| {}, Some(template), &messages).unwrap_err().to_string();
    for (template, part) in [
        ("{{ raise_exception('Only one turn, please') }}", "Only one turn, please"),
        ("{% if %}", "cannot be read"),
        ("{{ messages[-1].content }}", "otherwise once the answer is there"),
        ("x{% for m in messages %}{% generation %}{% endgeneration %}{% endfor %}", "writes nothing for answer 1"),
        ("x", "writes nothing for answer 1"),
    ] {
        let error = fails(template);
        assert!(error.contains("CHAT_TEMPLATE") && error.contains(part), "{part} not in {error}");
    }
    let missing = examples(|config| config.chat_template = "nowhere.jinja".into(), None, &messages).unwrap_err();
    assert!(missing.to_string().contains("nowhere.jinja"), "{missing}");
    let date = examples(|config| config.template_date = "today".into(), None, &messages).unwrap_err().to_string();
    assert!(date.contains("TEMPLATE_DATE: found `today`"), "{date}");
    // The base model's is not asked when the key says `none`.
    assert!(
        examples(|config| config.chat_template = "none".into(), Some("{{ raise_exception('x') }}"), &messages).is_ok()
    );
}

#[test]
fn keys_that_do_not_fit_conversations_are_all_named() {
    let change = |config: &mut Config| {
        (config.packing, config.open_end, config.fill_multiple) = (crate::packing::Packing::Stream, 0.5, Some(13));
        config.pad_policy = PadPolicy::EosFill;
    };
    let error = examples(change, None, &exchange("a", "b")).unwrap_err().to_string();
    for part in ["PACKING: found `stream`", "OPEN_END: found `0.5`", "FILL_MULTIPLE: found `13`"] {
        assert!(error.contains(part), "{part} not in {error}");
    }
}

/// The rows that a store serves.
fn rows(dir: &Path, config: &Config, messages: &[String]) -> Sequences {
    let words = Words::open(config).unwrap();
    let examples = Examples::open(config, &words).unwrap();
    let store = dir.join("tokens");
    let mut build = Build::begin(&store, "k".into(), words, Some(examples), config).unwrap();
    let doc = (0..messages.len() as u64).collect();
    build.push(Documents { doc, text: vec![String::new(); messages.len()], messages: messages.to_vec() }).unwrap();
    build.finish().unwrap();
    let (mut store, record) = Store::reopen(&store, "k").unwrap();
    let mut all = Sequences::default();
    (0..record.rows).for_each(|row| store.read(row, &mut all).unwrap());
    all
}

/// Several examples in a row are documents of their own, and of each only the answer is maskable.
#[test]
fn examples_are_packed_and_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { sequence_length: 10, pad_policy: PadPolicy::EosOnce, ..world(dir.path(), 29) };
    let messages = [exchange("a", "b"), exchange("c d", "e"), exchange("f", "g h")];
    let all = rows(dir.path(), &config, &messages);
    let pad = u32::MAX;
    assert_eq!(all.documents[..10], [0, 0, 0, 0, 1, 1, 1, 1, 1, pad]);
    assert_eq!(all.tokens[..10], ids("<bos> a b <eos> <bos> c d e <eos> <eos>"));
    let flags: Vec<u8> = all.maskable.iter().map(|&flag| u8::from(flag)).collect();
    assert_eq!(flags, [0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]);
    let filled = Config { pad_policy: PadPolicy::EosFill, ..config };
    let all = rows(dir.path(), &filled, &messages[..1]);
    assert_eq!(all.maskable.iter().filter(|&&flag| flag).count(), 8);
    assert!(all.documents.iter().all(|&document| document == 0));
}
