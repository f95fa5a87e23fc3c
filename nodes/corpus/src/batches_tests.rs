//! The whole corpus over temporary files of every format: what it returns, in which order, and which errors it
//! reports.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::parquet::arrow::ArrowWriter;

use super::*;

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn parquet(path: &Path, texts: &[Option<&str>]) {
    let numbers = Int64Array::from_iter_values(0..texts.len() as i64);
    let columns: Vec<(&str, Arc<dyn datafusion::arrow::array::Array>)> =
        vec![("number", Arc::new(numbers)), ("text", Arc::new(StringArray::from(texts.to_vec())))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn config(sources: &str) -> Config {
    Config { sources: sources.to_owned(), documents_per_batch: 2, ..Config::default() }
}

/// A source of one path inside `dir`.
fn of(dir: &tempfile::TempDir, path: &str) -> String {
    format!(r#"[{{"path":"{}/{path}"}}]"#, dir.path().display())
}

async fn all(config: &Config) -> Result<Vec<String>, Problems> {
    let mut batches = Batches::open(config, Corpus::open(config).await?, BTreeSet::new()).await?;
    let mut texts = Vec::new();
    for seq in 0.. {
        match batches.get(seq).await? {
            Answer::Ended(end) => {
                assert_eq!(end, seq);
                break;
            }
            Answer::Batch(batch) => {
                let first = seq * config.documents_per_batch;
                assert_eq!(batch.doc, (first..first + batch.text.len() as u64).collect::<Vec<_>>());
                texts.extend(batch.text);
            }
        }
    }
    Ok(texts)
}

#[test]
fn every_format_gives_its_texts_in_the_order_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    parquet(&dir.path().join("a.parquet"), &[Some("one"), None, Some(""), Some("two\nlines"), Some("ÿ")]);
    write(
        "a.jsonl",
        "{\"text\":\"one\"}\n{\"id\":3}\n{\"text\":\"\"}\n{\"text\":\"two\\nlines\",\"id\":2}\n{\"text\":\"ÿ\"}\n",
    );
    write("a.csv", "id,text\n1,one\n2,\n3,\"two\nlines\"\n4,ÿ\n");
    write("a.tsv", "id\ttext\n1\tone\n3\t\"two\nlines\"\n4\tÿ\n");
    write("a.txt", "one<|end|>\ntwo\nlines\n<|end|>\n<|end|>ÿ");
    for name in ["a.parquet", "a.jsonl", "a.csv", "a.tsv", "a.txt"] {
        let config = Config { text_separator: Some("<|end|>".into()), ..config(&of(&dir, name)) };
        assert_eq!(wait(all(&config)).unwrap(), ["one", "two\nlines", "ÿ"], "{name}");
    }
    write("b.txt", "second file\n");
    let texts = wait(all(&config(&of(&dir, "*.txt")))).unwrap();
    assert_eq!(texts, ["one<|end|>\ntwo\nlines\n<|end|>\n<|end|>ÿ", "second file\n"]);
}

#[test]
fn files_of_a_folder_follow_each_other_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("p[1].parquet", "b"), ("p 0.parquet", "a"), ("q.parquet", "c")] {
        parquet(&dir.path().join(name), &[Some(text), Some(text)]);
    }
    assert_eq!(wait(all(&config(&of(&dir, "")))).unwrap(), ["a", "a", "b", "b", "c", "c"]);
}

#[test]
fn sql_filters_orders_and_joins() {
    let dir = tempfile::tempdir().unwrap();
    parquet(&dir.path().join("a.parquet"), &[Some("x"), Some("yy"), Some("zzz")]);
    let query = |sql: &str| Config { sql: Some(sql.into()), ..config(&of(&dir, "a.parquet")) };
    let run = |sql: &str| wait(all(&query(sql))).unwrap();
    assert_eq!(run("SELECT text FROM source WHERE length(text) > 1 ORDER BY number DESC"), ["zzz", "yy"]);
    assert_eq!(run("SELECT upper(text) AS text FROM source1 LIMIT 1"), ["X"]);
    let two = format!(
        r#"[{{"name":"a","path":"{0}/a.parquet"}},{{"name":"b","path":"{0}/a.parquet"}}]"#,
        dir.path().display()
    );
    let joined = "SELECT a.text || b.text AS text FROM a JOIN b ON a.number = b.number + 1 ORDER BY a.number";
    assert_eq!(wait(all(&Config { sql: Some(joined.into()), ..config(&two) })).unwrap(), ["yyx", "zzzyy"]);
}

/// Two sources 3 : 1. The order inside a source stays, the mixture is near the weights until the first one ends, and the rest of
/// the other follows; another seed mixes differently, the same seed alike.
#[test]
fn sources_are_mixed_by_weight_until_each_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let lines = |name: &str, count: usize| {
        let lines: String = (0..count).map(|i| format!("{{\"text\":\"{name}{i}\"}}\n")).collect();
        fs::write(dir.path().join(format!("{name}.jsonl")), lines).unwrap();
    };
    lines("a", 300);
    lines("b", 400);
    let sources =
        format!(r#"[{{"path":"{0}/a.jsonl","weight":3}},{{"path":"{0}/b.jsonl","weight":1}}]"#, dir.path().display());
    let with_seed = |seed| wait(all(&Config { seed, ..config(&sources) })).unwrap();
    let texts = with_seed(1);
    assert_eq!(texts.len(), 700);
    for name in ["a", "b"] {
        let own: Vec<&String> = texts.iter().filter(|text| text.starts_with(name)).collect();
        assert!(own.iter().enumerate().all(|(i, text)| **text == format!("{name}{i}")));
    }
    // Of the first 200 about 150 are of `a`; five standard deviations.
    let first = texts[..200].iter().filter(|text| text.starts_with('a')).count();
    assert!((119..=181).contains(&first), "{first}");
    assert_eq!(texts, with_seed(1));
    assert_ne!(texts, with_seed(2));
}

/// A message may be lost and asked for again, soon or late.
#[test]
fn an_earlier_batch_is_the_same_again() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..101).map(|i| format!("{{\"text\":\"t{i}\"}}\n")).collect();
    fs::write(dir.path().join("a.jsonl"), lines).unwrap();
    wait(async {
        let config = config(&of(&dir, "a.jsonl"));
        let corpus = Corpus::open(&config).await.unwrap();
        let mut batches = Batches::open(&config, corpus, BTreeSet::new()).await.unwrap();
        let last = Documents { doc: vec![100], text: vec!["t100".into()], messages: Vec::new() };
        assert_eq!(batches.get(50).await.unwrap(), Answer::Batch(last));
        assert_eq!(batches.get(51).await.unwrap(), Answer::Ended(51));
        assert_eq!(batches.get(9000).await.unwrap(), Answer::Ended(51));
        for seq in [49, 35, 34, 3, 0, 17, 50] {
            let doc = if seq == 50 { vec![100] } else { vec![seq * 2, seq * 2 + 1] };
            let text = doc.iter().map(|i| format!("t{i}")).collect();
            assert_eq!(
                batches.get(seq).await.unwrap(),
                Answer::Batch(Documents { doc, text, messages: Vec::new() }),
                "{seq}"
            );
        }
        assert_eq!(batches.get(51).await.unwrap(), Answer::Ended(51));
    });
}

#[test]
fn what_is_wrong_names_the_key_and_what_was_found() {
    let dir = tempfile::tempdir().unwrap();
    parquet(&dir.path().join("a.parquet"), &[Some("x"), None]);
    parquet(&dir.path().join("none.parquet"), &[None, Some("")]);
    fs::write(dir.path().join("broken.parquet"), "not parquet").unwrap();
    fs::write(dir.path().join("broken.jsonl"), "{\"text\":\"a\"}\n{\"text\":\n").unwrap();
    fs::write(dir.path().join("latin1.txt"), b"caf\xe9").unwrap();
    let sql = |sql: &str| Config { sql: Some(sql.into()), ..config(&of(&dir, "a.parquet")) };
    let column = |name: &str| Config { text_column: name.into(), ..config(&of(&dir, "a.parquet")) };
    let weighted =
        format!(r#"[{{"path":"{0}/a.parquet","weight":2}},{{"path":"{0}/a.parquet"}}]"#, dir.path().display());
    for (config, key, part) in [
        (config(&of(&dir, "missing.parquet")), "SOURCES", "no such file"),
        (config(&of(&dir, "none.parquet")), "SOURCES", "gives no documents"),
        (config(&of(&dir, "broken.parquet")), "SOURCES", "broken.parquet"),
        (config(&of(&dir, "broken.jsonl")), "SOURCES", "broken.jsonl"),
        (config(&of(&dir, "latin1.txt")), "SOURCES", "not UTF-8"),
        (column("body"), "TEXT_COLUMN", "its columns: number, text"),
        (column("number"), "TEXT_COLUMN", "Int64"),
        (sql("SELECT number FROM source"), "TEXT_COLUMN", "its columns: number"),
        (sql("SELEC text FROM source"), "SQL", "Expected"),
        (sql("SELECT text FROM sorce"), "SQL", "sorce"),
        (sql("SELECT txt AS text FROM source"), "SQL", "txt"),
        (sql("SELECT text FROM source WHERE number > 5"), "SQL", "gives no documents"),
        (sql("COPY source TO 'x.csv'"), "SQL", "DML"),
        (Config { sql: Some("SELECT text FROM source1".into()), ..config(&weighted) }, "SQL", "leave out the weights"),
    ] {
        let text = wait(all(&config)).unwrap_err().to_string();
        assert!(text.starts_with(&format!("{key}: ")) && text.contains(part), "{key}, {part} not in: {text}");
    }
}

/// A corpus is somebody else's file: whatever stands in it, it is read or refused with its path. 600 mutations of each format.
#[test]
fn no_file_makes_the_corpus_panic() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..40).map(|n| format!("text number {n} é")).collect();
    let some: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).chain([None]).collect();
    parquet(&dir.path().join("good.parquet"), &some);
    let parquet = fs::read(dir.path().join("good.parquet")).unwrap();
    let jsonl = texts
        .iter()
        .map(|text| format!("{{\"text\": \"{text}\", \"n\": {{\"a\": [1]}}}}\n"))
        .collect::<String>()
        .into_bytes();
    let csv = texts.iter().fold("text,n\n".to_owned(), |csv, text| csv + &format!("\"{text}\",1\n")).into_bytes();
    let mut state = 11u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for (name, good) in [("a.parquet", parquet), ("a.jsonl", jsonl), ("a.csv", csv)] {
        let (path, mut read) = (dir.path().join(name), 0);
        for _ in 0..600 {
            let mut bytes = good.clone();
            for _ in 0..1 + below(3) {
                // The end of a Parquet file says where everything is.
                let at = if below(2) == 0 { below(bytes.len()) } else { bytes.len() - 1 - below(bytes.len().min(300)) };
                match below(4) {
                    0 => bytes[at] = below(256) as u8,
                    1 => bytes[at] = [0, 0x7f, 0x80, 0xff][below(4)],
                    2 => drop(bytes.drain(at..(at + 1 + below(9)).min(bytes.len()))),
                    _ => drop(bytes.splice(at..at, vec![below(256) as u8; 1 + below(5)])),
                }
            }
            fs::write(&path, &bytes).unwrap();
            match wait(all(&config(&of(&dir, name)))) {
                Ok(_) => read += 1,
                Err(problems) => assert!(problems.to_string().contains(name), "{problems}"),
            }
        }
        assert!((1..600).contains(&read), "{read} of 600 mutations of {name} were read");
    }
}
