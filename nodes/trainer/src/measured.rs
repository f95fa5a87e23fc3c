//! The metrics of an optimizer step.

use std::time::Duration;

use difflow_schema::Metrics;

use crate::config::Config;
use crate::ranks::Traffic;
use crate::save::Position;
use crate::training::StepReport;

/// What is sent of the exchanges that belong to a step.
pub fn exchanged(step: u64, Traffic { least, most, bytes }: Traffic) -> Metrics {
    Metrics::of_step(step, [("exchange_s_least", least), ("exchange_s_most", most), ("exchange_bytes", bytes)])
}

/// What is sent of a step that `took` so long, `waited` of it for data, and is the `bad`-th in a row without finite numbers; batches were
/// `asked_again` so often since the start.
pub fn measured(
    config: &Config,
    report: &StepReport,
    position: Position,
    (took, waited): (Duration, Duration),
    (bad, asked_again): (u64, u64),
) -> Metrics {
    let seconds = took.as_secs_f64();
    let loss_ar = report.loss_ar.map(|loss| ("loss_ar", loss));
    let alignment = report.alignment.map(|distance| ("alignment_distance", distance));
    let router_loss = report.router_loss.map(|loss| ("router_loss", loss));
    Metrics::of_step(
        position.step,
        [
            ("loss", report.loss),
            ("loss_unweighted", report.loss_unweighted),
            ("masked_share", report.masked_share),
            ("learning_rate", report.learning_rate),
            ("grad_norm", report.grad_norm),
            ("attn_mask_ratio", report.attn_mask_ratio),
            ("tokens_seen", position.tokens_seen as f64),
            ("tokens_per_s", report.tokens as f64 / seconds),
            ("step_s", seconds),
            ("data_wait_s", waited.as_secs_f64()),
            ("bad_steps", bad as f64),
            ("asked_again", asked_again as f64),
            ("positions_read", report.positions_read as f64),
            ("steps_total", config.steps as f64),
        ]
        .into_iter()
        .chain(loss_ar)
        .chain(alignment)
        .chain(router_loss),
    )
}
