//! `difflow plugin new`: what it writes builds with the command in its README, outside the repository, passes the check, and drives a run
//! when the README's line is put where the README says.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::json;
use difflow_tests::{Dataflow, Outcome, program, root};

/// Where cargo keeps what it compiled for such projects, from one to the next and from one test run to the next.
pub fn shared_target() -> PathBuf {
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("new-plugins");
    std::fs::create_dir_all(&shared).unwrap();
    shared
}

/// Runs a line of a shell in the environment that `bin/env.sh` makes.
pub fn shell(line: &str, dir: &Path) -> String {
    let line = format!(". '{}'\n{line}", root().join("bin/env.sh").display());
    let mut command = Command::new("sh");
    command.args(["-e", "-c", &line]).current_dir(dir).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    // The registry's copies of the SDK's dependencies are there, since this very build used them.
    command.env("CARGO_NET_OFFLINE", "true");
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {text}");
    text
}

/// A project that was made, built and checked as its README says.
struct Project {
    name: String,
    dir: PathBuf,
    readme: String,
}

impl Project {
    fn new(kind: &str, language: &str, dir: &Path) -> Self {
        let name = format!("my-{kind}-{language}");
        shell(&format!("difflow plugin new {name} --kind {kind} --lang {language}"), dir);
        let dir = dir.join(&name);
        let readme = std::fs::read_to_string(dir.join("README.md")).unwrap();
        assert!(!readme.contains("{{"), "{readme}");
        let project = Self { name, dir, readme };
        if language == "rust" {
            std::os::unix::fs::symlink(shared_target(), project.dir.join("target")).unwrap();
        }
        shell(project.line(if language == "rust" { "cargo build" } else { "make" }), &project.dir);
        shell(project.line("difflow plugin check"), &project.dir);
        project
    }

    /// The README's line that begins so.
    fn line(&self, start: &str) -> &str {
        let line = self.readme.lines().map(str::trim).find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no line `{start}` in\n{}", self.readme))
    }

    /// Puts the README's line where it says.
    fn used_in(&self, dataflow: Dataflow) -> Dataflow {
        let line = self.readme.lines().find(|line| line.contains(": ") && line.contains("PATH/TO/")).unwrap();
        let (key, value) = line.trim().split_once(": ").unwrap();
        let here = self.dir.parent().unwrap().display().to_string();
        let value = value.trim_matches('\'').replace("PATH/TO", &here);
        let node = self
            .readme
            .split_once("under `env:` of the node `")
            .map_or("", |(_, rest)| rest.split('`').next().unwrap());
        dataflow.set(node, key, value)
    }
}

/// Runs the default dataflow with all of them at once; each must be in run.json.
fn drive(projects: &[Project]) {
    let dataflow = projects.iter().fold(Dataflow::small_whole(2), |dataflow, project| project.used_in(dataflow));
    dataflow.run().well();
    let plugins = json(&dataflow.run_folder().join("run.json"))["plugins"].clone();
    let ids: Vec<&str> = plugins.as_object().unwrap().values().filter_map(|record| record["id"].as_str()).collect();
    for project in projects {
        let id = format!("org.example.{}", project.name);
        assert!(ids.contains(&id.as_str()), "{id} is not in {plugins:#}");
    }
}

#[test]
fn every_kind_that_is_offered_in_c_builds_passes_and_drives_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = ["noise-schedule", "annealing-schedule", "model-recipe"];
    drive(&kinds.map(|kind| Project::new(kind, "c", dir.path())));
}

#[test]
fn every_kind_in_rust_builds_passes_and_drives_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = ["noise-schedule", "annealing-schedule", "batch-transform", "model-recipe"];
    drive(&kinds.map(|kind| Project::new(kind, "rust", dir.path())));
}

/// Its first build in a checkout compiles tch, which takes minutes.
#[test]
fn a_torch_model_in_rust_builds_passes_and_drives_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let project = Project::new("torch-model", "rust", dir.path());
    spoil_torch_model(&project);
    drive(&[project]);
}

/// What a torch model can do wrong without crashing is found by the test that is there for it.
fn spoil_torch_model(project: &Project) {
    let source = project.dir.join("src/lib.rs");
    let good = std::fs::read_to_string(&source).unwrap();
    for (from, to, test, part) in [
        (".f_add(&attn_bias.f_squeeze_dim(1)?)?", "", "bias", "is attn_bias added in every attention?"),
        (
            "self.weights[name].f_to_kind",
            "self.weights[name].f_detach()?.f_to_kind",
            "gradient",
            "without a finite gradient",
        ),
        (
            "grown(&self.weights[EMBEDDING], size)?",
            "self.weights[EMBEDDING].shallow_clone()",
            "vocabulary",
            "set_vocab_size",
        ),
        ("f_mul_scalar(0.2)?,", "f_mul_scalar(f64::NAN)?,", "forward", "a logit is NaN or infinite"),
        (
            "(name, on_host(tensor)?)",
            "(name, on_host(tensor)?.f_add_scalar(0.1)?)",
            "save-load",
            "differs from what was saved",
        ),
    ] {
        assert!(good.contains(from), "{from} is not in the template");
        std::fs::write(&source, good.replacen(from, to, 1)).unwrap();
        shell(project.line("cargo build"), &project.dir);
        let mut command = Command::new(program("difflow"));
        command.args(["plugin", "check", "--json", project.line("difflow plugin check").rsplit(' ').next().unwrap()]);
        command.current_dir(&project.dir);
        let outcome = Outcome::of(command, Duration::from_secs(120));
        assert_eq!(outcome.code, 1, "{to}: {}", outcome.text);
        let tests: Vec<Value> = serde_json::from_str(&outcome.text).unwrap();
        let failed = tests.iter().find(|one| one["test"] == test && one["result"] == "failed");
        let message = failed.and_then(|one| one["message"].as_str()).unwrap_or_default();
        assert!(message.contains(part), "wanted `{test}` with `{part}`: {}", outcome.text);
    }
    std::fs::write(&source, good).unwrap();
    shell(project.line("cargo build"), &project.dir);
}
