#![allow(clippy::unwrap_used)]

use difflow_model::{Blocks, Context, GapLength, Piece};

use super::*;
use crate::tiny;

const BLOCKS: Blocks = Blocks { size: 4, context: Context::Causal, shift: false, ar_weight: 0.5 };

/// After a prompt of its own, or around a gap.
fn text(key: u64) -> Template {
    let prompt = Piece::Tokens((0..1 + key as u32 % 5).map(|at| 1 + at * 3).collect());
    let length = 4 + key as usize % 9;
    let gap = Piece::Gap(GapLength { least: length, most: length });
    let mut pieces = vec![prompt, gap];
    if key % 4 == 3 {
        pieces.push(Piece::Tokens(vec![9, 2]));
    }
    Template { pieces, key }
}

fn decodings() -> Vec<Decoding> {
    let way = |decoder| Decoding { decoder, steps: 5, ..Decoding::default() };
    vec![
        way(Decoder::Random),
        Decoding { seed: 9, temperature: 0.5, top_k: Some(9), ..way(Decoder::Confidence) },
        Decoding { guidance: 0.5, ..way(Decoder::Threshold) },
        Decoding { block: Some(4), cache: Caching::Dual, seed: 3, ..way(Decoder::Threshold) },
        Decoding { repetition_penalty: 1.5, block: Some(3), ..way(Decoder::EntropyBound) },
        way(Decoder::Stable),
    ]
}

/// Texts with options of their own join one by one while others are on their way, one is cancelled; each becomes what [`Session::write`]
/// makes of it alone.
fn compare(session: &Session, decodings: &[Decoding], texts: &[Template]) {
    let decoding = |at: usize| &decodings[at % decodings.len()];
    let mut batch = Batch::new(session);
    let (mut finished, mut seen) = (BTreeMap::new(), BTreeMap::<u64, Vec<Reveal>>::new());
    let mut joined = 0;
    while joined < texts.len() || batch.going() > 0 {
        if joined < texts.len() {
            assert_eq!(batch.join(&texts[joined], decoding(joined)).unwrap(), joined as u64);
            joined += 1;
            if joined == 5 {
                batch.cancel(2);
            }
        }
        for step in batch.step().unwrap() {
            assert!(step.reveals.iter().all(|reveal| step.open.contains(&(reveal.position as usize))), "{step:?}");
            seen.entry(step.text).or_default().extend(step.reveals);
        }
        finished.extend(batch.take_finished());
    }
    assert_eq!(batch.texts.len(), 0);
    for (at, text) in texts.iter().enumerate() {
        let number = at as u64;
        if number == 2 && !finished.contains_key(&number) {
            continue;
        }
        let mut ready = |_| Ok::<(), InferenceError>(());
        let alone = session.write(std::slice::from_ref(text), decoding(at), 1, &mut |_, _| {}, &mut ready).unwrap();
        let found = &finished[&number];
        let facts = |text: &Written| (text.tokens.clone(), text.filled.clone(), text.nfe, text.stopped);
        assert_eq!(facts(found), facts(&alone[0]), "text {at}: {:?}", decoding(at));
        for (position, token) in found.tokens.iter().enumerate().filter(|(at, _)| found.filled[*at]) {
            let told = seen[&number].iter().rev().find(|reveal| reveal.position as usize == position);
            // Behind the end of an open canvas nothing is told.
            assert_eq!(told.map(|reveal| reveal.token), Some(*token), "text {at}, position {position}");
        }
    }
}

#[test]
fn a_text_among_others_with_other_options_is_the_text_alone() {
    let texts: Vec<Template> = (0..14).map(text).collect();
    compare(&tiny::session(true, 0.3), &decodings(), &texts);
    let free: Vec<Template> = texts.iter().filter(|text| text.pieces.len() == 2).cloned().collect();
    let seeds = [1, 2].map(|seed| Decoding { seed, ..Decoding::default() });
    compare(&tiny::session(false, 0.3), &seeds, &free);
    let blocks = [Decoder::Speculative, Decoder::Ar, Decoder::Threshold, Decoder::Random];
    let blocks = blocks.map(|decoder| Decoding { decoder, steps: 3, seed: decoder as u64, ..Decoding::default() });
    compare(&tiny::block_session(BLOCKS, "4:3,row"), &blocks, &free);
    let mut both = texts;
    both.swap(0, 3);
    compare(&tiny::block_session(BLOCKS, "4:3,row"), &[blocks[0].clone(), blocks[2].clone()], &both);
}

/// A client that asks with another guidance each time held on to more and more memory.
#[test]
fn what_is_kept_does_not_grow_with_the_kinds_of_texts_that_came() {
    let session = tiny::session(true, 0.3);
    let mut batch = Batch::new(&session);
    let guided = |kind: u64| Decoding { guidance: 0.1 * kind as f64, steps: 3, ..Decoding::default() };
    let mut alive = batch.join(&text(0), &Decoding { steps: 50, ..guided(0) }).unwrap();
    for kind in 1..9 {
        let number = batch.join(&text(kind), &guided(kind)).unwrap();
        if kind % 2 == 0 {
            batch.cancel(number);
            continue;
        }
        let alone =
            session.write(&[text(kind)], &guided(kind), 1, &mut |_, _| {}, &mut |_| Ok::<(), InferenceError>(()));
        let mut finished = Vec::new();
        while finished.is_empty() {
            batch.step().unwrap();
            finished = batch.take_finished();
            if finished.iter().any(|(done, _)| *done == alive) {
                finished.retain(|(done, _)| *done != alive);
                alive = batch.join(&text(0), &Decoding { steps: 50, ..guided(0) }).unwrap();
            }
        }
        assert_eq!((finished[0].0, &finished[0].1.tokens), (number, &alone.unwrap()[0].tokens));
    }
    assert!(batch.fillings.len() <= 2, "{} of which one is used", batch.fillings.len());
}

#[test]
fn what_a_model_cannot_write_does_not_join_and_disturbs_nobody() {
    let session = tiny::session(false, 0.3);
    let mut batch = Batch::new(&session);
    batch.join(&text(0), &Decoding::default()).unwrap();
    assert!(batch.join(&text(3), &Decoding::default()).unwrap_err().to_string().contains("free end"));
    let wrong = Decoding { temperature: -1.0, ..Decoding::default() };
    assert!(batch.join(&text(1), &wrong).unwrap_err().to_string().contains("temperature"));
    assert_eq!(batch.going(), 1);
    let without = tiny::block_session(BLOCKS, "4");
    assert!(Batch::new(&without).join(&text(3), &Decoding::default()).unwrap_err().to_string().contains("whole rows"));
}

#[test]
fn a_gap_is_measured_as_it_is_when_it_is_filled_and_the_search_can_be_ended() {
    let session = tiny::session(true, 0.3);
    let gap = Piece::Gap(GapLength { least: 1, most: 6 });
    let text = Template { pieces: vec![Piece::Tokens(vec![1, 5]), gap, Piece::Tokens(vec![9, 4, 2])], key: 3 };
    let decoding = Decoding { decoder: Decoder::Threshold, ..Decoding::default() };
    let (measured, read) = session.measured(&text, &decoding, &mut || true).unwrap();
    let mut batch = Batch::new(&session);
    batch.join(&measured, &decoding).unwrap();
    while batch.going() > 0 {
        batch.step().unwrap();
    }
    let found = batch.take_finished().remove(0).1;
    let mut ready = |_| Ok::<(), InferenceError>(());
    let whole = session.write(std::slice::from_ref(&text), &decoding, 1, &mut |_, _| {}, &mut ready).unwrap().remove(0);
    assert_eq!((found.tokens, found.nfe + read), (whole.tokens, whole.nfe));
    let mut asked = 0;
    let ended = session.measured(&text, &decoding, &mut || {
        asked += 1;
        asked < 3
    });
    assert!(matches!(ended, Err(InferenceError::Model(difflow_model::ModelError::Ended))) && asked == 3, "{asked}");
}

/// A text that begins like another one, on its way or gone, is the text alone, and its beginning is not read again.
#[test]
fn what_texts_have_in_common_is_read_once_and_changes_none() {
    let beginning: Vec<u32> = (0..9).map(|at| 1 + at * 2).collect();
    let text = |key: u64| {
        let prompt = Piece::Tokens(beginning.iter().copied().chain([2 + key as u32]).collect());
        let gap = Piece::Gap(GapLength { least: 7, most: 7 });
        Template { pieces: vec![prompt, gap], key }
    };
    let way = |decoder| Decoding { decoder, steps: 3, ..Decoding::default() };
    let whole = Blocks { context: Context::Block, ..BLOCKS };
    let mut beside = 0;
    // Of a model of blocks, the first block with something to write is read with it.
    for (session, decoding, common) in [
        (tiny::session(false, 0.3), way(Decoder::Ar), 9),
        (tiny::block_session(BLOCKS, "4:3,row"), way(Decoder::Ar), 9),
        (tiny::block_session(BLOCKS, "4:3,row"), way(Decoder::Speculative), 9),
        (tiny::block_session(BLOCKS, "4:3,row"), way(Decoder::Threshold), 8),
        (tiny::block_session(whole, "4"), way(Decoder::Random), 8),
        (tiny::session(true, 0.3), way(Decoder::Threshold), 0),
    ] {
        let mut batch = Batch::new(&session);
        let (mut finished, mut known) = (BTreeMap::new(), vec![0]);
        // The second joins while the first is on its way, the others when one has gone or both have.
        for key in 0..5 {
            batch.join(&text(key), &decoding).unwrap();
            known.push(batch.known());
            batch.step().unwrap();
            finished.extend(batch.take_finished());
            if key == 0 {
                beside += batch.going();
                continue;
            }
            while batch.going() > 0 {
                batch.step().unwrap();
            }
            finished.extend(batch.take_finished());
        }
        let known: Vec<u64> = known.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(known, [0, common, common, common, common], "{decoding:?}");
        assert_eq!(batch.bytes() > 0, common > 0, "{decoding:?}");
        for key in 0..5 {
            let mut ready = |_| Ok::<(), InferenceError>(());
            let alone = session.write(&[text(key)], &decoding, 1, &mut |_, _| {}, &mut ready).unwrap().remove(0);
            assert_eq!((&finished[&key].tokens, finished[&key].nfe), (&alone.tokens, alone.nfe), "{decoding:?}");
        }
    }
    assert!(beside > 1, "{beside} texts were on their way when another joined");
}
