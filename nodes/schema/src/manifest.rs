//! The manifest of a checkpoint: which files it consists of, each with size and sha256, and a sha256 of the manifest
//! itself, so that a changed bit anywhere in the folder is detected.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::run::{bytes_sha256, file_sha256};

/// The name of [`Manifest`] in a checkpoint folder.
pub const MANIFEST: &str = "manifest.json";
/// No manifest is longer; a longer file is not read.
const LONGEST: u64 = 16 << 20;

/// What a checkpoint consists of. It is written last: its file's sha256 names the whole checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Optimizer steps done.
    pub step: u64,
    /// Training tokens seen.
    pub tokens_seen: u64,
    /// The first micro-batch that was not trained on.
    pub next_seq: u64,
    /// Every other file of the folder.
    pub files: BTreeMap<String, FileRecord>,
    /// sha256 of this manifest's text with this value empty; format 1 has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// sha256 in hex.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read.
    #[error("{}: {source}; this folder is not a complete checkpoint", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{}: not a checkpoint manifest: {source}", path.display())]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The manifest names a file that is not in the folder itself.
    #[error("{}: names the file `{name}`, allowed: plain names of files in this folder; use an earlier checkpoint", path.display())]
    Outside {
        /// Which.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A file is not what was written.
    #[error("{}: {found}, the manifest says {wanted}: the file was damaged or changed; use an earlier checkpoint", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it was.
        wanted: String,
    },
}

impl Manifest {
    /// The manifest of a checkpoint with these files.
    pub fn new(step: u64, tokens_seen: u64, next_seq: u64, files: BTreeMap<String, FileRecord>) -> Self {
        let open = Self { step, tokens_seen, next_seq, files, sha256: Some(String::new()) };
        Self { sha256: Some(bytes_sha256(&open.text())), ..open }
    }

    /// 1: by a difflow whose manifests had no sha256 of their own, and whose checkpoints no lineage; 2: as described here.
    pub fn format(&self) -> u8 {
        if self.sha256.is_some() { 2 } else { 1 }
    }

    /// The content of the manifest's file.
    pub fn text(&self) -> Vec<u8> {
        // Numbers and texts under keys that are texts: there is nothing that JSON cannot hold.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Reads the manifest of a checkpoint folder; its file's sha256 comes along.
    ///
    /// # Errors
    /// When there is none, or it is not as it was written, or names files outside of the folder.
    pub fn read(dir: &Path) -> Result<(Self, String), CheckpointError> {
        let path = dir.join(MANIFEST);
        let bytes = size(&path)?;
        let damaged = |found: String, wanted: String| CheckpointError::Damaged { path: path.clone(), found, wanted };
        if bytes > LONGEST {
            return Err(damaged(format!("{bytes} bytes"), format!("at most {LONGEST}")));
        }
        let bytes = fs::read(&path).map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
        Ok((Self::parse(&path, &bytes)?, bytes_sha256(&bytes)))
    }

    /// Reads the content of the manifest's file `path`.
    ///
    /// # Errors
    /// When it is not as it was written, or names files outside of the folder.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let path = path.to_owned();
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|source| CheckpointError::Manifest { path: path.clone(), source })?;
        // Also blanks count: two texts of one manifest would be two names of one checkpoint.
        let Self { step, tokens_seen, next_seq, ref files, .. } = manifest;
        let wanted = match &manifest.sha256 {
            Some(_) => Self::new(step, tokens_seen, next_seq, files.clone()),
            None => manifest.clone(),
        };
        if wanted.text() != bytes {
            let name = |manifest: &Self| format!("sha256 {}", manifest.sha256.as_deref().unwrap_or("none"));
            return Err(CheckpointError::Damaged { path, found: name(&wanted), wanted: name(&manifest) });
        }
        let plain = |name: &str| !matches!(name, "" | "." | ".." | MANIFEST) && !name.contains(['/', '\\', '\0']);
        match manifest.files.keys().find(|name| !plain(name)) {
            Some(name) => Err(CheckpointError::Outside { path, name: name.clone() }),
            None => Ok(manifest),
        }
    }

    /// Reads the manifest and compares every file with it.
    ///
    /// # Errors
    /// The first file that is not what was written.
    pub fn verify(dir: &Path) -> Result<(Self, String), CheckpointError> {
        let (manifest, sha256) = Self::read(dir)?;
        for (name, wanted) in &manifest.files {
            let path = dir.join(name);
            let damaged =
                |found: String, wanted: String| CheckpointError::Damaged { path: path.clone(), found, wanted };
            // The size first: a file that is far too long need not be read.
            let bytes = size(&path)?;
            if bytes != wanted.bytes {
                return Err(damaged(format!("{bytes} bytes"), format!("{} bytes", wanted.bytes)));
            }
            let (sha256, _) =
                file_sha256(&path).map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
            if sha256 != wanted.sha256 {
                return Err(damaged(format!("sha256 {sha256}"), wanted.sha256.clone()));
            }
        }
        Ok((manifest, sha256))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

/// Size of a file of the folder. A link, a pipe or a device is none: it leads elsewhere, or is never read to its end.
fn size(path: &Path) -> Result<u64, CheckpointError> {
    let read = |source| CheckpointError::Read { path: path.to_owned(), source };
    let meta = fs::symlink_metadata(path).map_err(read)?;
    if meta.is_file() { Ok(meta.len()) } else { Err(read(io::Error::other("not a regular file"))) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::run::write_atomically;

    fn checkpoint(dir: &Path) {
        fs::write(dir.join("model.safetensors"), b"weights").unwrap();
        let (sha256, bytes) = file_sha256(&dir.join("model.safetensors")).unwrap();
        let files = BTreeMap::from([("model.safetensors".to_owned(), FileRecord { sha256, bytes })]);
        write_atomically(&dir.join(MANIFEST), &Manifest::new(3, 4, 5, files).text()).unwrap();
    }

    /// Every bit of every file: a manifest whose `next_seq` lost a bit would train on a batch twice, or never.
    #[test]
    fn every_flipped_bit_of_a_checkpoint_is_found() {
        let dir = tempfile::tempdir().unwrap();
        checkpoint(dir.path());
        assert_eq!(Manifest::verify(dir.path()).unwrap().0.next_seq, 5);
        for name in ["model.safetensors", MANIFEST] {
            let file = dir.path().join(name);
            let whole = fs::read(&file).unwrap();
            for bit in 0..8 * whole.len() {
                let mut damaged = whole.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                fs::write(&file, damaged).unwrap();
                assert!(Manifest::verify(dir.path()).is_err(), "bit {bit} of {name}");
            }
            for length in 0..whole.len() {
                fs::write(&file, &whole[..length]).unwrap();
                assert!(Manifest::verify(dir.path()).is_err(), "{name} cut to {length} bytes");
            }
            fs::write(&file, [&whole[..], b" "].concat()).unwrap();
            assert!(Manifest::verify(dir.path()).is_err(), "a byte after {name}");
            fs::write(&file, whole).unwrap();
        }
        assert!(Manifest::verify(dir.path()).is_ok());
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        assert!(matches!(Manifest::verify(dir.path()), Err(CheckpointError::Read { .. })));
    }

    /// Written by difflow of early November 2026, word for word.
    #[test]
    fn a_manifest_of_format_1_is_read_and_its_files_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"x").unwrap();
        let text = format!(
            "{{\n  \"step\": 3,\n  \"tokens_seen\": 4,\n  \"next_seq\": 5,\n  \"files\": {{\n    \"a\": {{\n      \"sha256\": \"{}\",\n      \
             \"bytes\": 1\n    }}\n  }}\n}}",
            bytes_sha256(b"x")
        );
        fs::write(dir.path().join(MANIFEST), &text).unwrap();
        let (manifest, _) = Manifest::verify(dir.path()).unwrap();
        assert_eq!((manifest.format(), manifest.next_seq), (1, 5));
        assert_eq!(Manifest::new(3, 4, 5, manifest.files).format(), 2);
        fs::write(dir.path().join("a"), b"y").unwrap();
        assert!(matches!(Manifest::verify(dir.path()), Err(CheckpointError::Damaged { .. })));
    }

    /// 20,000 mutations, the same ones each time; fuzz/ has the same with a fuzzer's choices.
    #[test]
    fn no_text_makes_the_reader_panic_and_none_but_the_written_one_is_taken() {
        let record = FileRecord { sha256: bytes_sha256(b"x"), bytes: 1 };
        let good = Manifest::new(1, 2, 3, BTreeMap::from([("a".to_owned(), record)])).text();
        let pieces =
            ["null", "-1", "18446744073709551616", "[", "{", "\"", "\\u0000", "é", ",", "\"sha256\": \"\",", " "];
        let mut state = 5u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..1 + below(3) {
                let at = below(bytes.len());
                match below(3) {
                    0 => bytes[at] = below(256) as u8,
                    1 => drop(bytes.drain(at..(at + 1 + below(9)).min(bytes.len() - 1).max(at))),
                    _ => drop(bytes.splice(at..at, pieces[below(pieces.len())].bytes())),
                }
            }
            assert!(Manifest::parse(Path::new("m"), &bytes).is_err() || bytes == good);
        }
    }

    /// Whoever writes a manifest can give it a right sha256, too.
    #[test]
    fn a_manifest_never_leads_out_of_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), b"x").unwrap();
        let inner = dir.path().join("step-1");
        fs::create_dir(&inner).unwrap();
        let record = FileRecord { sha256: bytes_sha256(b"x"), bytes: 1 };
        let absolute = dir.path().join("secret").display().to_string();
        for name in ["../secret", absolute.as_str(), "", ".", "..", "a/../../secret", MANIFEST] {
            let files = BTreeMap::from([(name.to_owned(), record.clone())]);
            fs::write(inner.join(MANIFEST), Manifest::new(1, 1, 1, files).text()).unwrap();
            assert!(matches!(Manifest::verify(&inner), Err(CheckpointError::Outside { .. })), "{name}");
        }
        let files = BTreeMap::from([("link".to_owned(), record)]);
        fs::write(inner.join(MANIFEST), Manifest::new(1, 1, 1, files).text()).unwrap();
        std::os::unix::fs::symlink("../secret", inner.join("link")).unwrap();
        assert!(Manifest::verify(&inner).unwrap_err().to_string().contains("not a regular file"));
    }

    /// A sparse file of a terabyte is refused by its size, without reading it.
    #[test]
    fn claimed_sizes_are_neither_allocated_nor_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        let record = |bytes| FileRecord { sha256: bytes_sha256(b""), bytes };
        let files = BTreeMap::from([("model.safetensors".to_owned(), record(7)), ("z".to_owned(), record(u64::MAX))]);
        let manifest = Manifest::new(u64::MAX, u64::MAX, u64::MAX, files);
        assert_eq!(manifest.bytes(), u64::MAX);
        fs::write(dir.path().join(MANIFEST), manifest.text()).unwrap();
        assert!(Manifest::verify(dir.path()).unwrap_err().to_string().contains("bytes, the manifest says 7 bytes"));
        fs::File::create(dir.path().join(MANIFEST)).unwrap().set_len(1 << 40).unwrap();
        assert!(Manifest::verify(dir.path()).unwrap_err().to_string().contains("at most"));
    }
}
