//! Making the files of data/tiny.

use crate::bpe;
use crate::endings::ending;
use crate::error::WorldError;
use crate::gaps::choose_gaps;
use crate::instruct::{Instruction, instruction};
use crate::skeleton::skeleton;
use crate::tell::{Split, tell};
use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The seed of data/tiny. Another seed makes another corpus of the same world.
pub const SEED: u64 = 2_041_017_891;
/// Stories to train on; their `doc_id`s are 0 to this, exclusive.
pub const TRAIN: usize = 60_000;
/// Stories held out; their `doc_id`s follow those of the training stories.
pub const HELDOUT: usize = 1_000;
/// Gaps for infilling, one in each of as many held-out stories.
pub const GAPS: usize = 500;
/// Stories with a choice of last lines, the first held-out ones.
pub const ENDINGS: usize = 500;

/// The files that [`write_all`] makes, in the order it makes them.
pub const FILES: [&str; 5] = ["train.parquet", "heldout.parquet", "tokenizer.json", "infill.jsonl", "endings.jsonl"];

/// Every story of the corpus: no two have the same skeleton, within or across the two parts.
pub struct Corpus {
    pub train: Vec<String>,
    pub heldout: Vec<String>,
    /// Stories left out because an earlier one had their skeleton.
    pub repeats: usize,
}

impl Corpus {
    /// Tells all stories; takes a few seconds.
    pub fn tell(seed: u64) -> Corpus {
        let mut seen = BTreeSet::new();
        let mut told = 0;
        let mut part = |split, count| {
            let stories = (0..).map(|index| tell(seed, split, index)).inspect(|_| told += 1);
            stories.filter(|text| seen.insert(skeleton(text))).take(count).collect()
        };
        // Held-out stories first: which they are then depends on nothing that is told for training.
        let heldout = part(Split::Heldout, HELDOUT);
        let train = part(Split::Train, TRAIN);
        Corpus { train, heldout, repeats: told - TRAIN - HELDOUT }
    }
}

/// Writes every file of data/tiny that the world makes into `dir`, and returns each name with its sha256.
///
/// # Errors
/// A file cannot be written, or the tokenizer cannot be trained.
pub fn write_all(dir: &Path, seed: u64) -> Result<Vec<(&'static str, String)>, WorldError> {
    std::fs::create_dir_all(dir).map_err(WorldError::write(dir))?;
    let corpus = Corpus::tell(seed);
    let tokenizer = bpe::train(corpus.train.iter().map(String::as_str))?;
    let mut gaps = String::new();
    for mut gap in choose_gaps(&corpus.heldout, GAPS, seed) {
        gap.id += TRAIN as u64;
        gaps.push_str(&serde_json::to_string(&gap)?);
        gaps.push('\n');
    }
    let mut endings = String::new();
    let questions = (TRAIN as u64..).zip(&corpus.heldout).filter_map(|(id, text)| ending(id, text, seed));
    for question in questions.take(ENDINGS) {
        endings.push_str(&serde_json::to_string(&question)?);
        endings.push('\n');
    }
    let contents: [Vec<u8>; 5] = [
        parquet_bytes(&corpus.train, 0)?,
        parquet_bytes(&corpus.heldout, TRAIN as u64)?,
        tokenizer.to_string(true)?.into_bytes(),
        gaps.into_bytes(),
        endings.into_bytes(),
    ];
    let mut sums = Vec::new();
    for (name, bytes) in FILES.into_iter().zip(contents) {
        let path = dir.join(name);
        std::fs::write(&path, &bytes).map_err(WorldError::write(&path))?;
        sums.push((name, hex::encode(Sha256::digest(&bytes))));
    }
    Ok(sums)
}

/// Instructions to train on.
pub const INSTRUCTIONS: usize = 20_000;
/// Instructions held out.
pub const INSTRUCTIONS_HELDOUT: usize = 500;

/// Writes `instructions.parquet` and `instructions-heldout.parquet` into `dir`: columns `task`, `prompt` and `response`, no prompt twice.
/// Returns each name with its sha256.
///
/// # Errors
/// A file cannot be written.
pub fn write_instructions(
    dir: &Path,
    seed: u64,
    counts: [usize; 2],
) -> Result<Vec<(&'static str, String)>, WorldError> {
    std::fs::create_dir_all(dir).map_err(WorldError::write(dir))?;
    let (mut seen, mut sums) = (BTreeSet::new(), Vec::new());
    let files = [
        ("instructions-heldout.parquet", Split::AskedHeldout, counts[1]),
        ("instructions.parquet", Split::Asked, counts[0]),
    ];
    for (name, split, count) in files {
        let all = (0..).map(|index| instruction(seed, split, index));
        let all: Vec<Instruction> = all.filter(|one| seen.insert(one.prompt.clone())).take(count).collect();
        let column =
            |of: fn(&Instruction) -> &str| Arc::new(StringArray::from_iter_values(all.iter().map(of))) as ArrayRef;
        let columns = [
            ("task", column(|one| one.task.name())),
            ("prompt", column(|one| &one.prompt)),
            ("response", column(|one| &one.response)),
        ];
        let bytes = written(&RecordBatch::try_from_iter(columns)?)?;
        let path = dir.join(name);
        std::fs::write(&path, &bytes).map_err(WorldError::write(&path))?;
        sums.push((name, hex::encode(Sha256::digest(&bytes))));
    }
    Ok(sums)
}

/// Columns `doc_id` (UInt64, counting from `first_id`) and `text` (Utf8). The bytes hold no time and no machine.
fn parquet_bytes(stories: &[String], first_id: u64) -> Result<Vec<u8>, WorldError> {
    let ids: UInt64Array = (first_id..).take(stories.len()).collect();
    let texts = StringArray::from_iter_values(stories);
    let columns: [(&str, ArrayRef); 2] = [("doc_id", Arc::new(ids)), ("text", Arc::new(texts))];
    written(&RecordBatch::try_from_iter(columns)?)
}

/// A Parquet file's bytes.
fn written(batch: &RecordBatch) -> Result<Vec<u8>, WorldError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(15)?))
        // No two texts or ids are the same: a dictionary would only hide the repetitions from zstd.
        .set_dictionary_enabled(false)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.close()?;
    Ok(bytes)
}
