//! From a source's path to the list of its files and their formats.

use std::path::{Path, PathBuf};

use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use glob::MatchOptions;
use serde::{Deserialize, Serialize};
use walkdir::{DirEntry, WalkDir};

use crate::FileProblem;

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
}

/// The files at a path (a file, a folder or a pattern), in the order of their paths, and how to read them.
///
/// # Errors
/// No such file, no file in the folder or of the pattern, an unknown extension, or files of several formats.
pub fn find(given: &str, format: Option<Format>) -> Result<(Vec<PathBuf>, Reading), FileProblem> {
    let path = Path::new(given);
    let problem = |found: String, allowed: &str| FileProblem::new(found, allowed);
    let failed = |e: &dyn std::fmt::Display| problem(format!("path `{given}`: {e}"), "wanted: readable files");
    let mut files = Vec::new();
    if path.is_file() {
        files.push(path.to_owned());
    } else if path.is_dir() {
        files = below(path).map_err(|e| failed(&e))?;
        files.retain(|file| {
            let by_ending = Reading::of(file, None);
            by_ending.is_some_and(|reading| format.is_none_or(|format| format == reading.format))
        });
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
    let mut first: Option<(&PathBuf, Reading)> = None;
    for file in &files {
        let reading = Reading::of(file, format).ok_or_else(|| {
            problem(format!("path `{}`", file.display()), "give its `format`: parquet, jsonl, csv or text")
        })?;
        match first {
            Some((other, wanted)) if wanted != reading => {
                let found = format!("path `{given}`: both {} and {}", other.display(), file.display());
                return Err(problem(found, "make a source for each format"));
            }
            _ => first = first.or(Some((file, reading))),
        }
    }
    let reading = first.map(|(_, reading)| reading);
    match reading {
        Some(reading) => Ok((files, reading)),
        None => Err(problem(format!("path `{given}`"), "no file of a known format is there")),
    }
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
        find(path, format)
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
