#![allow(clippy::unwrap_used)]
//! Lines as printed by dora 1.1.0, with shortened ids and paths.

use super::*;

const SPAWN: &str = r#"{"build_id":null,"dataflow_id":"01a2083c","node_id":"monitor","daemon_id":{"machine_id":null,"uuid":"01a2"},"level":"INFO","target":"spawner","module_path":null,"file":null,"line":null,"message":"spawning `/home/m/difflow/bin/difflow-monitor` in `/home/m/difflow`","timestamp":"2026-11-23T11:48:05.099007205Z","fields":null}"#;

fn from_node(node: &str, message: &str) -> String {
    format!(
        r#"{{"build_id":null,"dataflow_id":"01a2083c","node_id":"{node}","daemon_id":{{"machine_id":null,"uuid":"01a2"}},"level":"stdout","target":null,"module_path":null,"file":null,"line":null,"message":"{message}","timestamp":"2026-11-23T11:48:05.101174184Z","fields":null}}"#
    )
}

fn reader() -> Reader {
    let mut reader = Reader::default();
    assert_eq!(reader.read(SPAWN), Line::Chatter);
    reader
}

#[test]
fn the_monitors_lines_are_shown_as_they_are() {
    let mut reader = reader();
    let progress = "step 120/600  loss 3.412";
    assert_eq!(reader.read(&from_node("monitor", progress)), Line::Progress(progress.into()));
    assert_eq!(reader.read(&from_node("monitor", "   indented — line")), Line::Result("   indented — line".into()));
    assert_eq!(reader.read(&from_node("monitor", "")), Line::Result(String::new()));
}

/// Only a node that runs the monitor's program is one, whatever it is called.
#[test]
fn other_nodes_are_quiet_but_for_errors_and_warnings() {
    let mut reader = reader();
    let text = "step 120/600  loss 3.412";
    assert_eq!(reader.read(&from_node("trainer", text)), Line::Quiet { who: "trainer".into(), text: text.into() });
    for text in ["error: STEPS: found `x`; allowed: a whole number", "warning: careful"] {
        let wanted = Line::Notice { who: "trainer".into(), text: text.into() };
        assert_eq!(reader.read(&from_node("trainer", text)), wanted);
    }
}

#[test]
fn a_failed_node_tells_its_code_and_its_last_words() {
    let line = r#"{"build_id":null,"dataflow_id":"01a2083c","node_id":"trainer","daemon_id":{"machine_id":null,"uuid":"01a2"},"level":"ERROR","target":"daemon","module_path":null,"file":null,"line":null,"message":"exited with code 78 with stderr output:\n---------------------------------------------------------------------------------\nerror: BATCH: found x\nplain stderr warning: foo\n---------------------------------------------------------------------------------\n","timestamp":"2026-11-23T11:48:09.141009290Z","fields":null}"#;
    let wanted = Failure {
        node: "trainer".into(),
        how: "exited with code 78".into(),
        code: Some(78),
        cascading: false,
        stderr: vec!["error: BATCH: found x".into(), "plain stderr warning: foo".into()],
    };
    assert_eq!(reader().read(line), Line::Failed(wanted));
}

#[test]
fn a_killed_node_has_no_code() {
    let line = r#"{"build_id":null,"dataflow_id":"01a2083e","node_id":"trainer","daemon_id":{"machine_id":null,"uuid":"01a2"},"level":"ERROR","target":"daemon","module_path":null,"file":null,"line":null,"message":"exited because of signal SIGKILL with stderr output:\n---------------------------------------------------------------------------------\nwarning: careful\n---------------------------------------------------------------------------------\n","timestamp":"2026-11-23T11:50:35.638583Z","fields":null}"#;
    let Line::Failed(failure) = reader().read(line) else { panic!("not a failure") };
    assert_eq!((failure.how.as_str(), failure.code), ("exited because of signal SIGKILL", None));
}

#[test]
fn dora_itself_is_chatter() {
    let lines = [
        "monitor: DEBUG    building node",
        "2026-11-23T11:48:09.140944Z ERROR node_failure: dora_daemon::spawn::prepared: node exited with error: ExitCode(78) node_id=trainer dataflow_id=01a2083c",
        "2026-11-23T11:48:07.104130Z  INFO run_inner: dora_daemon: exiting daemon because all required dataflows are finished",
        r#"{"build_id":null,"dataflow_id":"01a2083c","node_id":"trainer","daemon_id":{"machine_id":null,"uuid":"01a2"},"level":"WARN","target":"daemon::pending","module_path":null,"file":null,"line":null,"message":"node exited before initializing dora connection","timestamp":"2026-11-23T11:48:07.104046658Z","fields":null}"#,
        r#"{"build_id":null,"dataflow_id":"01a2083c","node_id":null,"daemon_id":{"machine_id":null,"uuid":"01a2"},"level":"INFO","target":"daemon","module_path":null,"file":null,"line":null,"message":"dataflow finished on machine `01a2`","timestamp":"2026-11-23T11:48:07.104075481Z","fields":null}"#,
        "",
    ];
    for line in lines {
        assert_eq!(reader().read(line), Line::Chatter, "{line}");
    }
}

#[test]
fn a_panic_is_told_from_its_stack_trace() {
    for trace in
        ["   0: rust_begin_unwind", "             at ./csu/../libc_start_call_main.h:58:16", "stack backtrace:"]
    {
        assert!(is_trace(trace), "{trace}");
    }
    for word in ["thread 'main' (4711) panicked at src/run.rs:19:30:", "boom", "error: input `x`: 3: bad"] {
        assert!(!is_trace(word), "{word}");
    }
}
