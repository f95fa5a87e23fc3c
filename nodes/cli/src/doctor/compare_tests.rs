#![allow(clippy::unwrap_used)]
//! A difference that is not named ends a run hours later, or gives other bytes without a word.

use std::collections::BTreeMap;

use difflow_node_kit::RunKeys;

use crate::doctor::compare::{CLOCK_BAD, CLOCK_DOUBTFUL, checks};
use crate::doctor::needs::Needs;
use crate::doctor::network::Opened;
use crate::doctor::report::{Cpu, Files, FoundFiles, Places, Report};
use crate::doctor::words::{Clock, Heard};
use crate::doctor::{Check, State};

fn needs(rendezvous: &str) -> Needs {
    let places = Places {
        folder: "/work".into(),
        base_model: "model".into(),
        sources: Some("[]".into()),
        run: RunKeys::default(),
    };
    Needs::for_tests(places, rendezvous, "a")
}

fn files(content: &str) -> Files {
    BTreeMap::from([("one".to_owned(), content.to_owned())])
}

fn found(report: &mut Report) -> &mut FoundFiles {
    report.files.as_mut().unwrap().as_mut().unwrap()
}

/// Two machines that fit, `a` and `b`.
fn pair() -> [Heard; 2] {
    let address = |port: u16| Some(Ok(([10, 0, 0, 1], port).into()));
    ["a", "b"].map(|machine| {
        let other = if machine == "a" { "b" } else { "a" };
        let cpu = Cpu { model: "Xeon".into(), extensions: vec!["avx2".into()], cores: 2 };
        let files = FoundFiles {
            base_model: Ok(Some(files("m"))),
            corpus: Some(Ok(files("c"))),
            checkpoint: Ok(Some((7, "f".repeat(64)))),
            free: Some(100 << 30),
        };
        let report = Report {
            host: machine.into(),
            cpu,
            version: "0.1.0".into(),
            revision: "abc".into(),
            trainer: Ok("1".repeat(64)),
            libtorch: "2.11.0+cpu".into(),
            gpus: Vec::new(),
            dora: Some("dora-cli 1.1.0".into()),
            opened: Opened { meeting: if machine == "a" { address(1) } else { None }, exchange: address(2) },
            reached: BTreeMap::from([(other.to_owned(), Ok(()))]),
            files: Some(Ok(files)),
        };
        Heard { machine: machine.into(), clock: Some(Clock { ahead: 0.0, within: 0.001 }), report: Box::new(report) }
    })
}

/// What is not good after a change of machine `b`.
fn after(change: impl Fn(&mut Heard)) -> Vec<Check> {
    let mut pair = pair();
    change(&mut pair[1]);
    let all = checks(&pair, Some(&needs("10.0.0.1:1")), 2);
    all.into_iter().filter(|check| check.state != State::Good).collect()
}

#[test]
fn machines_that_fit_are_good() {
    let all = checks(&pair(), Some(&needs("10.0.0.1:1")), 2);
    assert!(all.iter().all(|check| check.state == State::Good), "{all:#?}");
    assert_eq!(all.iter().filter(|check| check.what == "ranks").count(), 2);
}

#[test]
fn every_difference_is_named_on_the_machine_that_has_it() {
    type Change = fn(&mut Heard);
    let cases: [(&str, State, &str, Change); 16] = [
        ("cpu", State::Doubtful, "Xeon, avx2", |b| b.report.cpu.extensions.push("avx512f".into())),
        ("gpus", State::Doubtful, "a has none", |b| b.report.gpus.push("H100".into())),
        ("difflow", State::Bad, "a has 0.1.0 (abc), trainer 111", |b| b.report.trainer = Ok("2".repeat(64))),
        ("difflow", State::Bad, "no such file", |b| b.report.trainer = Err("no such file".into())),
        ("libtorch", State::Bad, "a has 2.11.0+cpu", |b| b.report.libtorch = "2.10.0+cpu".into()),
        ("libtorch", State::Doubtful, "another flavour", |b| b.report.libtorch = "2.11.0+cu130".into()),
        ("dora", State::Bad, "wanted 1.1.0", |b| b.report.dora = Some("dora-cli 1.0.0".into())),
        ("clock", State::Doubtful, "did not say", |b| b.clock = None),
        ("ranks", State::Bad, "cannot reach a at refused", |b| {
            _ = b.report.reached.insert("a".into(), Err("refused".into()))
        }),
        ("ranks", State::Doubtful, "a does not wait", |b| b.report.reached.clear()),
        ("folder", State::Bad, "no folder", |b| b.report.files = Some(Err("no folder".into()))),
        ("base model", State::Bad, "one is not that of a", |b| found(&mut b.report).base_model = Ok(Some(files("x")))),
        ("base model", State::Bad, "one is only on a", |b| found(&mut b.report).base_model = Ok(Some(Files::new()))),
        ("base model", State::Doubtful, "the run fetches it", |b| found(&mut b.report).base_model = Ok(None)),
        ("corpus", State::Doubtful, "only a reads it", |b| found(&mut b.report).corpus = Some(Ok(files("x")))),
        ("checkpoint", State::Bad, "a has step 7", |b| found(&mut b.report).checkpoint = Ok(None)),
    ];
    for (what, state, part, change) in cases {
        let wrong = after(change);
        let [check] = wrong.as_slice() else { panic!("{what}: {wrong:#?}") };
        let machine = check.machine.as_deref();
        assert_eq!((check.what, check.state, machine), (what, state, Some("b")), "{}", check.found);
        assert!(check.found.contains(part), "{what}: {}", check.found);
    }
}

/// A clock is judged by what is certain: a slow way to the machine is no wrong clock.
#[test]
fn clocks_have_limits() {
    for (ahead, within, state) in [
        (CLOCK_DOUBTFUL - 0.01, 0.0, None),
        (CLOCK_DOUBTFUL + 0.01, 0.0, Some(State::Doubtful)),
        (-CLOCK_DOUBTFUL - 0.01, 0.0, Some(State::Doubtful)),
        (CLOCK_DOUBTFUL + 0.01, 0.5, None),
        (CLOCK_BAD - 0.01, 0.0, Some(State::Doubtful)),
        (-CLOCK_BAD - 0.01, 0.0, Some(State::Bad)),
    ] {
        let wrong = after(|b| b.clock = Some(Clock { ahead, within }));
        assert_eq!(wrong.first().map(|check| check.state), state, "{ahead} within {within}: {wrong:?}");
        assert!(wrong.iter().all(|check| check.what == "clock"), "{wrong:?}");
    }
}

/// Rank 0's other port may be reached all the same.
#[test]
fn a_meeting_that_did_not_come_about_is_not_good() {
    let mut pair = pair();
    pair[0].report.opened.meeting = Some(Err("cannot wait: taken".into()));
    let all = checks(&pair, Some(&needs("10.0.0.1:1")), 2);
    let wrong: Vec<_> = all.iter().filter(|check| check.state != State::Good).collect();
    let [a, b] = wrong.as_slice() else { panic!("{wrong:#?}") };
    assert!(a.state == State::Bad && a.found.contains("taken; RENDEZVOUS must be a free port of a"), "{a:?}");
    assert!(b.state == State::Doubtful && b.found.contains("not tried: a does not wait"), "{b:?}");
}

#[test]
fn several_machines_need_an_address() {
    let of = |asked| -> Vec<Check> {
        let all = checks(&pair()[..asked], Some(&needs("auto")), asked);
        all.into_iter().filter(|check| check.what == "ranks").collect()
    };
    let both = of(2);
    assert!(both.len() == 1 && both[0].state == State::Bad && both[0].found.contains("HOST:PORT of a"), "{both:?}");
    assert!(of(1).is_empty());
}

/// What only the reader of the corpus has may not be another's business, and what it lacks is.
#[test]
fn the_machine_that_reads_the_corpus_must_have_it() {
    let mut pair = pair();
    found(&mut pair[0].report).corpus = Some(Err("no such file".into()));
    let all = checks(&pair, Some(&needs("10.0.0.1:1")), 2);
    let wrong: Vec<_> = all.iter().filter(|check| check.state != State::Good).collect();
    assert!(wrong.len() == 1 && wrong[0].what == "corpus" && wrong[0].state == State::Bad, "{wrong:?}");
}
