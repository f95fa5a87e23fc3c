//! An external command that judges texts: the sampler's key CHECKER and `difflow sample --checker`.
//!
//! It is started without a shell, once for all texts of a checkpoint, reads one JSON object per line, `{"text": …}` or
//! `{"prompt": …, "response": …}`, and answers with one line per text: `ok`, or what is wrong.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use crate::error::InferenceError;

/// The verdict on a text that has nothing wrong with it.
pub const OK: &str = "ok";

/// Time between two checks whether the command has ended and the job goes on.
const LOOK: Duration = Duration::from_millis(20);

/// Why a checker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckerError {
    /// There is no such program.
    #[error(
        "there is no program `{program}` here, beside difflow's own or on PATH; allowed: a command such as `my-checker --strict`, which reads \
         one {{\"text\": …}} a line and answers one line a text, `ok` or what is wrong"
    )]
    Missing { program: String },
    /// It cannot be started, read from or written to.
    #[error("the checker `{command}` cannot be run: {source}")]
    Io { command: String, source: std::io::Error },
    /// It exited with an error.
    #[error("the checker `{command}` ended with {status} after {answers} of {texts} verdicts: {said}")]
    Failed { command: String, status: String, answers: usize, texts: usize, said: String },
    /// It answered too few or too many lines.
    #[error("the checker `{command}` answered {answers} lines for {texts} texts; wanted: one line a text")]
    Answers { command: String, answers: usize, texts: usize },
}

/// A text that is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Judged {
    /// From nothing.
    Text { text: String },
    /// An answer to a prompt.
    Exchange { prompt: String, response: String },
}

/// A command that judges texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checker {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Checker {
    /// Takes a command: a program and its arguments, separated by spaces. A program without a slash is looked for next
    /// to this one, then on PATH. Returns `None` for an empty command and for `none`. Errors if there is no such
    /// program.
    pub fn open(command: &str) -> Result<Option<Self>, CheckerError> {
        let mut words = command.split_whitespace().map(str::to_owned);
        let Some(name) = words.next().filter(|name| name != "none") else { return Ok(None) };
        let program = find(&name).ok_or(CheckerError::Missing { program: name })?;
        Ok(Some(Self { program, arguments: words.collect() }))
    }

    /// Returns the verdict on each text. Calls `go_on` while the command runs. Errors if the command cannot be started,
    /// fails, or answers another number of lines, or with the error of `go_on`; the command is then killed.
    pub fn verdicts<E: From<InferenceError>>(
        &self,
        texts: &[Judged],
        go_on: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<String>, E> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |source| InferenceError::from(CheckerError::Io { command: self.command(), source });
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let lines: String = texts.iter().map(|text| format!("{}\n", json!(text))).collect();
        let input = child.stdin.take();
        // A checker that answers line by line would otherwise wait for us to read while we wait for it to. One that ended before it
        // read everything is told of by its exit code or by the missing lines.
        thread::spawn(move || input.map_or(Ok(()), |mut input| input.write_all(lines.as_bytes())));
        let (answers, said) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let status = wait(&mut child, go_on, failed)?;
        let (answers, said) = (text(answers).map_err(failed)?, text(said).map_err(failed)?);
        let verdicts: Vec<String> = answers.lines().map(|line| line.trim().to_owned()).collect();
        let (answers, texts) = (verdicts.len(), texts.len());
        if !status.success() {
            let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing on stderr").to_owned();
            let status = status.to_string();
            let problem = CheckerError::Failed { command: self.command(), status, answers, texts, said };
            return Err(InferenceError::from(problem).into());
        }
        if answers != texts {
            let problem = CheckerError::Answers { command: self.command(), answers, texts };
            return Err(InferenceError::from(problem).into());
        }
        Ok(verdicts)
    }

    fn command(&self) -> String {
        let words = std::iter::once(self.program.to_string_lossy().into_owned()).chain(self.arguments.clone());
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Waits for the end of a command. Errors with the error of `go_on`; the command is then killed, since it may never
/// end.
fn wait<E: From<InferenceError>>(
    child: &mut Child,
    go_on: &mut dyn FnMut() -> Result<(), E>,
    failed: impl Fn(io::Error) -> InferenceError,
) -> Result<ExitStatus, E> {
    loop {
        if let Some(status) = child.try_wait().map_err(&failed)? {
            return Ok(status);
        }
        if let Err(stop) = go_on() {
            child.kill().and_then(|()| child.wait()).map_err(&failed)?;
            return Err(stop);
        }
        thread::sleep(LOOK);
    }
}

/// Returns what comes from a pipe, read by a thread while the command runs.
type Reading = JoinHandle<io::Result<Vec<u8>>>;

fn reader(pipe: Option<impl Read + Send + 'static>) -> Reading {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes)).map(|_| bytes)
    })
}

fn text(reading: Reading) -> io::Result<String> {
    let bytes = reading.join().map_err(|_| io::Error::other("its output cannot be read"))??;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let own = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let all: Vec<PathBuf> =
        std::env::var_os("PATH").map(|all| std::env::split_paths(&all).collect()).unwrap_or_default();
    own.into_iter().chain(all).map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn verdicts(script: &str, texts: &[&str]) -> Result<Vec<String>, InferenceError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checker");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let texts: Vec<Judged> = texts.iter().map(|&text| Judged::Text { text: text.to_owned() }).collect();
        Checker::open(path.to_str().unwrap()).unwrap().unwrap().verdicts(&texts, &mut || Ok(()))
    }

    #[test]
    fn a_command_answers_one_line_a_text() {
        let script =
            r#"while read -r line; do case "$line" in *bad*) echo "sentence 1: bad";; *) echo ok;; esac; done"#;
        assert_eq!(verdicts(script, &["a\nb", "bad"]).unwrap(), ["ok", "sentence 1: bad"]);
        assert!(verdicts("exit 3", &[]).unwrap().is_empty(), "nothing is asked about nothing");
    }

    #[test]
    fn what_is_wrong_with_a_checker_is_said() {
        let text = |script: &str| verdicts(script, &["a", "b"]).unwrap_err().to_string();
        let few = text("read -r line; echo ok");
        assert!(few.contains("1 lines for 2 texts") && few.contains("one line a text"), "{few}");
        let failed = text("echo ok; echo 'no rules' >&2; exit 4");
        assert!(failed.contains("1 of 2") && failed.contains("no rules") && failed.contains('4'), "{failed}");
        let missing = Checker::open("no-such-checker --strict").unwrap_err().to_string();
        assert!(missing.contains("no-such-checker") && missing.contains("allowed"), "{missing}");
        assert_eq!((Checker::open("").unwrap(), Checker::open("none").unwrap()), (None, None));
    }

    /// A run that was stopped waited for ever for a checker that had hung.
    #[test]
    fn a_checker_that_never_answers_does_not_outlive_a_stop() {
        #[derive(Debug, thiserror::Error)]
        enum Ended {
            #[error("stopped")]
            Stopped,
            #[error(transparent)]
            Inference(#[from] InferenceError),
        }
        let mut asked = 0;
        let checker = Checker::open("sleep infinity").unwrap().unwrap();
        let result = checker.verdicts(&[Judged::Text { text: "a".to_owned() }], &mut || {
            asked += 1;
            if asked == 3 { Err(Ended::Stopped) } else { Ok(()) }
        });
        assert!(matches!(result, Err(Ended::Stopped)), "{result:?}");
    }

    /// More than a pipe holds, in both directions.
    #[test]
    fn many_long_texts_do_not_stop_the_conversation() {
        let texts: Vec<String> = (0..2000).map(|n| format!("{n} {}", "word ".repeat(100))).collect();
        let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(verdicts("exec cat", &refs).unwrap().len(), 2000);
    }
}
