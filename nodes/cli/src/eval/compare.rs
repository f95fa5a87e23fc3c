//! `difflow eval diff`.

use difflow_eval::diff::compare;
use eyre::Result;

use crate::eval::arguments::Diff;
use crate::eval::compared;
use crate::plugin::table::table;

/// Compares and prints. Errors if a folder has no results or they have nothing in common.
pub fn run(arguments: &Diff) -> Result<()> {
    let found = compare(&arguments.a, &arguments.b)?;
    if arguments.json {
        println!("{:#}", compared(&found));
        return Ok(());
    }
    let rows = found.iter().map(|one| {
        let questions: Vec<String> = one.differing.iter().map(u64::to_string).collect();
        vec![
            one.task.clone(),
            one.metric.strip_suffix(",none").unwrap_or(&one.metric).to_owned(),
            format!("{:.4}", one.a),
            format!("{:.4}", one.b),
            format!("{:+.4} ± {:.4}", one.b - one.a, 1.96 * one.stderr),
            one.only.map_or_else(|| "-".to_owned(), |(a, b)| format!("{a} : {b}")),
            format!("{:.3}", one.p),
            one.questions.to_string(),
            questions.join(" "),
        ]
    });
    let head =
        ["task", "metric", "A", "B", "B - A, 95 %", "only A : only B", "p", "questions", "the first that differ"];
    println!("{}", table(&head, &rows.collect::<Vec<_>>()));
    println!("\np: McNemar's exact test where a question is right or wrong, else of the mean difference.");
    Ok(())
}
