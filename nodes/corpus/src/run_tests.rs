use std::collections::BTreeSet;
use std::path::Path;

use difflow_schema::run::RunDir;

use super::*;

fn fingerprint(config: &Config, split: &Split) -> String {
    let dir = tempfile::tempdir().unwrap();
    let known =
        corpus_files::check(&RunDir::new(dir.path(), "r"), &found(&source::list(&config.sources).unwrap())).unwrap();
    facts(config, "texts", &known, split).unwrap().corpus.unwrap()
}

/// What changes the documents changes the fingerprint; what does not, does not. A token store of another corpus served in silence
/// would be the worst of errors.
#[test]
fn the_fingerprint_changes_with_everything_that_changes_the_documents() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("part.jsonl");
    std::fs::write(&data, "{\"text\": \"one\"}").unwrap();
    let sources = format!(r#"[{{"path":"{}/*.jsonl"}}]"#, dir.path().display());
    let config = Config { sources, ..Config::default() };
    let of = |config: &Config| fingerprint(config, &Split::default());
    let base = of(&config);
    assert_eq!(base, of(&Config { documents_per_batch: 9, heldout: Some("x".into()), ..config.clone() }));
    let held = Split { keys: BTreeSet::from([crate::heldout::Key::of("one")]), ..Split::default() };
    let mut all = vec![
        base.clone(),
        of(&Config { sql: Some("SELECT".into()), ..config.clone() }),
        of(&Config { seed: 7, ..config.clone() }),
        of(&Config { text_column: "story".into(), ..config.clone() }),
        of(&Config { transforms: r#"["builtin:documents"]"#.into(), ..config.clone() }),
        of(&Config { messages_column: Some("text".into()), ..config.clone() }),
        of(&Config { prompt_column: Some("text".into()), ..config.clone() }),
        of(&Config { prompt_column: Some("text".into()), response_column: "text".into(), ..config.clone() }),
        fingerprint(&config, &held),
    ];
    std::fs::write(&data, "{\"text\": \"One\"}").unwrap();
    all.push(of(&config));
    std::fs::write(dir.path().join("second.jsonl"), "{\"text\": \"two\"}").unwrap();
    all.push(of(&config));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

/// nodes/cli/tests/plugins/bad.c as a transform.
fn transform(path: &Path, more: &[&str]) {
    // A new file, as a compiler should make it: the old one is mapped.
    std::fs::remove_file(path).ok();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-std=gnu11", "-DKIND=TRANSFORM", "-DRELEASES=1"])
        .args(more)
        .arg("-I")
        .args([&root.join("plugins/include"), Path::new("-o"), path, &root.join("nodes/cli/tests/plugins/bad.c")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A transform that was compiled again must not be served the tokens of the old one.
#[test]
fn the_fingerprint_changes_with_the_content_of_a_transform() {
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("transform.so");
    let transforms = format!("[{:?}]", library.display().to_string());
    let of = || facts(&Config { transforms: transforms.clone(), ..Config::default() }, "texts", &[], &Split::default());
    transform(&library, &[]);
    let first = of().unwrap();
    assert_eq!(first, of().unwrap());
    assert!(first.plugins["texts.TRANSFORMS.0"]["sha256"].is_string(), "{first:?}");
    transform(&library, &["-DID=\"org.example.other\""]);
    let renamed = of().unwrap();
    transform(&library, &["-DCHANGES_SCHEMA"]);
    let changed = of().unwrap();
    transform(&library, &[]);
    assert_eq!(first, of().unwrap(), "the same content again");
    assert!(first != renamed && first != changed && renamed != changed);
}
