//! A node's `main`: arguments, connection, configuration, exit code.

use std::ffi::OsString;
use std::os::unix::process::parent_id;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Arg, ArgAction, Command};
use eyre::{Report, Result};

use crate::record::{self, MAY_CHANGE, Writer, marked};
use crate::{Config, Node, Problems, config};

/// Exit code for a wrong configuration (sysexits' EX_CONFIG).
const EXIT_CONFIG: u8 = 78;

/// How often a node looks whether its daemon is there.
const LOOK: Duration = Duration::from_secs(1);
/// How long a node has to end by itself once its daemon is gone.
const WITHOUT_DAEMON: Duration = Duration::from_secs(10);

/// What a node's `--help` says about it.
pub struct About {
    /// Program name, for example `difflow-trainer`.
    pub name: &'static str,
    /// One sentence.
    pub what: &'static str,
    /// Version of the program.
    pub version: &'static str,
}

/// Connects, reads the configuration and runs the node. `words` are those of the command line, without the program's
/// name. Returns the exit code: 0 done or cleanly stopped, 1 failed, 2 usage, 78 configuration.
pub fn main<C: Config>(about: About, words: Vec<OsString>, run: fn(C, Node) -> Result<()>) -> ExitCode {
    let command = Command::new(about.name)
        .version(about.version)
        .about(about.what)
        .long_about(format!(
            "{}\n\nA node of a dora dataflow: dora starts it, with its keys in the `env:` block of the dataflow file.",
            about.what
        ))
        .after_long_help(help::<C>())
        .after_help("Use --help for the keys.")
        .arg(
            Arg::new("schema")
                .long("schema")
                .action(ArgAction::SetTrue)
                .help("Print the JSON schema of the keys and exit"),
        );
    let matches = command.no_binary_name(true).get_matches_from(words);
    if matches.get_flag("schema") {
        println!("{:#}", config::schema::<C>().as_value());
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("DORA_NODE_CONFIG").is_none() && std::env::var_os("DORA_TEST_WITH_INPUTS").is_none() {
        eprintln!("{} is a node of a dataflow: start it with `dora run dataflow.yml`, or see --help.", about.name);
        return ExitCode::from(2);
    }
    match connect_and_run(about.name, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => report_error(&report),
    }
}

fn connect_and_run<C: Config>(program: &str, run: fn(C, Node) -> Result<()>) -> Result<()> {
    // Connect before anything can fail: a node that ends before it subscribed takes the others down with a riddle.
    let node = Node::connect()?;
    leave_with_daemon();
    // The dataflow file decides, with what `dora run --env` adds to it; a variable that the shell exports does not.
    let (own, shared) = node.keys()?;
    let names: Vec<String> = own.keys().cloned().collect();
    let mut config = config::read::<C>(&names, |key| own.get(key).or_else(|| shared.get(key)).cloned())?;
    if C::recorded(&node)? {
        record::enter(&config, Writer { name: &node.name(), program, start: &node.start() })?;
    }
    config.fetch().map_err(Problems::from)?;
    run(config, node)
}

/// Ends this process if the daemon that started it is gone and the node has not noticed: it would keep the run's locks
/// and compute what nobody asks for.
fn leave_with_daemon() {
    let daemon = parent_id();
    thread::spawn(move || {
        while parent_id() == daemon {
            thread::sleep(LOOK);
        }
        thread::sleep(WITHOUT_DAEMON);
        eprintln!(
            "error: the dora daemon that started this node is gone; start the dataflow again, it goes on from the last checkpoint"
        );
        std::process::exit(1);
    });
}

fn report_error(report: &Report) -> ExitCode {
    if let Some(problems) = report.downcast_ref::<Problems>() {
        for problem in &problems.0 {
            eprintln!("error: {problem}");
        }
        if problems.of_servers() {
            return ExitCode::FAILURE;
        }
        eprintln!("Change the key in the `env:` block of this node (or the dataflow's) and start again.");
        return ExitCode::from(EXIT_CONFIG);
    }
    eprintln!("error: {report:#}");
    ExitCode::FAILURE
}

/// Returns the keys with type, default and description, for `--help`.
fn help<C: Config>() -> String {
    let mut text = String::from("Keys (in the node's `env:` block):\n");
    for (key, schema) in config::keys(&config::schema::<C>()) {
        let choices = config::choices(&schema);
        let kind = if choices.is_empty() { config::type_names(&schema).join(" or ") } else { choices.join("|") };
        let range = config::range(&schema);
        let default = schema.get("default").map(|d| format!(", default {d}")).unwrap_or_default();
        let description = schema.get("description").and_then(serde_json::Value::as_str).unwrap_or_default();
        let range = if range.is_empty() { range } else { format!(" {range}") };
        let default = if marked(&schema, MAY_CHANGE) { default + "; may change on resume" } else { default };
        text.push_str(&format!("  {key}  ({kind}{range}{default})\n      {}\n", description.replace('\n', "\n      ")));
    }
    text
}
