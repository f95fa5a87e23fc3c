//! The files of the corpus as they were when the run began, in `corpus.json` of the run: different content would give
//! different batches under the same numbers.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use difflow_node_kit::{Problem, Problems};
use difflow_schema::run::{RunDir, bytes_sha256, write_atomically};
use difflow_tables::{Address, File};
use eyre::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::source::{self, Source};

/// Bytes of all files together that are digested, at most: a start must not take minutes because the corpus is large.
const DIGESTED: u64 = 64 << 20;
/// Bytes of each file that are digested, at least.
const LEAST: u64 = 64 << 10;
/// Places of a file that are digested where it is too long to be digested whole.
const PLACES: u64 = 16;

/// A file as it is listed.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it is.
    pub file: File,
    /// Its size.
    pub bytes: u64,
    /// When it was changed, in nanoseconds since 1970.
    pub modified: u128,
}

/// What is remembered of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    path: String,
    bytes: u64,
    modified: String,
    /// sha256 of the file, or of places all over it where it is long. Of an object in a store `etag` is known without reading it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// What the store calls the object's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    /// Whether that is of the whole content. The time of change counts where it is not.
    whole: bool,
}

/// Lists the files, and what identifies their content, in `corpus.json`; once the run has been trained, compares them with what stands
/// there.
///
/// # Errors
/// [`Problems`] with every file that is gone, new or changed, or cannot be read; otherwise when the run's folder cannot be used.
pub fn check(dir: &RunDir, found: &[Found]) -> Result<Vec<Remembered>> {
    let now = digests(found)?;
    let path = dir.corpus();
    let trained = dir.checkpoint_steps().context("cannot list the checkpoints")?.last().is_some_and(|&step| step > 0);
    if !trained || !path.exists() {
        let text = serde_json::to_vec_pretty(&now)?;
        write_atomically(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(now);
    }
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let before: Vec<Remembered> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no list of files; choose another RUN", path.display()))?;
    Problems(differences(&before, &now)).into_result()?;
    Ok(now)
}

/// Whether all files still have the size and time of change with which they were listed. Of an object in a store no other version is ever
/// read.
///
/// # Errors
/// [`Problems`] with every file that has not.
pub fn unchanged(found: &[Found]) -> Result<(), Problems> {
    let changed = found.iter().filter_map(|before| {
        let File::Here(path) = &before.file else { return None };
        let same = at(path).is_some_and(|(bytes, modified)| (bytes, modified) == (before.bytes, before.modified));
        (!same).then_some(path)
    });
    let problem = |path: &std::path::PathBuf| {
        let what = if path.exists() { "changed" } else { "disappeared" };
        let allowed = format!("it {what} while it was read, so the token store may be mixed; choose another RUN");
        Problem::new("SOURCES", path.display(), allowed)
    };
    Problems(changed.map(problem).collect()).into_result()
}

/// What tells the content of each file of SOURCES on this machine from any other's, as it goes into the fingerprint of the documents. What
/// lies in object stores is the same for all machines, and left out.
///
/// # Errors
/// [`Problems`] with SOURCES, and with every file that is not there or cannot be read.
pub fn identities(sources: &str) -> Result<Vec<Value>, Problems> {
    let here = |source: &Source| Address::parse(&source.path).is_none();
    let listed = source::find(source::parse(sources)?.into_iter().filter(here).collect())?;
    let found: Vec<Found> = listed.iter().flat_map(|listed| &listed.files.list).filter_map(look).collect();
    Ok(digests(&found)?.iter().map(Remembered::identity).collect())
}

impl Remembered {
    /// What tells its content from any other's.
    pub fn identity(&self) -> Value {
        let modified = (!self.whole).then_some(&self.modified);
        json!([self.path, self.bytes, self.sha256.as_ref().or(self.etag.as_ref()), modified])
    }
}

/// A file as it is now, or an object as it was when it was listed; `None` when it cannot be looked at.
pub fn look(file: &File) -> Option<Found> {
    let (bytes, modified) = match file {
        File::Here(path) => at(path)?,
        File::Remote(object) => (object.bytes(), object.modified()),
    };
    Some(Found { file: file.clone(), bytes, modified })
}

/// Size of a file of this machine, and when it was changed.
fn at(path: &Path) -> Option<(u64, u128)> {
    let meta = fs::metadata(path).ok()?;
    let modified = meta.modified().ok()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    Some((meta.len(), modified))
}

fn digests(found: &[Found]) -> Result<Vec<Remembered>, Problems> {
    let share = share(found);
    let (mut files, mut problems) = (Vec::with_capacity(found.len()), Vec::new());
    for Found { file, bytes, modified } in found {
        let (sha256, etag, whole) = match file {
            File::Here(path) => match digest(path, *bytes, share) {
                Ok(sha256) => (Some(sha256), None, *bytes <= share),
                Err(e) => {
                    problems.push(Problem::new("SOURCES", file, format!("it cannot be read: {e}")));
                    continue;
                }
            },
            File::Remote(object) => (None, object.etag().map(str::to_owned), object.strong_etag().is_some()),
        };
        files.push(Remembered {
            path: file.to_string(),
            bytes: *bytes,
            modified: modified.to_string(),
            sha256,
            etag,
            whole,
        });
    }
    Problems(problems).into_result()?;
    Ok(files)
}

/// Bytes of each file that are digested.
fn share(found: &[Found]) -> u64 {
    (DIGESTED / (found.len() as u64).max(1)).max(LEAST)
}

fn digest(path: &Path, bytes: u64, share: u64) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut content = Vec::new();
    if bytes <= share {
        file.take(share + 1).read_to_end(&mut content)?;
    } else {
        // Places at equal distances; the last ends with the file.
        let length = share / PLACES;
        for place in 0..PLACES {
            file.seek(SeekFrom::Start(
                (u128::from(bytes - length) * u128::from(place) / u128::from(PLACES - 1)) as u64,
            ))?;
            Read::by_ref(&mut file).take(length).read_to_end(&mut content)?;
        }
    }
    Ok(bytes_sha256(&content))
}

fn differences(before: &[Remembered], now: &[Remembered]) -> Vec<Problem> {
    let began = |path: &str, what: String| {
        Problem::new(
            "SOURCES",
            path,
            format!("{what}; this run began with another corpus: put it back, or choose another RUN"),
        )
    };
    let mut problems = Vec::new();
    for old in before {
        let Some(now) = now.iter().find(|file| file.path == old.path) else {
            // Up to November 2026 every file of a folder was listed, also those that are no documents.
            if !Path::new(&old.path).is_file() {
                problems.push(began(&old.path, "the file is gone".to_owned()));
            }
            continue;
        };
        if now.bytes != old.bytes {
            problems.push(began(&old.path, format!("it has {} bytes and had {}", now.bytes, old.bytes)));
        } else if (&now.sha256, &now.etag) != (&old.sha256, &old.etag) {
            problems.push(began(&old.path, "its content changed".to_owned()));
        } else if !old.whole && now.modified != old.modified {
            problems.push(began(&old.path, "it was changed, and is too long to be compared".to_owned()));
        }
    }
    let known = |file: &&Remembered| !before.iter().any(|old| file.path == old.path);
    problems.extend(now.iter().filter(known).map(|file| began(&file.path, "the file is new".into())));
    problems
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn files(folder: &Path, names: &[&str]) -> Vec<Found> {
        names.iter().filter_map(|name| look(&File::Here(folder.join(name)))).collect()
    }

    #[test]
    fn a_run_that_was_trained_keeps_its_corpus() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let dir = RunDir::new(root, "run");
        let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
        write("a", "one");
        write("b", "two");
        check(&dir, &files(root, &["a", "b"])).unwrap();
        // Before any training the corpus may still be put right.
        write("a", "One");
        check(&dir, &files(root, &["a", "b"])).unwrap();
        fs::create_dir_all(dir.checkpoint(5)).unwrap();
        check(&dir, &files(root, &["a", "b"])).unwrap();
        // Touched, but the same.
        write("a", "One");
        check(&dir, &files(root, &["a", "b"])).unwrap();
        let refused = |names: &[&str]| check(&dir, &files(root, names)).unwrap_err().to_string();
        check(&dir, &files(root, &["a"])).unwrap();
        fs::remove_file(root.join("b")).unwrap();
        let text = refused(&["a"]);
        assert!(text.contains("b`; the file is gone"), "{text}");
        write("b", "two");
        write("c", "three");
        assert!(refused(&["a", "b", "c"]).contains("the file is new"));
        write("a", "one");
        assert!(refused(&["a", "b"]).contains("its content changed"));
        write("a", "One and more");
        assert!(refused(&["a", "b"]).contains("12 bytes and had 3"));
    }

    #[test]
    fn a_file_that_changes_or_disappears_while_it_is_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "one").unwrap();
        let found = files(folder.path(), &["a"]);
        unchanged(&found).unwrap();
        fs::write(&path, "one two").unwrap();
        assert!(unchanged(&found).unwrap_err().to_string().contains("it changed while"));
        fs::remove_file(&path).unwrap();
        assert!(unchanged(&found).unwrap_err().to_string().contains("it disappeared while"));
    }

    /// Of a long file places all over it count, the first and the last byte among them.
    #[test]
    fn a_long_file_is_digested_in_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        let mut bytes: Vec<u8> = (0..40_000u32).map(|n| (n % 251) as u8).collect();
        let digested = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            digest(&path, bytes.len() as u64, 1600).unwrap()
        };
        let before = digested(&bytes);
        for at in [0, 50, 39_999] {
            bytes[at] ^= 1;
            assert_ne!(digested(&bytes), before, "byte {at}");
            bytes[at] ^= 1;
        }
        assert_eq!(digested(&bytes), before);
    }
}
