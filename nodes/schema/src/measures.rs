//! Every number that nodes send in metrics/1 or write to a results file, declared once: its name, unit and meaning,
//! which direction is better, and where it is shown. docs/EDGES.md, the monitor's final screen and report, `difflow runs`
//! and `difflow report`, and the checkpointer's ranking are generated from this table.

/// The monitor's input that brings a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the trainer.
    Training,
    /// From the evaluator; also in `scores/step-N.json`.
    Scores,
    /// From the sampler; also in `samples/step-N.json`.
    Sampling,
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nats per (maskable) token.
    NatsPerToken,
    /// Nats.
    Nats,
    /// Between 0 and 1; shown in percent.
    Share,
    /// Seconds.
    Seconds,
    /// Training tokens.
    Tokens,
    /// Training tokens a second.
    TokensPerSecond,
    /// A plain number.
    Number,
}

/// Which way is better, where one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// One number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measure {
    /// Its name in metrics/1 and in files.
    pub name: &'static str,
    pub source: Source,
    pub unit: Unit,
    pub better: Option<Better>,
    /// What it is, in a table.
    pub label: &'static str,
    /// What it means.
    pub what: &'static str,
    /// Whether `difflow report` has a row of it, before and after training.
    pub reported: bool,
    /// The heading of its column in `difflow runs`; empty for none.
    pub column: &'static str,
    /// The row that it has in the final screen and in report.html, if it has one.
    pub figure: Option<Figure>,
}

/// A row of the final screen: a number before and after training, and what stands beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The number of the base model, read left to right, that it is compared with.
    pub base: Option<&'static str>,
    /// Its standard error.
    pub error: Option<&'static str>,
    /// How many things it is of.
    pub count: Option<&'static str>,
    /// The number that the base model is compared with instead, where it was measured.
    pub comparable: Option<&'static str>,
}

const FIGURE: Figure = Figure { base: None, error: None, count: None, comparable: None };

impl Unit {
    /// In words; empty for a plain number.
    pub fn name(self) -> &'static str {
        match self {
            Self::NatsPerToken => "nats per token",
            Self::Nats => "nats",
            Self::Share => "share",
            Self::Seconds => "seconds",
            Self::Tokens => "tokens",
            Self::TokensPerSecond => "tokens a second",
            Self::Number => "",
        }
    }
}

impl Source {
    /// The name of the monitor's input.
    pub fn input(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Scores => "scores",
            Self::Sampling => "sampling",
        }
    }
}

impl Measure {
    const fn new(source: Source, name: &'static str, unit: Unit, label: &'static str, what: &'static str) -> Self {
        Self { name, source, unit, better: None, label, what, reported: false, column: "", figure: None }
    }

    const fn training(name: &'static str, unit: Unit, what: &'static str) -> Self {
        Self::new(Source::Training, name, unit, name, what)
    }

    const fn scores(name: &'static str, unit: Unit, label: &'static str, what: &'static str) -> Self {
        Self::new(Source::Scores, name, unit, label, what)
    }

    const fn sampling(name: &'static str, unit: Unit, label: &'static str, what: &'static str) -> Self {
        Self::new(Source::Sampling, name, unit, label, what)
    }

    const fn lower(self) -> Self {
        Self { better: Some(Better::Lower), ..self }
    }

    const fn higher(self) -> Self {
        Self { better: Some(Better::Higher), ..self }
    }

    const fn reported(self) -> Self {
        Self { reported: true, ..self }
    }

    const fn column(self, column: &'static str) -> Self {
        Self { column, ..self }
    }

    const fn figure(self, figure: Figure) -> Self {
        Self { figure: Some(figure), ..self }
    }

    /// What it is, with its unit.
    pub fn title(&self) -> String {
        match self.unit {
            Unit::NatsPerToken | Unit::Nats => format!("{}, {}", self.label, self.unit.name()),
            _ => self.label.to_owned(),
        }
    }
}

/// Every number, in the order in which tables show them.
pub const MEASURES: &[Measure] = &[
    Measure::training(
        "loss",
        Unit::NatsPerToken,
        "weighted loss per maskable token: the bound itself under PRESET recommended; AR: cross-entropy",
    )
    .lower()
    .column("loss"),
    Measure::training("loss_unweighted", Unit::Nats, "mean cross-entropy of the positions that carried loss")
        .lower(),
    Measure::training(
        "loss_ar",
        Unit::NatsPerToken,
        "OBJECTIVE: block with AR_WEIGHT: mean cross-entropy of the next tokens of the clean texts, without its weight",
    )
    .lower(),
    Measure::training(
        "alignment_distance",
        Unit::Number,
        "ALIGN_WEIGHT: mean over masked tokens and layers of 1 − cosine of the hidden states and the base model's",
    )
    .lower(),
    Measure::training(
        "router_loss",
        Unit::Number,
        "ROUTER_WEIGHT: load-balancing loss of the routers, without its weight; the number of experts of a token where all have as much to do",
    )
    .lower(),
    Measure::training("masked_share", Unit::Share, "of what could carry loss, what did"),
    Measure::training("attn_mask_ratio", Unit::Share, "how much of the right-hand side is visible"),
    Measure::training("learning_rate", Unit::Number, "learning rate of the step"),
    Measure::training("grad_norm", Unit::Number, "norm of the gradient before clipping"),
    Measure::training("tokens_seen", Unit::Tokens, "training tokens so far, padding not counted")
        .column("tokens"),
    Measure::training("tokens_per_s", Unit::TokensPerSecond, "tokens of the step by its seconds").higher(),
    Measure::training(
        "positions_read",
        Unit::Tokens,
        "positions that the forwards of the step read, padding not counted: with OBJECTIVE: block a text stands twice, noised and clean, \
         and counts once in tokens_seen and tokens_per_s, twice here",
    ),
    Measure::training("step_s", Unit::Seconds, "of the step, waiting included"),
    Measure::training("data_wait_s", Unit::Seconds, "of the step in which the trainer waited for data"),
    Measure::training(
        "exchange_s_least",
        Unit::Seconds,
        "with several ranks: of the step in which the rank with the least of it exchanged with the others, or waited for them to",
    ),
    Measure::training("exchange_s_most", Unit::Seconds, "the same of the rank with the most of it"),
    Measure::training("exchange_bytes", Unit::Number, "with several ranks: bytes that all of them sent in the step"),
    Measure::training("bad_steps", Unit::Number, "steps in a row whose loss or gradient was not a number"),
    Measure::training("checkpoint_stall_s", Unit::Seconds, "for which training stood still for the checkpoint"),
    Measure::training("asked_again", Unit::Number, "batches asked for once more because a message was lost"),
    Measure::training("steps_total", Unit::Number, "STEPS"),
    Measure::scores(
        "nelbo",
        Unit::NatsPerToken,
        "validation NELBO",
        "bound on the negative log-likelihood of held-out documents, given the length of each",
    )
    .lower()
    .reported()
    .column("nelbo")
    .figure(Figure {
        base: Some("ar_loss"),
        error: Some("nelbo_stderr"),
        comparable: Some("nelbo_with_length"),
        ..FIGURE
    }),
    Measure::scores(
        "nelbo_with_length",
        Unit::NatsPerToken,
        "validation NELBO with length",
        "`nelbo` and the cost of the lengths (their entropy in the training set): what compares with `ar_loss`",
    )
    .lower()
    .reported()
    .figure(Figure { base: Some("ar_loss"), error: Some("nelbo_stderr"), ..FIGURE }),
    Measure::scores("nelbo_stderr", Unit::NatsPerToken, "standard error of the NELBO", "standard error of `nelbo`"),
    Measure::scores(
        "own_ar_loss",
        Unit::NatsPerToken,
        "loss of the checkpoint left to right",
        "OBJECTIVE: block with AR_WEIGHT: loss of the checkpoint itself left to right on the same documents, their ends included",
    )
    .lower()
    .reported()
    .figure(Figure { base: Some("ar_loss"), ..FIGURE }),
    Measure::scores(
        "ar_loss",
        Unit::NatsPerToken,
        "loss left to right",
        "of the base model (step 0), and of a checkpoint with OBJECTIVE: ar: loss left to right on the same documents, their ends (and so \
         their lengths) included",
    )
    .lower()
    .reported()
    .figure(FIGURE),
    Measure::scores(
        "infill_exact_match",
        Unit::Share,
        "gaps infilled exactly",
        "gaps filled exactly, both sides visible",
    )
    .higher()
    .reported()
    .column("infill")
    .figure(Figure { base: Some("ar_infill_exact_match"), ..FIGURE }),
    Measure::scores(
        "ar_infill_exact_match",
        Unit::Share,
        "gaps infilled exactly by the base model",
        "step 0: gaps that the base model fills exactly, left side only",
    )
    .higher()
    .reported(),
    Measure::scores(
        "task_score",
        Unit::Share,
        "questions of TASKS answered right",
        "mean over TASKS of the first figure of each that is a share; the figures themselves are `task/NAME/METRIC`, of the base model \
         `base/NAME/METRIC`",
    )
    .higher()
    .reported(),
    Measure::sampling(
        "pass_rate",
        Unit::Share,
        "samples that pass the checker",
        "texts from nothing, or answers, that the checker passes",
    )
    .higher()
    .reported()
    .column("pass rate")
    .figure(Figure { count: Some("samples_checked"), ..FIGURE }),
    Measure::sampling("ended_rate", Unit::Share, "answers that end", "answers that end by themselves").higher().reported().figure(FIGURE),
    Measure::sampling("samples_checked", Unit::Number, "texts checked", "how many were checked").reported(),
    Measure::sampling("distinct_1", Unit::Share, "distinct words", "distinct words in the texts from nothing"),
    Measure::sampling("distinct_2", Unit::Share, "distinct word pairs", "distinct word pairs").reported(),
    Measure::sampling("distinct_3", Unit::Share, "distinct word triples", "distinct word triples"),
    Measure::sampling("entropy", Unit::Nats, "entropy of the tokens of a text", "entropy of their tokens"),
    Measure::sampling("repetition", Unit::Share, "repeated runs of four tokens", "their tokens that repeat").lower(),
    Measure::sampling("nfe", Unit::Number, "forwards a text", "forward passes per text, in the mean")
        .lower()
        .figure(FIGURE),
    Measure::sampling(
        "judge_perplexity",
        Unit::Number,
        "perplexity of the texts under the judge",
        "perplexity of the texts under JUDGE, read left to right",
    )
    .lower()
    .reported(),
];

/// A checkpoint is ranked by the first of these that it was scored with.
pub const RANKED_BY: [&str; 2] = ["nelbo", "ar_loss"];

/// Returns the number of that name, if it is one of ours: plug-ins and later versions may have others.
pub fn measure(name: &str) -> Option<&'static Measure> {
    MEASURES.iter().find(|measure| measure.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A metric that is declared twice, or that stands beside one that is not there, would be shown wrongly somewhere.
    #[test]
    fn every_metric_is_declared_once_and_so_is_what_stands_beside_it() {
        let names: BTreeSet<&str> = MEASURES.iter().map(|measure| measure.name).collect();
        assert_eq!(names.len(), MEASURES.len());
        for figure in MEASURES.iter().filter_map(|measure| measure.figure) {
            let beside = [figure.base, figure.error, figure.count, figure.comparable];
            assert!(beside.into_iter().flatten().all(|name| names.contains(name)), "{figure:?}");
        }
        assert!(RANKED_BY.iter().all(|name| measure(name).is_some_and(|one| one.better == Some(Better::Lower))));
    }
}
