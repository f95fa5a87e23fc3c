//! The tokenizer node's loop: documents are requested while the store should grow, and demands are answered as soon
//! as it covers them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use difflow_node_kit::{Event, Node, Problem, Problems, Puller, Received, Upstream};
use difflow_schema::lock::{self, LockError};
use difflow_schema::run::file_sha256;
use difflow_schema::{Demand, Documents, Facts, Sequences, TokenizerFacts};
use eyre::{Context, Result, ensure};

use crate::build::Build;
use crate::config::Config;
use crate::examples::Examples;
use crate::key::store_key;
use crate::open_end::OpenEnd;
use crate::sequencer::{Answer, Sequencer};
use crate::special_tokens::SpecialTokens;
use crate::store::{Record, Store};
use crate::store_writer::UNFINISHED;
use crate::words::Words;

/// Batches of documents on their way.
const WINDOW: u32 = 2;
/// After this time without a batch it is asked for again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs until nobody asks any more.
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let words = Words::open(&config)?;
    let dir = config.run.dir().tokens();
    let _lock = claim(&config, &dir)?;
    let mut tokenizer = facts(&config, &words)?;
    let mut documents: Puller<Documents> = Puller::new("documents", 0, WINDOW, PATIENCE);
    let mut asked = BTreeSet::new();
    // With the first documents comes what they are: a store of others is of no use.
    let Some(mut upstream) = first(&mut node, &mut documents, &mut asked)? else { return Ok(()) };
    let (corpus, conversations) = (upstream.facts().corpus.clone(), upstream.facts().conversations);
    let examples = conversations.then(|| Examples::open(&config, &words)).transpose()?;
    tokenizer.examples = examples.as_ref().map(Examples::facts);
    if examples.is_some() {
        tokenizer.canvas = config.whole_canvas().or(tokenizer.canvas);
    }
    let mut said = Facts { tokenizer: Some(tokenizer.clone()), ..upstream.facts().clone() };
    let key = store_key(&config, &tokenizer, examples.as_ref().map(Examples::identity).as_ref(), corpus.as_deref());
    let (mut sequencer, mut build) = match key.as_deref().and_then(|key| Store::reopen(&dir, key)) {
        Some((store, record)) => {
            let mut sequencer = Sequencer::new(store, &config);
            complete(&mut sequencer, &record, &mut said)?;
            report("reused", &record);
            (sequencer, None)
        }
        None => {
            let build = Build::begin(&dir, key.unwrap_or_default(), words, examples, &config)?;
            let store = Store::open(&dir, UNFINISHED, config.sequence_length, conversations);
            let store = store.with_context(|| format!("cannot read the token store {}", dir.display()))?;
            let sequencer = Sequencer::new(store, &config);
            (if conversations { sequencer.wait_for_all() } else { sequencer }, Some(build))
        }
    };
    node.say("sequences", &said)?;
    // The first batch leaves only when there is enough to shuffle.
    node.send_prelude::<Sequences>("sequences")?;
    loop {
        answer(&mut node, &mut sequencer, &mut asked)?;
        let wants = build.is_some() && sequencer.wants_rows();
        let mut news = false;
        if wants {
            documents.ask(&mut node)?;
            news = grow(&mut documents, &mut build, &mut sequencer, &mut said)?;
            if news && build.is_none() {
                node.say("sequences", &said)?;
            }
            if !news {
                documents.ask_again(&mut node)?;
            }
        }
        let timeout = if news { Some(Duration::ZERO) } else { wants.then_some(PATIENCE / 5) };
        match node.next(timeout)? {
            Event::Message(message) if message.input == "demand" => ask(&message, &mut asked)?,
            Event::Message(message) => {
                upstream.hear(&message)?;
                ensure!(
                    upstream.facts().corpus == corpus && upstream.facts().conversations == conversations,
                    "the corpus began anew with other documents in the middle of the run; start the run again"
                );
                documents.accept(&message)?;
            }
            // With a complete store the corpus may leave.
            Event::Closed(input) if input == "documents" && build.is_none() => {}
            Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(()),
            Event::Tick | Event::Timeout => {}
        }
    }
}

/// Waits for the first documents, or word that there are none. Returns `None` when the run ends before.
fn first(node: &mut Node, documents: &mut Puller<Documents>, asked: &mut BTreeSet<u64>) -> Result<Option<Upstream>> {
    let mut upstream = Upstream::default();
    documents.ask(node)?;
    loop {
        match node.next(Some(PATIENCE / 5))? {
            Event::Message(message) if message.input == "demand" => ask(&message, asked)?,
            Event::Message(message) => {
                upstream.hear(&message)?;
                documents.accept(&message)?;
                return Ok(Some(upstream));
            }
            Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(None),
            Event::Tick | Event::Timeout => documents.ask_again(node)?,
        }
    }
}

fn ask(message: &Received, asked: &mut BTreeSet<u64>) -> Result<()> {
    let demand: Demand = message.read()?;
    asked.extend(demand.next_seq..demand.next_seq + u64::from(demand.count));
    Ok(())
}

/// What this node says of the data.
fn facts(config: &Config, words: &Words) -> Result<TokenizerFacts> {
    let path = std::path::absolute(config.tokenizer_file())?;
    let (sha256, _) = file_sha256(&path).with_context(|| path.display().to_string())?;
    let SpecialTokens { bos, eos } = words.special;
    let canvas = OpenEnd::new(config).canvas();
    let (sequence_length, length_entropy, examples) = (config.sequence_length, None, None);
    Ok(TokenizerFacts { path, sha256, bos, eos, sequence_length, length_entropy, canvas, examples })
}

fn complete(sequencer: &mut Sequencer, record: &Record, said: &mut Facts) -> Result<(), Problems> {
    sequencer.complete(record)?;
    if let Some(tokenizer) = &mut said.tokenizer {
        tokenizer.length_entropy = Some(record.length_entropy);
    }
    Ok(())
}

/// Takes the token store: two processes that build one would spoil it for each other.
fn claim(config: &Config, dir: &Path) -> Result<File> {
    let unwritable = |e: &dyn std::fmt::Display| {
        Problems::from(Problem::new("RUNS", dir.display(), format!("this folder cannot be written to: {e}")))
    };
    fs::create_dir_all(dir).map_err(|e| unwritable(&e))?;
    lock::take(&dir.join("lock"), lock::PATIENCE).map_err(|e| match e {
        LockError::Taken { holder, .. } => {
            let taken =
                format!("another process ({holder}) has its token store; wait for it, stop it, or choose another RUN");
            Problems::from(Problem::new("RUN", &config.run.name, taken)).into()
        }
        LockError::Io { source, .. } => unwritable(&source).into(),
    })
}

/// Sends every batch that was asked for and can be made.
fn answer(node: &mut Node, sequencer: &mut Sequencer, asked: &mut BTreeSet<u64>) -> Result<()> {
    while let Some(&seq) = asked.first() {
        match sequencer.get(seq).context("the token store")? {
            Answer::Batch(batch) => node.send("sequences", seq, &batch)?,
            Answer::Ended(end) => {
                node.send_fin::<Sequences>("sequences", end)?;
                asked.clear();
                break;
            }
            Answer::Wait => break,
        }
        asked.pop_first();
    }
    Ok(())
}

/// Takes one batch of documents, or their end, into the store; whether there was one.
fn grow(
    documents: &mut Puller<Documents>,
    build: &mut Option<Build>,
    sequencer: &mut Sequencer,
    said: &mut Facts,
) -> Result<bool> {
    if let (Some(build), Some(batch)) = (build.as_mut(), documents.take()) {
        build.push(batch)?;
        sequencer.grow(build.rows());
        return Ok(true);
    }
    if !documents.ended() {
        return Ok(false);
    }
    let Some(finished) = build.take() else { return Ok(false) };
    let record = finished.finish()?;
    complete(sequencer, &record, said)?;
    report("complete", &record);
    Ok(true)
}

fn report(what: &str, record: &Record) {
    let share = 100.0 * (1.0 - record.tokens as f64 / (record.rows.max(1) as f64 * record.length as f64));
    println!(
        "token store {what}: {} sequences of {} tokens from {} documents, {share:.1} % padding",
        record.rows, record.length, record.documents
    );
    let what = if record.spans.is_some() { "examples" } else { "documents" };
    let cut = if record.spans.is_some() { "their prompts were cut from the left" } else { "were cut" };
    if record.long_documents > 0 {
        println!(
            "{} {what} are longer than a sequence and {cut} (SEQUENCE_LENGTH {})",
            record.long_documents, record.length
        );
    }
}
