//! How a run ended, as an exit code.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::line::Failure;

/// A wrong configuration (sysexits' EX_CONFIG): what difflow's nodes end with.
const EXIT_CONFIG: u8 = 78;

/// The node whose failure began it all: the first that did not fail because of another.
pub fn culprit(failures: &[Failure]) -> Option<&Failure> {
    failures.iter().find(|failure| !failure.cascading).or(failures.first())
}

/// dora's exit code, except: 78 when the node that failed first ended with 78, 1 when a node failed and dora says nothing of it,
/// 128 + signal when a signal ended dora.
pub fn exit_code(dora: ExitStatus, failures: &[Failure]) -> u8 {
    let own = dora.code().or(dora.signal().map(|signal| 128 + signal)).and_then(|code| u8::try_from(code).ok());
    match culprit(failures) {
        Some(failure) if failure.code == Some(EXIT_CONFIG) => EXIT_CONFIG,
        Some(_) if own == Some(0) => 1,
        _ => own.unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: Option<u8>, cascading: bool) -> Failure {
        Failure { node: "n".into(), how: String::new(), code, cascading, stderr: Vec::new() }
    }

    fn status(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn doras_own_code_is_passed_on() {
        assert_eq!(exit_code(status(0), &[]), 0);
        assert_eq!(exit_code(status(2), &[]), 2);
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGKILL), &[]), 137);
    }

    #[test]
    fn a_refused_configuration_is_78_even_when_others_fail_after_it_or_because_of_it() {
        assert_eq!(exit_code(status(1), &[failed(Some(78), false), failed(Some(1), false)]), 78);
        assert_eq!(exit_code(status(1), &[failed(Some(1), true), failed(Some(78), false)]), 78);
        assert_eq!(exit_code(status(1), &[failed(Some(1), false), failed(Some(78), false)]), 1);
    }

    #[test]
    fn a_run_with_a_failed_node_never_ends_with_0() {
        assert_eq!(exit_code(status(0), &[failed(None, false)]), 1);
    }
}
