//! Processes of Python files. A process of its own: it counts its children.
#![allow(clippy::unwrap_used)]

use std::fs;

use difflow_plugin_host::Library;

/// Children of this process, zombies among them.
fn children() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let of_thread = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    threads.map(|task| of_thread(task.unwrap()).split_whitespace().count()).sum()
}

/// One that looks at many files, as `difflow plugin list` and a long-lived node do, would otherwise keep a zombie for each bad one.
#[test]
fn a_file_that_is_refused_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["def alpha(t:\n", "def beta(t):\n    return 1\n"] {
        let path = dir.path().join("bad.py");
        fs::write(&path, text).unwrap();
        Library::open(&path).unwrap_err();
        assert_eq!(children(), 0, "{text}");
    }
    let good = dir.path().join("good.py");
    fs::write(&good, "def alpha(t):\n    return 1 - t\n").unwrap();
    Library::open(&good).unwrap();
    assert_eq!(children(), 1, "the process of a good file is counted");
}
