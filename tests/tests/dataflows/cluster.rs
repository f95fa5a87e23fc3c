//! `difflow doctor --cluster` with two real daemons on this machine. Each has a Hugging Face cache of its own, so one may have another base
//! model than the other, as two machines may.

use std::fs;
use std::path::Path;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome};
use serde_json::Value;

use crate::daemons::{Daemons, free_port};

const LIMIT: Duration = Duration::from_secs(120);
const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

/// Puts the model into a cache; returns its folder there.
fn cache(home: &Path, model: &Path) -> std::path::PathBuf {
    let repository = home.join("hub/models--tests--tiny");
    let snapshot = repository.join("snapshots").join(REVISION);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), REVISION).unwrap();
    for file in fs::read_dir(model).unwrap().map(|file| file.unwrap().path()) {
        fs::copy(&file, snapshot.join(file.file_name().unwrap())).unwrap();
    }
    snapshot
}

/// Machine, what was looked at, state and text of everything that is not good but the room on this disk; and how many rows there are.
fn wrong(dora: &Daemons, machines: &str, file: &Path, meeting: &str, code: i32) -> (Vec<[String; 4]>, usize) {
    let set = format!("RENDEZVOUS={meeting}");
    let file = file.display().to_string();
    let command = dora.command("difflow", &["doctor", "--cluster", machines, &file, "--set", &set, "--json"]);
    let outcome = Outcome::of(command, LIMIT);
    assert_eq!(outcome.code, code, "{}", outcome.text);
    let rows: Vec<Value> = serde_json::from_str(&outcome.text).unwrap_or_else(|e| panic!("{e}: {}", outcome.text));
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let wrong = rows.iter().filter(|row| row["state"] != "ok" && row["what"] != "disk");
    (wrong.map(|row| ["machine", "what", "state", "found"].map(|key| text(row, key))).collect(), rows.len())
}

/// The two machines of the test are one: whatever is wrong without a planted difference is an error of the doctor.
#[test]
fn the_doctor_finds_what_differs_between_the_machines_of_a_cluster() {
    let dataflow = Dataflow::tiny(2).set("", "BASE_MODEL", "tests/tiny");
    let (file, folder) = (dataflow.write(), dataflow.folder().to_owned());
    let (a, b) = (folder.join("a"), folder.join("b"));
    cache(&a, &folder.join("model"));
    let other = cache(&b, &folder.join("model")).join("config.json");
    let dora = Daemons::up(&folder, &[("A", ("HF_HOME", &a)), ("B", ("HF_HOME", &b))]);
    let meeting = format!("127.0.0.1:{}", free_port());

    let (found, rows) = wrong(&dora, "A,B", &file, &meeting, 0);
    assert!(found.is_empty() && rows == 26, "{rows} rows: {found:#?}");

    fs::write(&other, fs::read_to_string(&other).unwrap() + "\n").unwrap();
    let (found, _) = wrong(&dora, "A,B,C", &file, &meeting, 1);
    let [base, missing] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!(base[..3], ["B", "base model", "BAD"], "{base:?}");
    assert!(base[3].contains("config.json is not that of A"), "{base:?}");
    assert_eq!(missing[..3], ["C", "daemon", "BAD"], "{missing:?}");
    assert!(missing[3].contains("it has: A, B") && missing[3].contains("dora daemon --machine-id C"), "{missing:?}");
}
