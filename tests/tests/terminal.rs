//! What a terminal gets, and what a file gets instead.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Outcome, program, skip};

const SOON: Duration = Duration::from_secs(60);
const RED: &str = "\u{1b}[1;31m";

/// `difflow run` of a file that is missing, on a terminal of its own: what it showed there.
fn on_a_terminal(no_color: Option<&str>) -> Option<String> {
    if !Path::new("/usr/bin/script").exists() {
        skip("script", "colours on a terminal", "no `script` (Debian: apt-get install bsdutils)");
        return None;
    }
    let mut command = Command::new("/usr/bin/script");
    command.args(["-qec", &format!("{} run nowhere.yml", program("difflow").display()), "/dev/null"]);
    match no_color {
        Some(value) => command.env("NO_COLOR", value),
        None => command.env_remove("NO_COLOR"),
    };
    let outcome = Outcome::of(command, SOON).refused(2, &["there is no dataflow file nowhere.yml"]);
    Some(outcome.text)
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let Some(plain) = on_a_terminal(Some("1")) else { return };
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    // no-color.org: set and not empty.
    for wanted in [None, Some("")] {
        assert!(on_a_terminal(wanted).is_some_and(|text| text.contains(RED)), "no colour with NO_COLOR {wanted:?}");
    }
}

#[test]
fn a_pipe_gets_no_control_characters() {
    let mut command = Command::new(program("difflow"));
    command.args(["run", "nowhere.yml"]).env_remove("NO_COLOR");
    let outcome = Outcome::of(command, SOON).refused(2, &["error: there is no dataflow file nowhere.yml"]);
    assert!(!outcome.text.contains(['\u{1b}', '\r']), "{:?}", outcome.text);
}
