//! Files of tensors of which no process has all: each process writes some of them, from what the others give it, a part of a tensor at a time.
//! The bytes are those that a process with everything writes.
//!
//! So many files as there are writers are written at once: all give the first part of each, then the second, and so on.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::ModelError;
use crate::group::{Group, Place};
use crate::reducer::Reducer;
use crate::tensor_writer::{Planned, Put, SavedFile, Shapes, Writer, planned, write_index};

/// How long a rank looks for a folder that rank 0 has made.
const LOOK: Duration = Duration::from_secs(1);

/// Elements of a tensor that are given at a time.
const PART: usize = if cfg!(test) { 1000 } else { 1 << 20 };

/// Gives a process some elements of a tensor, in their order: all processes call it, and `put` gets them in that one.
pub(crate) type Show<'a> = dyn Fn(&str, &Range<usize>, usize, &mut Put<'_>) -> Result<(), ModelError> + 'a;

/// The parts in which a file's tensors are given.
fn parts(file: &Planned) -> Vec<(&str, Range<usize>)> {
    let mut parts = Vec::new();
    for (name, (shape, _)) in &file.tensors {
        let count = shape.iter().product::<i64>() as usize;
        parts.extend((0..count).step_by(PART).map(|begin| (name.as_str(), begin..count.min(begin + PART))));
    }
    parts
}

/// Where files are written, and who writes them.
pub(crate) struct Target<'a> {
    pub dir: &'a Path,
    /// Bytes of tensors that a file has at most.
    pub limit: u64,
    /// What [`Reducer::writers`] says of the folder.
    pub writers: &'a [usize],
}

/// Writes and syncs the files that [`planned`] says, and their index. All processes come here. Returns those that this process wrote, and in
/// the first one all of them.
pub(crate) fn write_together(
    (&Target { dir, limit, writers }, name): (&Target, &str),
    tensors: &Shapes,
    notes: &BTreeMap<String, String>,
    reducer: &dyn Reducer,
    show: &Show<'_>,
) -> Result<Vec<SavedFile>, ModelError> {
    let own = reducer.rank();
    let files = planned(name, limit, tensors);
    let mut saved = Vec::new();
    for files in files.chunks(writers.len()) {
        let mine = writers.iter().zip(files).find(|(writer, _)| **writer == own);
        let mut writer = mine.map(|(_, file)| Writer::begin(dir, file, notes)).transpose()?;
        let parts: Vec<_> = files.iter().map(parts).collect();
        for number in 0..parts.iter().map(Vec::len).max().unwrap_or(0) {
            for (to, file) in writers.iter().zip(&parts) {
                let Some((tensor, range)) = file.get(number) else { continue };
                let kind = tensors[*tensor].1;
                show(tensor, range, *to, &mut |part| match &mut writer {
                    Some(writer) => writer.put(part, kind),
                    None => Ok(()),
                })?;
            }
            // Nobody runs far ahead of those who write, and waits for them longer than it may.
            reducer.gather(&[0.0])?;
        }
        saved.extend(writer.map(Writer::end).transpose()?);
    }
    let mut saved = reducer.collect(saved)?;
    if own == 0 {
        saved.sort_by(|left, right| left.name.cmp(&right.name));
        saved.extend(write_index(dir, name, &files)?);
    }
    Ok(saved)
}

/// The ranks that see a folder which rank 0 has made: those that are on its machine, or have the same disk.
pub(crate) fn writers(group: &Group, dir: &Path) -> Result<Vec<usize>, ModelError> {
    let Place { rank, size } = group.place();
    let mark = dir.join(".seen");
    let mut token = format!("{:x}", RandomState::new().hash_one(std::process::id())).into_bytes();
    token.resize(64, b' ');
    let token = group.bytes_of(0, &token)?;
    if rank == 0 {
        std::fs::write(&mark, &token).map_err(ModelError::write(&mark))?;
    }
    group.gather(&[0.0])?;
    let seen = || std::fs::read(&mark).is_ok_and(|found| found == token);
    // A network's disk may show it a little later.
    let began = Instant::now();
    while !seen() && began.elapsed() < LOOK {
        std::thread::sleep(LOOK / 20);
    }
    let sees = group.gather(&[f64::from(u8::from(seen()))])?;
    if rank == 0 {
        std::fs::remove_file(&mark).map_err(ModelError::write(&mark))?;
    }
    Ok((0..size).filter(|rank| *rank == 0 || sees[*rank] > 0.0).collect())
}

/// The files that this process has written; in the first one, those of all. All come here.
pub(crate) fn collected(group: &Group, own: Vec<SavedFile>) -> Result<Vec<SavedFile>, ModelError> {
    let mut text = told(&own).into_bytes();
    let most = group.gather(&[text.len() as f64])?.into_iter().fold(1.0, f64::max) as usize;
    text.resize(most, 0);
    let all = group.gather_bytes(&text)?;
    if group.place().rank > 0 {
        return Ok(own);
    }
    let texts = all.chunks(most).map(String::from_utf8_lossy);
    Ok(texts.map(|text| heard(text.trim_end_matches('\0'))).collect::<Result<Vec<_>, _>>()?.concat())
}

/// What one process tells another of files that it has written.
fn told(files: &[SavedFile]) -> String {
    files.iter().map(|SavedFile { name, bytes, sha256 }| format!("{name} {bytes} {sha256}\n")).collect()
}

/// The files of [`told`].
fn heard(text: &str) -> Result<Vec<SavedFile>, ModelError> {
    let file = |line: &str| {
        let mut words = line.split(' ');
        let (name, bytes, sha256) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        Some(SavedFile { name: name.to_owned(), bytes, sha256: sha256.to_owned() })
    };
    let files: Option<Vec<SavedFile>> = text.lines().map(file).collect();
    files.ok_or_else(|| ModelError::Ranks(format!("a rank says of the files that it has written: {text}")))
}
