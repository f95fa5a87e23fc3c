//! The progress line: where training is, how fast, and when it will be done.

use std::collections::{BTreeMap, VecDeque};

use crate::format::{duration, number, si};
use crate::history::Row;

/// Steps over which the pace is measured.
const PACE_STEPS: usize = 50;

/// What the next progress line will say. Losses and tokens/s are means over the steps since the last line: those of one step
/// jump, the more so as the loss is weighted by 1/t.
#[derive(Debug, Default)]
pub struct Progress {
    step: Option<u64>,
    total: Option<u64>,
    since_last: BTreeMap<String, (f64, u32)>,
    /// The values of the last [`PACE_STEPS`] steps.
    recent: BTreeMap<String, VecDeque<f64>>,
    attn_mask_ratio: Option<f64>,
    /// (seconds, step) when steps of this process came in.
    pace: VecDeque<(f64, u64)>,
    news: bool,
}

impl Progress {
    /// Notes training metrics that came at `now`, in seconds of any clock.
    pub fn add(&mut self, now: f64, rows: &[Row]) {
        for row in rows {
            match row.name.as_str() {
                "steps_total" => self.total = Some(row.value as u64),
                "attn_mask_ratio" => self.attn_mask_ratio = Some(row.value),
                name => {
                    let (sum, count) = self.since_last.entry(name.to_owned()).or_default();
                    *sum += row.value;
                    *count += 1;
                    let recent = self.recent.entry(name.to_owned()).or_default();
                    recent.push_back(row.value);
                    if recent.len() > PACE_STEPS {
                        recent.pop_front();
                    }
                }
            }
        }
        let Some(step) = rows.iter().map(|row| row.step).max() else { return };
        self.step = Some(step);
        self.news = true;
        if self.pace.back().is_none_or(|(_, last)| *last < step) {
            self.pace.push_back((now, step));
        }
        while self.pace.len() > PACE_STEPS {
            self.pace.pop_front();
        }
    }

    /// The last step that was reported, and the last that there will be.
    pub fn steps(&self) -> (Option<u64>, Option<u64>) {
        (self.step, self.total)
    }

    /// The mean of a metric over the last [`PACE_STEPS`] steps, as far as they are numbers.
    pub fn recent(&self, name: &str) -> Option<f64> {
        let finite: Vec<f64> = self.recent.get(name)?.iter().copied().filter(|value| value.is_finite()).collect();
        (!finite.is_empty()).then(|| finite.iter().sum::<f64>() / finite.len() as f64)
    }

    /// Seconds until the last step at the pace of the last steps; `None` before two steps are in, and at the end.
    pub fn eta(&self) -> Option<f64> {
        let ((start, first), (end, last)) = (*self.pace.front()?, *self.pace.back()?);
        let left = self.total?.checked_sub(last).filter(|left| *left > 0)?;
        let steps = last.checked_sub(first).filter(|steps| *steps > 0)?;
        Some((end - start) / steps as f64 * left as f64)
    }

    /// The line, when a step came since the last one. What is not known is left out.
    pub fn line(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.news) {
            return None;
        }
        let mean = |name: &str| self.since_last.get(name).map(|(sum, count)| sum / f64::from(*count));
        let total = self.total.map(|total| format!("/{total}")).unwrap_or_default();
        let mut parts = vec![format!("step {}{total}", self.step?)];
        parts.extend(mean("loss").map(|loss| format!("loss {}", number(loss))));
        parts.extend(mean("loss_unweighted").map(|loss| format!("unweighted {}", number(loss))));
        parts.extend(mean("tokens_per_s").map(|rate| format!("{} tokens/s", si(rate))));
        parts.extend(self.attn_mask_ratio.map(|ratio| format!("attn_mask_ratio {ratio:.2}")));
        parts.extend(self.eta().map(|seconds| format!("ETA {}", duration(seconds))));
        self.since_last.clear();
        Some(parts.join("  "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::row;

    fn step(step: u64, loss: f64) -> Vec<Row> {
        let values = [
            ("loss", loss),
            ("loss_unweighted", 2.91),
            ("tokens_per_s", 4100.0),
            ("attn_mask_ratio", 0.4),
            ("steps_total", 600.0),
        ];
        values.into_iter().map(|(name, value)| row(name, step, value)).collect()
    }

    #[test]
    fn the_line_shows_step_means_rate_ratio_and_eta() {
        let mut progress = Progress::default();
        for (at, n, loss) in [(0.0, 118, 3.0), (0.4, 119, 3.5), (0.8, 120, 3.736)] {
            progress.add(at, &step(n, loss));
        }
        let wanted = "step 120/600  loss 3.412  unweighted 2.910  4.1k tokens/s  attn_mask_ratio 0.40  ETA 3m12s";
        assert_eq!(progress.line().as_deref(), Some(wanted));
        assert_eq!(progress.line(), None, "nothing new, no line");
    }

    /// A resumed run starts at step 400: its pace is not 400 steps in the first second.
    #[test]
    fn eta_counts_only_steps_that_this_process_saw() {
        let mut progress = Progress::default();
        progress.add(100.0, &step(400, 1.0));
        assert_eq!(progress.eta(), None);
        progress.add(102.0, &step(401, 1.0));
        assert_eq!(progress.eta(), Some(398.0));
    }

    #[test]
    fn eta_follows_the_recent_pace_and_ends_with_the_last_step() {
        let mut progress = Progress::default();
        (0..100).for_each(|n| progress.add(n as f64 * 10.0, &step(n, 1.0)));
        (100..200).for_each(|n| progress.add(1000.0 + n as f64, &step(n, 1.0)));
        assert_eq!(progress.eta(), Some(401.0));
        progress.add(2000.0, &step(600, 1.0));
        assert_eq!(progress.eta(), None);
    }

    #[test]
    fn recent_means_are_of_the_last_steps_and_of_numbers_only() {
        let mut progress = Progress::default();
        (0..100).for_each(|n| progress.add(n as f64, &[row("loss", n, if n < 50 { 9.0 } else { 2.0 })]));
        assert_eq!((progress.recent("loss"), progress.recent("other")), (Some(2.0), None));
        progress.add(100.0, &[row("loss", 100, f64::NAN)]);
        assert_eq!(progress.recent("loss"), Some(2.0));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut progress = Progress::default();
        progress.add(0.0, &[row("loss", 7, f64::NAN)]);
        assert_eq!(progress.line().as_deref(), Some("step 7  loss NaN"));
    }
}
