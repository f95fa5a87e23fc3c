use std::path::Path;

use datafusion::arrow::array::AsArray;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use difflow_node_kit::RunKeys;

use difflow_schema::PlainDocuments;

use super::*;
use crate::batches::{Answer, Batches};

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

/// `count` different texts as JSONL, and the configuration that reads them.
fn corpus(dir: &Path, count: usize) -> Config {
    for (part, name) in ["a.jsonl", "b.jsonl"].into_iter().enumerate() {
        let lines = (0..count).filter(|n| n % 2 == part).map(|n| format!("{{\"text\": \"story {n}\"}}\n"));
        fs::write(dir.join(name), lines.collect::<String>()).unwrap();
    }
    let source = |name: &str| json!({"path": dir.join(name), "weight": 1});
    // A file of no line has no columns.
    let names = &["a.jsonl", "b.jsonl"][..count.min(2)];
    let sources = json!(names.iter().map(|name| source(name)).collect::<Vec<_>>()).to_string();
    let run = RunKeys { name: "r".into(), runs: dir.display().to_string() };
    Config { run, sources, ..Config::default() }
}

fn run(config: &Config) -> RunDir {
    config.run.dir()
}

fn chosen(config: &Config) -> Split {
    wait(async { split(config, &run(config), &Corpus::open(config).await.unwrap()).await.unwrap() })
}

/// Publishes the split of a configuration.
fn publish_with(config: &Config) -> Result<()> {
    let mut transforms = Transforms::open::<PlainDocuments>(&config.transforms).unwrap();
    let split = chosen(config);
    wait(publish(config, &run(config), &split, &mut transforms))
}

/// The texts of the run's file.
fn published(config: &Config) -> Vec<String> {
    let file = File::open(run(config).heldout()).unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let texts = batches.flat_map(|batch| {
        let batch = batch.unwrap();
        let column = batch.column_by_name("text").unwrap().as_string::<i32>().clone();
        column.iter().map(|text| text.unwrap().to_owned()).collect::<Vec<_>>()
    });
    texts.collect()
}

fn trained_on(config: &Config) -> Vec<String> {
    let keys = chosen(config).keys;
    wait(async {
        let corpus = Corpus::open(config).await.unwrap();
        let mut batches = Batches::open(config, corpus, keys).await.unwrap();
        let mut texts = Vec::new();
        for seq in 0.. {
            match batches.get(seq).await.unwrap() {
                Answer::Batch(batch) => {
                    assert_eq!(batch.doc[0], seq * config.documents_per_batch, "documents are numbered without gaps");
                    texts.extend(batch.text);
                }
                Answer::Ended(_) => break,
            }
        }
        texts
    })
}

/// A model that is scored on what it was trained on looks better than it is.
#[test]
fn held_out_and_trained_documents_are_the_corpus_and_share_none() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { heldout_documents: 12, ..corpus(dir.path(), 1000) };
    publish_with(&config).unwrap();
    let (held, trained) = (published(&config), trained_on(&config));
    assert_eq!((held.len(), trained.len()), (12, 988));
    let both: BTreeSet<&String> = held.iter().chain(&trained).collect();
    assert_eq!(both.len(), 1000);
}

/// Two runs that differ in their seeds are compared by their scores on the same documents.
#[test]
fn the_split_does_not_depend_on_the_seed() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { heldout_documents: 12, ..corpus(dir.path(), 1000) };
    let seeds = [0, 1, 2].map(|seed| chosen(&Config { seed, ..config.clone() }));
    assert!(seeds[0] == seeds[1] && seeds[1] == seeds[2]);
    assert_ne!(trained_on(&Config { seed: 1, ..config.clone() }), trained_on(&Config { seed: 2, ..config }));
}

#[test]
fn a_small_corpus_gives_a_small_share_and_a_single_document_none() {
    let dir = tempfile::tempdir().unwrap();
    let share = chosen(&corpus(dir.path(), 1000)).documents.len();
    // Five standard deviations of a binomial with p = 1/20.
    assert!((15..=85).contains(&share), "{share}");
    for count in 2..8 {
        let held = chosen(&corpus(dir.path(), count)).documents.len();
        assert!((1..count).contains(&held), "{held} of {count}");
    }
    let config = corpus(dir.path(), 1);
    assert_eq!(chosen(&config), Split::default());
    publish_with(&config).unwrap();
    assert!(published(&config).is_empty());
    let none = Config { heldout_documents: 0, ..corpus(dir.path(), 100) };
    assert_eq!(chosen(&none), Split::default());
}

/// A copy of a held-out document in the training set would be as good as the document itself.
#[test]
fn a_document_that_stands_twice_is_held_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let config = corpus(dir.path(), 200);
    let line = fs::read_to_string(dir.path().join("a.jsonl")).unwrap();
    fs::write(dir.path().join("a.jsonl"), line.repeat(2)).unwrap();
    let split = chosen(&config);
    assert!(!split.documents.is_empty());
    assert!(trained_on(&config).iter().all(|text| split.documents.iter().all(|held| held.text != *text)));
}

#[test]
fn documents_of_ones_own_are_copied_with_their_column_and_nothing_is_split_off() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own.csv");
    fs::write(&own, "number,text\n1,first\n2,\n3,third\n").unwrap();
    let config = Config { heldout: Some(own.display().to_string()), ..corpus(dir.path(), 100) };
    publish_with(&config).unwrap();
    assert_eq!(published(&config), ["first", "third"]);
    assert_eq!(trained_on(&config).len(), 100);
    let missing = Config { heldout: Some("nowhere.parquet".into()), ..config };
    let text = format!("{:#}", publish_with(&missing).unwrap_err());
    assert!(text.starts_with("HELDOUT: found") && text.contains("nowhere.parquet"), "{text}");
}

/// It would lose documents in the middle of its training, and be scored on what it has learned.
#[test]
fn a_run_that_was_trained_without_a_split_goes_on_without() {
    let dir = tempfile::tempdir().unwrap();
    let config = corpus(dir.path(), 400);
    fs::create_dir_all(run(&config).checkpoint(5)).unwrap();
    assert_eq!(chosen(&config), Split::default());
    publish_with(&config).unwrap();
    assert!(!run(&config).heldout().exists());
    // One that began with a split keeps it.
    fs::remove_dir_all(run(&config).checkpoint(5)).unwrap();
    publish_with(&config).unwrap();
    let before = published(&config);
    fs::create_dir_all(run(&config).checkpoint(5)).unwrap();
    publish_with(&config).unwrap();
    assert_eq!(published(&config), before);
    assert!(!before.is_empty());
}

#[test]
fn the_transforms_of_the_corpus_hold_for_what_is_held_out() {
    let dir = tempfile::tempdir().unwrap();
    let transforms = r#"[{"use": "builtin:documents", "config": {"min_characters": 9, "chosen": 2, "others": 0}}]"#;
    let config = Config { transforms: transforms.into(), ..corpus(dir.path(), 1000) };
    publish_with(&config).unwrap();
    let held = published(&config);
    assert!(held.iter().all(|text| text.len() >= 9) && held.len() < chosen(&config).documents.len(), "{held:?}");
    // One that is trained on twice is scored once.
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
}

/// Conversations that are split off keep their messages, and transforms may leave some out but change none.
#[test]
fn conversations_are_held_out_with_their_messages_and_transforms_only_choose() {
    let dir = tempfile::tempdir().unwrap();
    let lines = (0..400).map(|n| format!("{{\"prompt\": \"question {n}\", \"response\": \"answer {n}\"}}\n"));
    fs::write(dir.path().join("a.jsonl"), lines.collect::<String>()).unwrap();
    let run = RunKeys { name: "r".into(), runs: dir.path().display().to_string() };
    let sources = json!([{"path": dir.path().join("a.jsonl")}]).to_string();
    let prompt_column = Some("prompt".to_owned());
    let config = Config { run, sources, prompt_column, heldout_documents: 5, ..Config::default() };
    publish_with(&config).unwrap();
    let split = chosen(&config);
    let texts: Vec<String> = split.documents.iter().map(|document| document.text.clone()).collect();
    assert_eq!((published(&config), split.documents.len()), (texts.clone(), 5));
    assert!(trained_on(&config).iter().all(|text| !texts.contains(text)));
    let file = File::open(config.run.dir().heldout()).unwrap();
    let batch = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap();
    let messages = batch.column_by_name("messages").unwrap().as_string::<i32>().value(0).to_owned();
    assert_eq!(Some(messages), split.documents[0].messages);

    let batch = Documents {
        doc: vec![3, 4, 5],
        text: ["a", "bb", "c"].map(str::to_owned).to_vec(),
        messages: ["[3]", "[4]", "[5]"].map(str::to_owned).to_vec(),
    };
    let options = r#"[{"use": "builtin:documents", "config": {"min_characters": 2, "chosen": 2, "others": 0}}]"#;
    let mut transforms = Transforms::open::<PlainDocuments>(options).unwrap();
    let left = transformed(&mut transforms, 0, 1, batch).unwrap();
    assert_eq!((left.doc, left.messages), (vec![4, 4], vec!["[4]".to_owned(), "[4]".to_owned()]));
}
