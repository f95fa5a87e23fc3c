//! What does not fit, of what the machines of a cluster have said. All are compared with the first, on which rank 0 is.

use std::fmt::Display;

use crate::doctor::needs::{AUTO, Needs};
use crate::doctor::report::{Files, FoundFiles, Report};
use crate::doctor::words::{Clock, Heard};
use crate::doctor::{Check, State, here};

/// Seconds between two clocks above which the times in records, logs and events are confusing. Waits, locks and timeouts ask no clock of
/// that kind.
pub const CLOCK_DOUBTFUL: f64 = 1.0;
/// Seconds above which servers may refuse what the other clock dates, as object stores do with signed requests.
pub const CLOCK_BAD: f64 = 300.0;
/// Characters of a digest that are shown.
const SHOWN: usize = 12;
/// Files that are named; the others are counted.
const NAMED: usize = 3;

type Judged = (State, String);

/// A row for everything of each machine that answered; `asked` is how many there are in all.
pub fn checks(heard: &[Heard], needs: Option<&Needs>, asked: usize) -> Vec<Check> {
    let Some(first) = heard.first() else { return Vec::new() };
    heard.iter().flat_map(|one| machine(one, first, needs, asked)).collect()
}

/// All rows of a machine.
fn machine(one: &Heard, first: &Heard, needs: Option<&Needs>, asked: usize) -> Vec<Check> {
    let (own, other, name) = (&*one.report, &*first.report, first.machine.as_str());
    let is_first = one.machine == first.machine;
    let mut rows = vec![
        ("host", (State::Good, own.host.clone())),
        ("cpu", cpu(own, other, name)),
        ("gpus", gpus(own, other, name)),
        ("difflow", program(own, other, name)),
        ("libtorch", libtorch(own, other, name)),
        ("dora", here::judge_dora(own.dora.as_deref())),
        (
            "clock",
            if is_first { (State::Good, "the others are compared with it".into()) } else { clock(one.clock, name) },
        ),
    ];
    if let Some(needs) = needs {
        rows.extend(meeting(one, first, needs, asked).map(|judged| ("ranks", judged)));
        rows.extend(files(one, first, needs));
    }
    let check = |(what, (state, found))| Check { machine: Some(one.machine.clone()), what, state, found };
    rows.into_iter().map(check).collect()
}

fn short(digest: &str) -> &str {
    digest.get(..SHOWN).unwrap_or(digest)
}

/// Good where both are the same, else `state` with the other's and what that means.
fn same<T: PartialEq + Display>(own: &T, other: &T, machine: &str, state: State, means: &str) -> Judged {
    if own == other {
        (State::Good, own.to_string())
    } else {
        (state, format!("{own}; {machine} has {other}: {means}"))
    }
}

fn cpu(own: &Report, other: &Report, machine: &str) -> Judged {
    let kind = |report: &Report| format!("{}, {}", report.cpu.model, report.cpu.extensions.join(" "));
    let means = "the bytes of one process are promised on machines of the same kind only";
    let (state, found) = same(&kind(own), &kind(other), machine, State::Doubtful, means);
    (state, format!("{} cores, {found}", own.cpu.cores))
}

fn gpus(own: &Report, other: &Report, machine: &str) -> Judged {
    let all = |report: &Report| if report.gpus.is_empty() { "none".to_owned() } else { report.gpus.join(", ") };
    same(&all(own), &all(other), machine, State::Doubtful, "as many ranks run on each machine, on devices of one kind")
}

fn program(own: &Report, other: &Report, machine: &str) -> Judged {
    let trainer = match &own.trainer {
        Ok(sha256) => sha256,
        Err(why) => return (State::Bad, format!("{why}; the programs must be there under the same paths")),
    };
    let text = |report: &Report, trainer: &str| {
        format!("{} ({}), trainer {}", report.version, short(&report.revision), short(trainer))
    };
    // Where the first has none, its own row says so.
    let Ok(others) = &other.trainer else { return (State::Good, text(own, trainer)) };
    same(&text(own, trainer), &text(other, others), machine, State::Bad, "install the same programs on all machines")
}

fn libtorch(own: &Report, other: &Report, machine: &str) -> Judged {
    let version = |report: &Report| report.libtorch.split('+').next().unwrap_or_default().to_owned();
    let (state, means) = if version(own) == version(other) {
        (State::Doubtful, "another flavour may round in another way")
    } else {
        (State::Bad, "install the same libtorch on all machines")
    };
    same(&own.libtorch, &other.libtorch, machine, state, means)
}

fn clock(clock: Option<Clock>, machine: &str) -> Judged {
    let Some(Clock { ahead, within }) = clock else {
        return (State::Doubtful, "it did not say in time what time it is".to_owned());
    };
    let found = format!("{ahead:+.3} s against {machine}'s (within {within:.3} s)");
    // Only what is certain counts.
    let off = ahead.abs() - within;
    if off > CLOCK_BAD {
        return (State::Bad, format!("{found}; object stores refuse requests of such a clock: set it (NTP)"));
    }
    if off > CLOCK_DOUBTFUL {
        return (State::Doubtful, format!("{found}; times in records and logs will be confusing: set it (NTP)"));
    }
    (State::Good, found)
}

/// Whether ranks on this machine can meet the others.
fn meeting(one: &Heard, first: &Heard, needs: &Needs, asked: usize) -> Option<Judged> {
    let (leads, leader, rendezvous) = (one.machine == needs.leader, &needs.leader, &needs.rendezvous);
    if rendezvous == AUTO {
        let wanted = format!(
            "RENDEZVOUS is `auto`, for ranks of one machine; wanted: HOST:PORT of {leader}, such as --set RENDEZVOUS=10.0.0.1:29500"
        );
        return (leads && asked > 1).then_some((State::Bad, wanted));
    }
    let Report { opened, reached, .. } = &*one.report;
    let waits = [opened.meeting.as_ref(), opened.exchange.as_ref()];
    let wrong = waits.into_iter().flatten().filter_map(|opened| opened.as_ref().err().cloned());
    let lost = reached
        .iter()
        .filter_map(|(machine, reached)| Some(format!("cannot reach {machine} at {}", reached.as_ref().err()?)));
    let wrong: Vec<String> = wrong.chain(lost).collect();
    if !wrong.is_empty() {
        let how = format!(
            "RENDEZVOUS must be a free port of {leader} at an address that all machines reach, with no firewall between them"
        );
        return Some((State::Bad, format!("{}; {how}", wrong.join("; "))));
    }
    let others: Vec<&str> = reached.keys().map(String::as_str).collect();
    let others =
        if others.is_empty() { "no other is asked".to_owned() } else { format!("reaches {}", others.join(", ")) };
    if leads {
        return Some((State::Good, format!("can wait at {rendezvous}; {others}")));
    }
    // Whoever reached the machine of rank 0 has tried every address at which that waits.
    let waits = matches!(first.report.opened.meeting, Some(Ok(_)));
    Some(if waits && reached.contains_key(leader) {
        (State::Good, format!("{others}, and {leader} at {rendezvous}"))
    } else {
        (State::Doubtful, format!("not tried: {leader} does not wait at {rendezvous}; {others}"))
    })
}

/// The rows about what a dataflow file needs.
fn files(one: &Heard, first: &Heard, needs: &Needs) -> Vec<(&'static str, Judged)> {
    let own = match &one.report.files {
        None => return Vec::new(),
        Some(Err(why)) => {
            let wanted = "the folder of the dataflow file must be there under the same path";
            return vec![("folder", (State::Bad, format!("{why}; {wanted}")))];
        }
        Some(Ok(own)) => own,
    };
    let other = first.report.files.as_ref().and_then(|files| files.as_ref().ok());
    let machine = first.machine.as_str();
    let mut rows = vec![("folder", (State::Good, needs.places.folder.display().to_string()))];
    let base = &needs.places.base_model;
    // Every rank reads it.
    rows.push((
        "base model",
        match &own.base_model {
            Err(why) => (State::Bad, why.clone()),
            Ok(None) => (State::Doubtful, format!("{base} is on the hub and not fetched yet; the run fetches it")),
            Ok(Some(files)) => {
                let other = other.and_then(|other| other.base_model.as_ref().ok()?.as_ref());
                let found = listed(files, other, machine);
                found.map_or_else(|why| (State::Bad, why), |count| (State::Good, format!("{base}: {count}")))
            }
        },
    ));
    if let Some(corpus) = &own.corpus {
        let other = other.and_then(|other| other.corpus.as_ref()?.as_ref().ok());
        let found = corpus.as_ref().map_err(Clone::clone).and_then(|files| listed(files, other, machine));
        rows.push((
            "corpus",
            match found {
                Ok(count) => (State::Good, count),
                Err(why) if one.machine == needs.reader => (State::Bad, why),
                Err(why) => (State::Doubtful, format!("{why}; only {} reads it, so a run works", needs.reader)),
            },
        ));
    }
    rows.push(("checkpoint", checkpoint(own, other, machine)));
    rows.push((
        "disk",
        match own.free {
            None => (State::Doubtful, "the run's folder cannot be looked at".to_owned()),
            Some(bytes) => {
                let found =
                    format!("{:.1} GB free for {}", bytes as f64 / 1e9, needs.places.run.dir().root().display());
                let short = bytes < here::DISK && one.machine == needs.leader;
                let note = if short { "; `difflow plan` says what a run's checkpoints take" } else { "" };
                (if short { State::Doubtful } else { State::Good }, format!("{found}{note}"))
            }
        },
    ));
    rows
}

/// How many files there are, or what differs from those of the other machine.
fn listed(own: &Files, other: Option<&Files>, machine: &str) -> Result<String, String> {
    let count = format!("{} file{}", own.len(), if own.len() == 1 { "" } else { "s" });
    // Where the other has none, its own row says so.
    let Some(other) = other else { return Ok(count) };
    let missing =
        other.keys().filter(|name| !own.contains_key(*name)).map(|name| format!("{name} is only on {machine}"));
    let differing = own.iter().filter_map(|(name, content)| match other.get(name) {
        None => Some(format!("{name} is not on {machine}")),
        Some(other) if other != content => Some(format!("{name} is not that of {machine}")),
        Some(_) => None,
    });
    let all: Vec<String> = differing.chain(missing).collect();
    match all.as_slice() {
        [] => Ok(count),
        some if some.len() > NAMED => {
            Err(format!("{}, and {} more; all machines need the same", some[..NAMED].join(", "), some.len() - NAMED))
        }
        some => Err(format!("{}; all machines need the same", some.join(", "))),
    }
}

/// Each rank reads the checkpoint that it goes on from itself.
fn checkpoint(own: &FoundFiles, other: Option<&FoundFiles>, machine: &str) -> Judged {
    let text = |found: &Option<(u64, String)>| {
        found.as_ref().map_or("none".to_owned(), |(step, sha256)| format!("step {step} ({})", short(sha256)))
    };
    let found = match &own.checkpoint {
        Err(why) => return (State::Bad, why.clone()),
        Ok(found) => text(found),
    };
    let Some(Ok(others)) = other.map(|other| &other.checkpoint) else { return (State::Good, found) };
    let means = "each rank reads the last checkpoint itself: share the run's folder, or copy it";
    same(&found, &text(others), machine, State::Bad, means)
}
