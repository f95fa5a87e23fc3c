//! The commands of the documentation, executed. A page with a command that does not work is worse than none.
//!
//! Blocks that begin with ```sh are run by bash, page by page, in a folder that has what the checkout has; a ```text block behind one is what
//! it must print, `…` standing for anything; every other block must end well. A block behind a comment `<!-- not executed: WHY -->` is not run, but its `difflow` commands and
//! their options must exist.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use difflow_tests::{program, root};

/// A block of a page.
struct Block {
    line: usize,
    language: String,
    text: String,
    executed: bool,
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open, mut executed) = (Vec::<Block>::new(), false, true);
    for (number, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => {
                open = false;
                executed = true;
            }
            Some(language) => {
                open = true;
                blocks.push(Block { line: number + 1, language: language.into(), text: String::new(), executed });
            }
            None if open => {
                let block = blocks.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            None if line.starts_with("<!-- not executed: ") => executed = false,
            None => {}
        }
    }
    blocks
}

/// A folder like the checkout, in which pages may write.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["bin", "data", "plugins", "dataflow.yml", "docs", "nodes"] {
        symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// What a block prints, errors included, and whether every command of it ended well.
fn run(folder: &Path, block: &Block) -> (String, bool) {
    let path =
        format!("{}:{}", program("difflow").parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let script = format!("exec 2>&1\ntrap 'failed=1' ERR\n{}\nexit ${{failed:-0}}", block.text);
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder)
        .env("PATH", path)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

/// Whether a line is in a text, in which `…` stands for anything.
fn prints(text: &str, line: &str) -> bool {
    text.lines().any(|found| {
        let mut rest = found;
        let mut parts = line.split('…');
        let first = parts.next().unwrap_or_default();
        let Some(at) = rest.find(first) else { return false };
        rest = &rest[at + first.len()..];
        parts.all(|part| {
            let at = rest.find(part);
            rest = at.map_or(rest, |at| &rest[at + part.len()..]);
            at.is_some()
        })
    })
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// Runs a page from its top to its end. Blocks that are expected to fail have their words behind them, or print their exit code.
fn follow(name: &str) {
    let (folder, blocks) = (folder(), blocks(&page(name)));
    let mut ran = 0;
    let mut printed = String::new();
    for (number, block) in blocks.iter().enumerate() {
        match block.language.as_str() {
            "sh" if block.executed => {
                let well;
                (printed, well) = run(folder.path(), block);
                ran += 1;
                let told = blocks.get(number + 1).is_some_and(|next| next.language == "text");
                let meant = block.text.contains("exit code $?");
                assert!(told || meant || well, "{name}:{}: a command fails:\n{}\n{printed}", block.line, block.text);
            }
            "text" => {
                for line in block.text.lines() {
                    assert!(prints(&printed, line), "{name}:{}: `{line}` is not in\n{printed}", block.line);
                }
            }
            _ => {}
        }
    }
    assert!(ran > 0, "{name} has no command to run");
}

#[test]
fn installing_can_be_followed() {
    follow("docs/INSTALL.md");
}

#[test]
fn the_tutorial_can_be_followed() {
    follow("docs/TUTORIAL.md");
}

#[test]
fn troubleshooting_shows_the_real_messages() {
    follow("docs/TROUBLESHOOTING.md");
}

#[test]
fn reproducibility_can_be_followed() {
    follow("docs/REPRODUCIBILITY.md");
}

#[test]
fn finetuning_can_be_followed() {
    follow("docs/FINETUNING.md");
}

#[test]
fn evaluation_can_be_followed() {
    follow("docs/EVALUATION.md");
}

/// Also those that take too long to be run here.
#[test]
fn every_difflow_command_and_option_of_every_page_exists() {
    let surface = page("nodes/cli/tests/cli-surface.txt");
    let mut pages = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    let mut seen = 0;
    for name in &pages {
        let text = page(name).replace("\\\n", " ");
        for block in blocks(&text).iter().filter(|block| block.language == "sh") {
            for line in block.text.lines().filter(|line| line.starts_with("difflow ")) {
                seen += 1;
                exists(&surface, name, line);
            }
        }
    }
    assert!(seen > 20, "only {seen} commands in {pages:?}");
}

/// Continuous integration calls setup, build, test and lint; this finds a misspelt target or variable.
#[test]
fn every_make_target_of_every_page_exists() {
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .chain([root().join("README.md")])
    {
        let Ok(text) = std::fs::read_to_string(&entry) else { continue };
        for block in blocks(&text).iter().filter(|block| block.language == "sh") {
            for line in block.text.lines().filter(|line| line.starts_with("make ") && !line.starts_with("make -C")) {
                seen += 1;
                let dry = format!("make --dry-run {}", line.trim_start_matches("make "));
                let output = Command::new("bash").args(["-c", &dry]).current_dir(root()).output().unwrap();
                assert!(output.status.success(), "{}:{}: {line}: {output:?}", entry.display(), block.line);
            }
        }
    }
    assert!(seen > 6, "only {seen} calls of make");
}

/// Finds the command in the surface and each of its options below it.
fn exists(surface: &str, name: &str, line: &str) {
    let line = line.split(" #").next().unwrap_or(line);
    // What stands in quotes is a value: another command, say, with options of its own.
    let line = &line.split('\'').step_by(2).collect::<Vec<_>>().join("''");
    let words: Vec<&str> = line.split_whitespace().take_while(|word| !["|", ">", ";", "--"].contains(word)).collect();
    let section = |count: usize| {
        let head = words[..count.min(words.len())].join(" ");
        let at = surface.find(&format!("\n\n{head}\n"))?;
        Some(surface[at + 2..].split("\n\n").next().unwrap_or_default().to_owned())
    };
    let section = section(3).filter(|_| words.len() > 2).or_else(|| section(2));
    let section = section.unwrap_or_else(|| panic!("{name}: there is no command for `{line}`"));
    for option in words.iter().filter(|word| word.starts_with('-') && !word.contains(' ')) {
        let option = option.split('=').next().unwrap_or(option).trim_end_matches(';');
        let known = section.split_whitespace().any(|word| word.trim_end_matches(',') == option);
        assert!(known || option.starts_with("-1"), "{name}: `{line}`: no option {option} in\n{section}");
    }
}
