//! Corpora in object stores: the same run as from this machine's files, whatever the server does meanwhile, or none.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use difflow_tests::{
    BadProxy, Dataflow, Fault, ObjectServer, Outcome, Random, SECRET, object_store_env, python, real_data,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::{json, weights};

/// Far above what any of these runs takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);
const WHAT: &str = "corpora in object stores";

/// A text of words that the tokenizer of [`Dataflow::tiny`] knows.
fn text(number: usize) -> String {
    (0..6 + number % 9).map(|at| format!("w{}", 3 + (number * 31 + at * 7) % 60)).collect::<Vec<_>>().join(" ")
}

fn lines(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers
        .map(|number| json!({"text": text(number), "number": number}).to_string() + "\n")
        .collect::<String>()
        .into_bytes()
}

/// Several row groups, and a column that nobody asks for.
fn parquet(path: &Path, rows: usize, group: usize, filling: usize) {
    let numbers = Int64Array::from_iter_values(0..rows as i64);
    let texts = StringArray::from_iter_values((0..rows).map(text));
    // Nothing that packs: it stands for the other columns of a large file.
    let mut random = Random::new(7);
    let mut letters = || (0..filling).map(|_| char::from(b'a' + random.below(26) as u8)).collect::<String>();
    let other = StringArray::from_iter_values((0..rows).map(|_| letters()));
    let columns = [("number", Arc::new(numbers) as ArrayRef), ("text", Arc::new(texts)), ("other", Arc::new(other))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn packed(path: &Path) {
    assert!(Command::new("gzip").arg(path).status().unwrap().success());
}

/// Every format, packed ones, a folder and a pattern, as (key, content); they are in `folder`, too.
fn corpus(folder: &Path) -> Vec<String> {
    fs::create_dir_all(folder.join("many/deep")).unwrap();
    fs::create_dir_all(folder.join("some files")).unwrap();
    parquet(&folder.join("a.parquet"), 120, 25, 10);
    let write = |name: &str, content: &[u8]| fs::write(folder.join(name), content).unwrap();
    write("b.jsonl", &lines(200..300));
    write("c.jsonl", &lines(300..360));
    packed(&folder.join("c.jsonl"));
    let rows = |numbers: std::ops::Range<usize>| numbers.map(|n| format!("{n},\"{}\"\n", text(n))).collect::<String>();
    write("d.csv", format!("number,text\n{}", rows(400..450)).as_bytes());
    write("e.csv", format!("number,text\n{}", rows(450..500)).as_bytes());
    packed(&folder.join("e.csv"));
    let pieces = |numbers: std::ops::Range<usize>| numbers.map(text).collect::<Vec<_>>().join("\n<|end|>\n");
    write("f.txt", pieces(500..550).as_bytes());
    write("g.txt", pieces(550..600).as_bytes());
    packed(&folder.join("g.txt"));
    write("many/x.jsonl", &lines(600..620));
    write("many/deep/z.jsonl", &lines(620..640));
    write("many/.hidden.jsonl", &lines(900..910));
    write("many/README", b"no documents");
    write("some files/50% [1].jsonl", &lines(640..660));
    write("heldout.jsonl", &lines(700..704));
    let mut keys = Vec::new();
    for entry in walk(folder) {
        keys.push(entry.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
    }
    keys
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// The sources, each below the folder or bucket that `base` says for it.
fn sources(base: impl Fn(&str) -> String) -> String {
    let names = [
        "a.parquet",
        "b.jsonl",
        "c.jsonl.gz",
        "d.csv",
        "e.csv.gz",
        "f.txt",
        "g.txt.gz",
        "many",
        "many/*.jsonl",
        "some files",
    ];
    let all: Vec<_> = names.iter().map(|name| json!({"path": format!("{}/{name}", base(name))})).collect();
    json!(all).to_string()
}

/// A file of credentials for Google's service, with a key of its own.
fn service_account(path: &Path) {
    let make = "import json, sys; from cryptography.hazmat.primitives import serialization as s; \
                from cryptography.hazmat.primitives.asymmetric import rsa; \
                key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(\
                s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode(); \
                json.dump(dict(type='service_account', private_key=key, private_key_id='1', client_email='t@example.org'), \
                open(sys.argv[1], 'w'))";
    let mut command = Command::new(python(WHAT).unwrap());
    assert!(command.arg("-c").arg(make).arg(path).status().unwrap().success());
}

fn run(dataflow: &Dataflow, port: u16, more: &[(&str, &str)]) -> Outcome {
    let mut command = dataflow.command();
    object_store_env(&mut command, port);
    command.envs(more.iter().copied());
    Outcome::of(command, LIMIT)
}

/// A run of a few steps whose corpus is the file of a key in the bucket.
fn of_key(steps: u64, key: &str) -> Dataflow {
    let dataflow =
        Dataflow::tiny(steps).set("corpus", "SOURCES", json!([{"path": format!("s3://corpus/{key}")}]).to_string());
    dataflow.set("corpus", "HELDOUT", "").set("corpus", "HELDOUT_DOCUMENTS", 0)
}

/// The token store of a run: rows, and what belongs to them.
fn tokens(run: &Path) -> Vec<(String, Vec<u8>)> {
    let files = walk(&run.join("tokens")).into_iter();
    // Its record has the key, in which the sources are.
    let mut files: Vec<_> = files
        .filter(|path| path.extension().is_none_or(|ending| ending != "json") && !path.ends_with("lock"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(files.iter().any(|(_, bytes)| bytes.len() > 1000), "no tokens in {}", run.display());
    files
}

/// The store is asked through a proxy that stalls, breaks off, shortens and refuses answers on the way; a second run with the same name is
/// refused once an object is another.
#[test]
fn every_format_gives_the_run_that_files_of_this_machine_give() {
    let Some(server) = ObjectServer::start(WHAT) else { return };
    let proxy = BadProxy::start(server.port());
    let here = Dataflow::tiny(6).set("corpus", "TEXT_SEPARATOR", "<|end|>").set("tokenizer", "EPOCHS", 3);
    let folder = here.folder().join("data");
    for key in corpus(&folder) {
        let content = fs::read(folder.join(&key)).unwrap();
        let place = key.replace('%', "%25").replace(' ', "%20").replace('[', "%5B").replace(']', "%5D");
        server.put_public(&place, &content);
    }
    let local = folder.display().to_string();
    let here = here.set("corpus", "SOURCES", sources(|_| local.clone()));
    let here = here.set("corpus", "HELDOUT", format!("{local}/heldout.jsonl"));
    here.run().well();

    let there = Dataflow::tiny(6).set("corpus", "TEXT_SEPARATOR", "<|end|>").set("tokenizer", "EPOCHS", 3);
    let web = format!("http://127.0.0.1:{}/corpus", proxy.port());
    let there = there.set(
        "corpus",
        "SOURCES",
        sources(|name| match name {
            "d.csv" => web.clone(),
            "f.txt" => "gs://corpus".to_owned(),
            _ => "s3://corpus".to_owned(),
        }),
    );
    let there = there.set("corpus", "HELDOUT", "s3://corpus/heldout.jsonl");
    for (part, fault) in [
        ("a.parquet", Fault::Busy),
        ("a.parquet", Fault::Short),
        ("a.parquet", Fault::Stall),
        ("b.jsonl", Fault::Cut),
        ("c.jsonl", Fault::Busy),
        ("d.csv", Fault::Cut),
        ("f%2Etxt", Fault::Short),
    ] {
        proxy.fault(part, fault);
    }
    let (google, account) = (format!("http://127.0.0.1:{}", proxy.port()), here.folder().join("account.json"));
    service_account(&account);
    let more = [("GOOGLE_BASE_URL", google.as_str()), ("GOOGLE_APPLICATION_CREDENTIALS", account.to_str().unwrap())];
    let told = run(&there, proxy.port(), &more).well().text;
    assert_eq!(proxy.faults_left(), 0, "the server was too good: {:?}", proxy.seen(""));
    for (part, signed) in [("a.parquet", "AWS4-HMAC-SHA256"), ("d.csv", ""), ("f%2Etxt", "Bearer")] {
        assert!(proxy.seen(part).iter().all(|seen| seen.signed == signed), "{:?}", proxy.seen(part));
    }
    assert!(tokens(&here.run_folder()) == tokens(&there.run_folder()), "the tokens differ");
    assert!(weights(&here.run_folder(), 6) == weights(&there.run_folder(), 6), "the weights differ");

    for path in walk(there.folder()) {
        let bytes = fs::read(&path).unwrap_or_default();
        assert!(
            !bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()),
            "a secret is in {}",
            path.display()
        );
    }
    assert!(!told.contains(SECRET), "{told}");
    let known = json(&there.run_folder().join("corpus.json"));
    let etags =
        known.as_array().unwrap().iter().filter(|file| file["etag"].as_str().is_some_and(|etag| !etag.is_empty()));
    assert_eq!(etags.count(), 11, "{known}");

    // As a file of this machine: put again it is the same, changed it is refused.
    server.put_public("b.jsonl", &fs::read(folder.join("b.jsonl")).unwrap());
    run(&there, proxy.port(), &more).well();
    let mut turned: Vec<_> = lines(200..300).split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    turned.reverse();
    server.put_public("b.jsonl", &turned.concat());
    run(&there, proxy.port(), &more).refused(78, &["s3://corpus/b.jsonl`; its content changed", "choose another RUN"]);
    server.delete("b.jsonl");
    run(&there, proxy.port(), &more).refused(78, &["s3://corpus/b.jsonl", "there is no such object"]);
}

/// TinyStories, in its own format.
#[test]
fn tinystories_from_a_bucket_are_tinystories() {
    let Some(data) = real_data("TinyStories from an object store") else { return };
    let Some(server) = ObjectServer::start(WHAT) else { return };
    server.put("stories/train.parquet", &fs::read(data.join("text/tinystories-train.parquet")).unwrap());
    let dataflow = || {
        let numbers =
            [("STEPS", 4), ("WARMUP_STEPS", 2), ("ANNEAL_STEPS", 2), ("CHECKPOINT_EVERY", 4), ("MICRO_BATCH", 2)];
        let open = Dataflow::open("data/experiments/tinystories.yml");
        let few = numbers.into_iter().fold(open, |dataflow, (key, value)| dataflow.set("", key, value));
        let few = few.set("evaluator", "EVAL_DOCUMENTS", 1).set("evaluator", "EVAL_DRAWS", 1);
        few.set("sampler", "SAMPLES", 0).set("sampler", "SAMPLES_FINAL", 0).set("tokenizer", "SHUFFLE_WINDOW", 256)
    };
    let here = dataflow();
    here.run().well();
    let there = dataflow().set("", "SOURCES", json!([{"path": "s3://corpus/stories/"}]).to_string());
    run(&there, server.port(), &[]).well();
    assert!(tokens(&here.run_folder()) == tokens(&there.run_folder()), "the tokens differ");
    assert!(weights(&here.run_folder(), 4) == weights(&there.run_folder(), 4), "the weights differ");
}

/// The rows of a query are fetched, not the file; and only so many of a long file as are trained on.
#[test]
fn what_nobody_asks_for_is_not_fetched() {
    let Some(server) = ObjectServer::start(WHAT) else { return };
    let proxy = BadProxy::start(server.port());
    let dataflow = of_key(4, "wide.parquet").set(
        "corpus",
        "SQL",
        "SELECT text FROM source WHERE number >= 3600 AND length(other) > 9",
    );
    let path = dataflow.folder().join("wide.parquet");
    parquet(&path, 4000, 400, 4000);
    let content = fs::read(&path).unwrap();
    server.put("wide.parquet", &content);
    run(&dataflow, proxy.port(), &[]).well();
    let fetched: usize = proxy.seen("wide.parquet").iter().map(|seen| seen.bytes).sum();
    assert!(content.len() > 12 << 20 && fetched < content.len() / 4, "{fetched} of {} bytes", content.len());

    let long = lines(0..400_000);
    server.put("long.jsonl", &long);
    let dataflow = of_key(4, "long.jsonl").set("corpus", "DOCUMENTS_PER_BATCH", 64);
    run(&dataflow, proxy.port(), &[]).well();
    let requests = proxy.seen("long.jsonl");
    assert!(requests.iter().filter(|seen| seen.what.starts_with("GET")).all(|seen| seen.range), "{requests:?}");
    let fetched: usize = requests.iter().map(|seen| seen.bytes).sum();
    assert!(long.len() > 20 << 20 && fetched < long.len() / 4, "{fetched} of {} bytes: {requests:?}", long.len());
}

/// Nothing of the new version is trained on.
#[test]
fn an_object_that_changes_while_it_is_read_ends_the_run() {
    let Some(server) = ObjectServer::start(WHAT) else { return };
    let (server, content) = (Arc::new(server), lines(0..400));
    for name in ["a.jsonl", "b.jsonl"] {
        server.put(name, &content);
    }
    let proxy = BadProxy::start(server.port());
    let dataflow = of_key(200, "*.jsonl");
    let other = server.clone();
    proxy.fault("b.jsonl", Fault::After(Box::new(move || other.put("b.jsonl", &lines(1..401)))));
    let told = run(&dataflow, proxy.port(), &[]);
    told.refused(78, &["s3://corpus/b.jsonl", "it was changed while it was read", "choose another RUN"]);
    assert_eq!(proxy.faults_left(), 0);
}

/// A server that never answers well is asked so often and no more; then the run ends, and not as if its configuration were wrong.
#[test]
fn a_server_that_stays_busy_ends_the_run() {
    let Some(server) = ObjectServer::start(WHAT) else { return };
    server.put("a.jsonl", &lines(0..400));
    let proxy = BadProxy::start(server.port());
    proxy.always_busy(true);
    let dataflow = of_key(4, "a.jsonl");
    let told = run(&dataflow, proxy.port(), &[]);
    told.refused(
        1,
        &["s3://corpus/a.jsonl", "503 Service Unavailable (SlowDown: Please reduce your request rate.), tried 3 times"],
    );
    let asked = proxy.seen("a.jsonl").iter().filter(|seen| seen.range).count();
    assert!((3..=6).contains(&asked), "{asked} requests");
    // The same command, later.
    proxy.always_busy(false);
    run(&dataflow, proxy.port(), &[]).well();
}

#[test]
fn what_cannot_be_read_is_refused_with_what_to_do() {
    let Some(server) = ObjectServer::start(WHAT) else { return };
    server.put("a.jsonl", &lines(0..400));
    let no_role = ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
    let none = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_SESSION_TOKEN", ""), no_role];
    let unsigned = [("AWS_SKIP_SIGNATURE", "true")];
    let plain = [("AWS_ALLOW_HTTP", "")];
    for (path, more, parts) in [
        ("s3://corpus/none.jsonl", &[][..], &["s3://corpus/none.jsonl", "no such object"][..]),
        ("s3://nowhere/a.jsonl", &[], &["s3://nowhere/a.jsonl", "NoSuchBucket"]),
        ("s3://corpus/*.parquet", &[], &["s3://corpus/*.parquet", "no file of a known format"]),
        ("s3://corpus/a.jsonl", &none, &["s3://corpus", "no credentials", "AWS_ACCESS_KEY_ID"]),
        ("s3://corpus/a.jsonl", &unsigned, &["s3://corpus/a.jsonl", "403"]),
        ("s3://corpus/a.jsonl", &plain, &["AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP=true"]),
        (
            "gs://corpus/a.jsonl",
            &[("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")],
            &["gs://corpus", "GOOGLE_APPLICATION_CREDENTIALS"],
        ),
        (
            "https://user:word@host/a.jsonl",
            &[],
            &["SOURCES", "`https://host/a.jsonl`", "credentials come from the environment"],
        ),
    ] {
        let dataflow = of_key(4, "").set("corpus", "SOURCES", json!([{"path": path}]).to_string());
        let told = run(&dataflow, server.port(), more).refused(78, parts);
        assert!(!told.text.contains(SECRET) && !told.text.contains("user:word"), "{}", told.text);
    }
}
