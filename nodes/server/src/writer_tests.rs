#![allow(clippy::unwrap_used)]

use difflow_inference::{Reveal, tiny};

use super::*;

fn model() -> Arc<Loaded> {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path(), true, 0.3);
    Arc::new(Loaded::open(dir.path(), &tiny::opening(), None).unwrap())
}

fn step(model: &Loaded, reveals: &[(u32, char)]) -> Step {
    let token = |letter: char| match letter {
        '$' => model.session.words().eos,
        letter => model.session.words().id(&letter.to_string()).unwrap(),
    };
    let reveal =
        |&(position, letter): &(u32, char)| Reveal { step: 0, position, token: token(letter), probability: 1.0 };
    Step { text: 0, open: 0..9, reveals: reveals.iter().map(reveal).collect() }
}

fn writer(model: &Arc<Loaded>, stops: &[&str]) -> Writer {
    Writer::new(model.clone(), Place::From(2), stops.iter().map(|stop| (*stop).to_owned()).collect())
}

#[test]
fn what_is_handed_out_grows_from_left_to_right_whatever_is_revealed_first() {
    let model = model();
    let mut writer = writer(&model, &[]);
    for (reveals, news) in [
        (&[(4, 'c')][..], None),
        (&[(2, 'a')], Some("a")),
        (&[(3, 'b'), (6, 'e')], Some("bc")),
        (&[(5, 'd')], Some("de")),
    ] {
        writer.step(&step(&model, reveals)).unwrap();
        assert_eq!(writer.news().as_deref(), news);
    }
    assert_eq!((writer.text(), writer.finish()), ("abcde", None));
}

/// In the middle of a block, over two forwards, and behind something that only looks like its start.
#[test]
fn a_text_ends_before_a_stop_and_its_start_is_held_back() {
    let model = model();
    let mut held = writer(&model, &["bcd", "x"]);
    let mut told = String::new();
    for (position, letter) in (2..).zip("abcabcdef".chars()) {
        held.step(&step(&model, &[(position, letter)])).unwrap();
        told += &held.news().unwrap_or_default();
        assert!(!told.contains("bcd") && "abcabcdef".starts_with(&told), "{told}");
    }
    assert_eq!((told.as_str(), held.text()), ("abca", "abca"));
    assert_eq!(held.finish(), Some(&Finish::Stop("bcd".into())));
    let mut block = writer(&model, &["c"]);
    block.step(&step(&model, &[(5, 'd'), (2, 'a'), (4, 'c'), (3, 'b')])).unwrap();
    assert_eq!((block.news().as_deref(), block.finish().is_some()), (Some("ab"), true));
}

#[test]
fn the_end_token_ends_a_text_and_is_not_part_of_it() {
    let model = model();
    let mut writer = writer(&model, &[]);
    writer.step(&step(&model, &[(2, 'a'), (3, '$'), (4, 'b')])).unwrap();
    assert_eq!((writer.news().as_deref(), writer.finish()), (Some("a"), Some(&Finish::End)));
}

/// What was handed out on the way and what a text is at its end are the same.
#[test]
fn the_end_of_a_text_hands_out_what_was_held_back() {
    let model = model();
    let mut writer = writer(&model, &["cde"]);
    writer.step(&step(&model, &[(2, 'a'), (3, 'c'), (4, 'd')])).unwrap();
    assert_eq!(writer.news().as_deref(), Some("a"));
    let id = |letter: &str| model.session.words().id(letter).unwrap();
    let tokens = vec![1, 9, id("a"), id("c"), id("d"), 2];
    let written =
        Written { filled: vec![false, false, true, true, true, true], tokens, stopped: true, ..Written::default() };
    writer.done(&written).unwrap();
    assert_eq!((writer.news().as_deref(), writer.text()), (Some("cd"), "acd"));
    assert_eq!((writer.finish(), writer.count(&written)), (Some(&Finish::End), 3));
}
