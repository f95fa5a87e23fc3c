//! `difflow eval --list`.

use difflow_eval::Places;
use eyre::Result;

/// Prints every task and suite. Errors if a file in it is none.
pub fn run(places: &Places) -> Result<()> {
    for task in places.all()? {
        let metrics: Vec<String> = task.metrics.iter().map(plain).collect();
        let kind = plain(&task.kind);
        println!("{} ({kind}: {})", task.name, metrics.join(", "));
        println!("    {}", task.about.trim().replace('\n', "\n    "));
        println!("    questions: {}", task.source.path);
    }
    for suite in places.suites()? {
        println!("\n--suite {}: {}", suite.name, suite.tasks.join(", "));
        println!("    {}", suite.about.trim().replace('\n', "\n    "));
    }
    Ok(())
}

/// As files spell it.
fn plain(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
