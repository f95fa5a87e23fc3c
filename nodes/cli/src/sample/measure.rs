//! `difflow sample --measure`: quality of many decoding methods, as a table and a picture.

use difflow_inference::{Checker, Decoding, Measuring, Progress, Row, Session};
use difflow_text::read_gaps;
use eyre::{Result, WrapErr, eyre};

use crate::sample::arguments::Arguments;
use crate::sample::picture;

/// Measures and prints; writes the picture. Returns the exit code. Errors if the judge, the checker, the gaps or a text cannot be used.
pub fn run(arguments: &Arguments, decoding: Decoding, session: &Session) -> Result<u8> {
    let judge = arguments.judge.as_ref().map(|path| session.peers().model(path)).transpose().wrap_err("--judge")?;
    let checker = Checker::open(&arguments.checker).wrap_err("--checker")?;
    let mut gaps = arguments.gaps.as_ref().map_or(Ok(Vec::new()), |path| read_gaps(path)).wrap_err("--gaps")?;
    gaps.truncate(arguments.gap_count);
    let measuring = Measuring {
        session,
        judge: judge.as_ref(),
        checker: checker.as_ref(),
        gaps: &gaps,
        decoding,
        count: arguments.count,
        length: arguments.length(session.room_behind(1)),
        rows: arguments.batch,
    };
    if !arguments.json {
        println!("{}", heading());
    }
    let rows = measuring.run(&mut |_: Progress| Ok::<(), eyre::Report>(()), &mut |row| {
        println!("{}", if arguments.json { serde_json::to_string(row)? } else { line(row) });
        Ok(())
    })?;
    if let Some(path) = &arguments.picture {
        let svg = picture::draw(&rows).map_err(|e| eyre!("cannot draw the curves: {e}"))?;
        std::fs::write(path, svg).wrap_err_with(|| format!("--picture: cannot write {}", path.display()))?;
    }
    Ok(0)
}

fn heading() -> String {
    format!(
        "{:<30} {:<13} {:>6} {:>7} {:>8} {:>9} {:>7} {:>6} {:>7} {:>6} {:>7} {:>6} {:>7} {:>6} {:>6} {:>6} {:>7} {:>6}",
        "decoder",
        "setting",
        "NFE",
        "NFE/tok",
        "kept/NFE",
        "tokens/s",
        "alone",
        "pass",
        "infill",
        "NFE",
        "compl.",
        "NFE",
        "perpl.",
        "dist-1",
        "dist-2",
        "dist-3",
        "entropy",
        "repet."
    )
}

fn line(row: &Row) -> String {
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0));
    let forwards = |nfe: Option<f64>| nfe.map_or("-".to_owned(), |nfe| format!("{nfe:.1}"));
    format!(
        "{:<30} {:<13} {:>6.1} {:>7.3} {:>8} {:>9.0} {:>7} {:>6} {:>7} {:>6} {:>7} {:>6} {:>7} {:>6.3} {:>6.3} {:>6.3} {:>7.3} {:>6.3}",
        row.family,
        row.setting,
        row.nfe,
        row.forwards_per_token,
        row.accepted_per_forward.map_or("-".to_owned(), |kept| format!("{kept:.2}")),
        row.tokens_per_s,
        row.tokens_per_s_alone.map_or("-".to_owned(), |alone| format!("{alone:.0}")),
        percent(row.pass_rate),
        percent(row.infill_exact_match),
        forwards(row.infill_nfe),
        percent(row.completed_pass_rate),
        forwards(row.completed_nfe),
        row.perplexity.map_or("-".to_owned(), |value| format!("{value:.2}")),
        row.distinct_1,
        row.distinct_2,
        row.distinct_3,
        row.entropy,
        row.repetition,
    )
}
