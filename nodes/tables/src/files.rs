//! From a source's path to the list of its files and their formats.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use glob::MatchOptions;
use serde::{Deserialize, Serialize};
use walkdir::{DirEntry, WalkDir};

use crate::address::Address;
use crate::bucket::Object;
use crate::remote_read::RemoteRead;
use crate::{FileProblem, remote_files};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// One JSON object a line.
    Jsonl,
    /// Values separated by commas (tabs in a `.tsv` file), with a header line.
    Csv,
    /// Plain text in UTF-8.
    Text,
}

/// How the files of a path are read; the same for all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    pub format: Format,
    /// Between the values of a CSV file.
    pub delimiter: u8,
    /// Of all formats but Parquet.
    pub compression: FileCompressionType,
}

impl Reading {
    /// By the file's extension; `None` when that says nothing. `format` overrules it.
    fn of(path: &Path, format: Option<Format>) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let packed = [
            (".gz", FileCompressionType::GZIP),
            (".bz2", FileCompressionType::BZIP2),
            (".xz", FileCompressionType::XZ),
            (".zst", FileCompressionType::ZSTD),
        ];
        let packed = packed.into_iter().find_map(|(ending, how)| Some((name.strip_suffix(ending)?, how)));
        let (name, compression) = packed.unwrap_or((&name, FileCompressionType::UNCOMPRESSED));
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        let by_ending = match ending {
            "parquet" => Some(Format::Parquet),
            "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
            "csv" | "tsv" => Some(Format::Csv),
            "txt" | "text" | "md" => Some(Format::Text),
            _ => None,
        };
        let delimiter = if ending == "tsv" { b'\t' } else { b',' };
        Some(Self { format: format.or(by_ending)?, delimiter, compression })
    }

    /// Whether a file of a folder belongs to a source: by its extension, and of `format` where that is given.
    pub(crate) fn fits(path: &Path, format: Option<Format>) -> bool {
        Self::of(path, None).is_some_and(|reading| format.is_none_or(|format| format == reading.format))
    }
}

/// A file of a source.
#[derive(Debug, Clone)]
pub enum File {
    /// On this machine.
    Here(PathBuf),
    /// Somewhere else, in the version that it had when it was found.
    Remote(Object),
}

impl File {
    /// What its name says of it.
    fn name(&self) -> &Path {
        match self {
            Self::Here(path) => path,
            Self::Remote(object) => Path::new(object.path().as_ref()),
        }
    }

    /// Begins to read it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Here(path) => Box::new(fs::File::open(path)?),
            Self::Remote(object) => Box::new(RemoteRead::new(object)),
        })
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(path) => path.display().fmt(f),
            Self::Remote(object) => f.write_str(&object.url()),
        }
    }
}

/// The files of a source, in the order of their paths, and how to read them.
#[derive(Debug, Clone)]
pub struct Files {
    pub list: Vec<File>,
    pub reading: Reading,
}

/// The files at a path or an address (a file, a folder or a pattern). An address is asked for its server's list.
///
/// # Errors
/// No such file, no file in the folder or of the pattern, an unknown extension, files of several formats, or a server that does not answer.
pub fn find(given: &str, format: Option<Format>) -> Result<Files, FileProblem> {
    let list: Vec<File> = match Address::parse(given) {
        Some(address) => remote_files::find(&address?, format)?.into_iter().map(File::Remote).collect(),
        None => here(given, format)?.into_iter().map(File::Here).collect(),
    };
    let reading = common(given, &list, format)?;
    Ok(Files { list, reading })
}

fn problem(found: String, allowed: &str) -> FileProblem {
    FileProblem::new(found, allowed)
}

/// The files at a path of this machine.
fn here(given: &str, format: Option<Format>) -> Result<Vec<PathBuf>, FileProblem> {
    let path = Path::new(given);
    let failed = |e: &dyn fmt::Display| problem(format!("path `{given}`: {e}"), "wanted: readable files");
    let mut files = Vec::new();
    if path.is_file() {
        files.push(path.to_owned());
    } else if path.is_dir() {
        files = below(path).map_err(|e| failed(&e))?;
        files.retain(|file| Reading::fits(file, format));
    } else if given.contains(['*', '?', '[']) {
        let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
        for entry in glob::glob_with(given, options).map_err(|e| failed(&e))? {
            files.push(entry.map_err(|e| failed(&e))?);
        }
        files.retain(|file| file.is_file());
    } else {
        let allowed = "no such file or folder; paths are relative to the dataflow file";
        return Err(problem(format!("path `{given}`"), allowed));
    }
    files.sort();
    Ok(files)
}

/// How to read them all.
fn common(given: &str, files: &[File], format: Option<Format>) -> Result<Reading, FileProblem> {
    let mut first: Option<(&File, Reading)> = None;
    for file in files {
        let reading = Reading::of(file.name(), format)
            .ok_or_else(|| problem(format!("path `{file}`"), "give its `format`: parquet, jsonl, csv or text"))?;
        match first {
            Some((other, wanted)) if wanted != reading => {
                let found = format!("path `{given}`: both {other} and {file}");
                return Err(problem(found, "make a source for each format"));
            }
            _ => first = first.or(Some((file, reading))),
        }
    }
    let reading = first.map(|(_, reading)| reading);
    reading.ok_or_else(|| problem(format!("path `{given}`"), "no file of a known format is there"))
}

/// All files below a folder; hidden ones are left out.
fn below(folder: &Path) -> walkdir::Result<Vec<PathBuf>> {
    let visible = |entry: &DirEntry| entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.');
    let entries = WalkDir::new(folder).follow_links(true).into_iter().filter_entry(visible);
    let files = entries.filter(|entry| !entry.as_ref().is_ok_and(|entry| entry.file_type().is_dir()));
    files.map(|file| Ok(file?.into_path())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    fn found(path: &str, format: Option<Format>) -> Result<(Vec<PathBuf>, Reading), FileProblem> {
        let Files { list, reading } = find(path, format)?;
        Ok((list.iter().map(|file| file.name().to_owned()).collect(), reading))
    }

    #[test]
    fn a_folder_or_pattern_gives_its_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["c.jsonl", "a.jsonl", "b/z.jsonl", ".hidden.jsonl", "README"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let root = dir.path().to_str().unwrap();
        let names = |path: &str| {
            let (files, reading) = found(path, None).unwrap();
            assert_eq!(reading.format, Format::Jsonl);
            files.iter().map(|f| f.strip_prefix(root).unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(root), ["a.jsonl", "b/z.jsonl", "c.jsonl"]);
        assert_eq!(names(&format!("{root}/*.jsonl")), ["a.jsonl", "c.jsonl"]);
        assert_eq!(names(&format!("{root}/c.jsonl")), ["c.jsonl"]);
    }

    /// Every file of it would be in the corpus forty times: as often as the kernel follows the link.
    #[test]
    fn a_link_to_a_folder_around_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.jsonl"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("again")).unwrap();
        let root = dir.path().to_str().unwrap();
        let refused = found(root, None).unwrap_err().to_string();
        assert!(refused.contains("again") && refused.contains("loop"), "{refused}");
    }

    #[test]
    fn a_file_name_says_format_delimiter_and_compression() {
        let of = |name: &str| Reading::of(Path::new(name), None);
        let tsv = of("x.TSV.gz").unwrap();
        assert_eq!((tsv.format, tsv.delimiter, tsv.compression), (Format::Csv, b'\t', FileCompressionType::GZIP));
        assert_eq!(of("x.bin"), None);
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.jsonl", "b.csv", "c.bin"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let root = dir.path().to_str().unwrap();
        for (path, part) in [
            ("/nowhere/x.parquet".to_owned(), "no such file or folder"),
            (format!("{root}/*.parquet"), "no file of a known format"),
            (format!("{root}/c.bin"), "give its `format`"),
            (root.to_owned(), "make a source for each format"),
        ] {
            let text = found(&path, None).unwrap_err().to_string();
            assert!(text.contains(&path) && text.contains(part), "{part} not in {text}");
        }
        assert_eq!(found(root, Some(Format::Csv)).unwrap().0.len(), 1);
    }
}
