//! Foreign code runs in a child process: this program starts itself again, so that a crash or hang does no harm.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use difflow_plugin_host::conformance::Stop;
use difflow_plugin_host::{Component, Found, Kind, Library};
use eyre::{Context, Result, eyre};
use serde_json::{Value, json};

use crate::plugin::tests;

/// How long a test may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Exit code for a test that does not apply.
const SKIPPED: i32 = 3;

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Well; what it printed.
    Well(String),
    /// It does not apply, and why.
    Skipped(String),
    /// What went wrong.
    Badly(String),
}

/// The library of that name: `builtin`, or a file.
fn open(library: &str) -> Result<Arc<Library>> {
    Ok(if library == "builtin" { Library::builtin()? } else { Library::open(Path::new(library))? })
}

/// In the child: prints what a library holds.
pub fn describe(library: &str) -> Result<u8> {
    let library = match open(library) {
        Ok(library) => library,
        Err(error) => {
            println!("{error}");
            return Ok(1);
        }
    };
    let components: Vec<Value> = library.components().iter().map(to_json).collect();
    println!("{}", json!({"sha256": library.sha256, "components": components}));
    Ok(0)
}

/// In the child: runs tests until one does not pass.
pub fn run_tests(library: &str, component: &str, names: &[String]) -> Result<u8> {
    let library = open(library)?;
    let component = library.components().iter().find(|found| found.id == component);
    let component = component.ok_or_else(|| eyre!("there is no such component"))?.clone();
    let all = tests(component.kind);
    let found = Found { library, component };
    for name in names {
        let test = all.iter().find(|test| test.name == name);
        let test = test.ok_or_else(|| eyre!("there is no test `{name}`"))?;
        let (message, code) = match (test.run)(&found) {
            Ok(()) => continue,
            Err(Stop::Skip(message)) => (message, SKIPPED as u8),
            Err(Stop::Fail(message)) => (message, 1),
        };
        println!("{message}");
        return Ok(code);
    }
    Ok(0)
}

/// Starts `program` (this one by default) with arguments and waits for it.
///
/// # Errors
/// When it cannot be started.
pub fn run(program: Option<&Path>, arguments: &[&str]) -> Result<Ended> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut child = Command::new(program.unwrap_or(&own))
        .args(arguments)
        .env("RUST_BACKTRACE", "0")
        // Free memory that the C library keeps for a thread counts as allocated, where a test looks for leaks.
        .env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a child process")?;
    // Read while it runs, or a talkative plug-in fills the pipe and waits for ever.
    let reader = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.map(|mut stream| stream.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).trim().to_owned()
        })
    };
    let out = reader(child.stdout.take().map(|stream| Box::new(stream) as _));
    let err = reader(child.stderr.take().map(|stream| Box::new(stream) as _));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begin.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(Ended::Badly(format!("it did not end within {} s", LIMIT.as_secs())));
        }
        thread::sleep(Duration::from_millis(2));
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    Ok(match (status.code(), status.signal()) {
        (Some(0), _) => Ended::Well(out),
        (Some(SKIPPED), _) => Ended::Skipped(out),
        (_, Some(signal)) => {
            let said = err.lines().rev().find_map(|line| line.strip_prefix("error: "));
            Ended::Badly(said.map_or_else(|| format!("it crashed with signal {signal}"), str::to_owned))
        }
        (Some(code), _) if out.is_empty() && err.is_empty() => Ended::Badly(format!("it ended with exit code {code}")),
        _ => Ended::Badly(if out.is_empty() { err } else { out }),
    })
}

/// What a library holds, by a child.
///
/// # Errors
/// Why it cannot be used.
pub fn components(library: &str) -> Result<Vec<Component>, String> {
    match run(None, &["plugin", "describe", library]) {
        Ok(Ended::Well(text)) => {
            let json: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            Ok(json["components"].as_array().into_iter().flatten().filter_map(from_json).collect())
        }
        Ok(Ended::Skipped(message) | Ended::Badly(message)) => Err(message),
        Err(error) => Err(format!("{error:#}")),
    }
}

/// A component for `--json`.
pub fn to_json(component: &Component) -> Value {
    let Component { id, kind, name, version, vendor, license, description, config_schema } = component;
    let schema: Value = serde_json::from_str(config_schema).unwrap_or_else(|_| Value::from(config_schema.as_str()));
    json!({
        "id": id,
        "kind": kind.id().to_string_lossy(),
        "name": name,
        "version": version,
        "vendor": vendor,
        "license": license,
        "description": description,
        "config_schema": schema,
    })
}

fn from_json(json: &Value) -> Option<Component> {
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let kind = text("kind");
    Some(Component {
        id: text("id"),
        kind: Kind::ALL.into_iter().find(|known| known.id().to_str() == Ok(kind.as_str()))?,
        name: text("name"),
        version: text("version"),
        vendor: text("vendor"),
        license: text("license"),
        description: text("description"),
        config_schema: json["config_schema"].to_string(),
    })
}
