//! The values of one metric over the steps of a run, in bounded memory.
//!
//! Up to [`LIMIT`] values are kept as they are. Beyond that, a point stands for a span of steps, and the span doubles
//! whenever there would be too many points: a run of a million steps costs as much as one of two thousand.

use serde::ser::{Serialize, SerializeSeq, Serializer};

/// Most points of a series: more than a screen can show.
pub const LIMIT: usize = 1024;

/// What was measured in a span of steps.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    first: u64,
    last: u64,
    sum: f64,
    /// Finite values in `sum`.
    finite: u32,
    low: f64,
    high: f64,
}

/// A point that is not a number is the same as itself: it is not sent to readers again and again.
impl PartialEq for Point {
    fn eq(&self, other: &Self) -> bool {
        let bits = |point: &Self| [point.sum, point.low, point.high].map(f64::to_bits);
        (self.first, self.last, self.finite) == (other.first, other.last, other.finite) && bits(self) == bits(other)
    }
}

impl Point {
    /// What was measured at one step.
    pub fn new(step: u64, value: f64) -> Self {
        let finite = value.is_finite();
        let sum = if finite { value } else { 0.0 };
        Self { first: step, last: step, sum, finite: finite.into(), low: value, high: value }
    }

    /// The last step of the span.
    pub fn step(&self) -> u64 {
        self.last
    }

    /// The mean of the finite values; NaN, or the one value, where there is none.
    pub fn mean(&self) -> f64 {
        match self.finite {
            0 => self.low,
            n => self.sum / f64::from(n),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.last = other.last;
        self.sum += other.sum;
        self.finite += other.finite;
        // min and max prefer a number to NaN.
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
    }
}

/// `[step, mean]`, and `[step, mean, lowest, highest]` of a span in which they differ; null for what is not finite.
impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(&self.last)?;
        // Seven digits are enough for a picture.
        list.serialize_element(&(self.mean() as f32))?;
        if self.low < self.high {
            list.serialize_element(&(self.low as f32))?;
            list.serialize_element(&(self.high as f32))?;
        }
        list.end()
    }
}

/// One metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Steps of a span.
    span: u64,
    points: Vec<Point>,
    first: (u64, f64),
    last: (u64, f64),
}

impl Series {
    /// A series that begins with one value.
    pub fn new(step: u64, value: f64) -> Self {
        Self { span: 1, points: vec![Point::new(step, value)], first: (step, value), last: (step, value) }
    }

    /// Takes a value. A step that is repeated (a resumed run repeats some) replaces what was said of it; where its span holds
    /// other steps too, the span stays as it is.
    pub fn add(&mut self, step: u64, value: f64) {
        if step <= self.first.0 {
            self.first = (step, value);
        }
        if step >= self.last.0 {
            self.last = (step, value);
        }
        let at = self.points.partition_point(|point| point.last < step);
        match self.points.get_mut(at) {
            Some(point) if point.first == step && point.last == step => *point = Point::new(step, value),
            Some(point) if point.first <= step => {}
            _ => self.insert(at, Point::new(step, value)),
        }
    }

    fn insert(&mut self, at: usize, new: Point) {
        match at.checked_sub(1).and_then(|before| self.points.get_mut(before)) {
            Some(before) if before.last / self.span == new.first / self.span => before.merge(&new),
            _ => self.points.insert(at, new),
        }
        while self.points.len() > LIMIT {
            self.span *= 2;
            self.points.dedup_by(|next, kept| {
                let same = next.first / self.span == kept.first / self.span;
                if same {
                    kept.merge(next);
                }
                same
            });
        }
    }

    /// All points in order.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The first value with its step, exactly.
    pub fn first(&self) -> (u64, f64) {
        self.first
    }

    /// The last value with its step, exactly.
    pub fn last(&self) -> (u64, f64) {
        self.last
    }

    /// The value at `step`, if it is still known for itself.
    pub fn at(&self, step: u64) -> Option<f64> {
        if self.last.0 == step {
            return Some(self.last.1);
        }
        self.points.iter().find(|point| point.first == step && point.last == step).map(Point::mean)
    }

    /// `part` over `whole` in each span; both measured at the same steps.
    pub fn shares(part: &Self, whole: &Self) -> Vec<Point> {
        let both =
            part.points.iter().zip(&whole.points).filter(|(part, whole)| part.last == whole.last && whole.sum > 0.0);
        both.map(|(part, whole)| Point {
            first: part.first,
            last: part.last,
            ..Point::new(part.last, part.sum / whole.sum)
        })
        .collect()
    }

    /// Sum of all finite values.
    pub fn sum(&self) -> f64 {
        self.points.iter().map(|point| point.sum).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn series(values: impl IntoIterator<Item = (u64, f64)>) -> Series {
        let mut values = values.into_iter();
        let (step, value) = values.next().unwrap();
        let mut series = Series::new(step, value);
        values.for_each(|(step, value)| series.add(step, value));
        series
    }

    /// The paper's largest run has a million steps; each metric may cost some tens of kilobytes, not tens of megabytes.
    #[test]
    fn a_million_steps_are_at_most_1024_points_and_lose_nothing_of_the_sum() {
        let series = series((1..=1_000_000).map(|step| (step, f64::from(step as u32 % 4))));
        assert!(series.points().len() <= LIMIT && series.points().len() > LIMIT / 4, "{}", series.points().len());
        assert!(series.points.capacity() <= 2 * LIMIT + 2);
        assert_eq!(series.sum(), 1_500_000.0);
        assert_eq!((series.first(), series.last()), ((1, 1.0), (1_000_000, 0.0)));
        let middle = series.points()[100];
        assert_eq!((middle.mean(), middle.low, middle.high), (1.5, 0.0, 3.0));
        assert!(series.points().windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
    }

    #[test]
    fn few_values_far_apart_stay_what_they_are() {
        let series = series((0..900).map(|n| (n * 600, n as f64)));
        assert_eq!(series.points().len(), 900);
        assert_eq!((series.at(600), series.at(601)), (Some(1.0), None));
    }

    #[test]
    fn a_repeated_step_replaces_what_was_said_and_a_late_one_finds_its_place() {
        let short = series([(1, 5.0), (3, 3.0), (2, 4.0), (3, 3.5), (1, 6.0)]);
        let points: Vec<(u64, f64)> = short.points().iter().map(|point| (point.step(), point.mean())).collect();
        assert_eq!(points, [(1, 6.0), (2, 4.0), (3, 3.5)]);
        assert_eq!((short.first(), short.last()), ((1, 6.0), (3, 3.5)));
        // Repeating the second half of a long series counts no step twice.
        let long = series((0..8192).chain(4096..8192).map(|step| (step, 1.0)));
        assert_eq!(long.sum(), 8192.0);
    }

    #[test]
    fn what_is_not_a_number_is_null_and_hides_nothing_beside_it() {
        let series =
            series((0..2 * LIMIT as u64).map(|step| (step, if step < 4 { f64::NAN } else { (step % 2) as f64 })));
        let text = serde_json::to_value(&series.points()[..3]).unwrap();
        assert_eq!(text.to_string(), "[[1,null],[3,null],[5,0.5,0.0,1.0]]");
        assert_eq!(serde_json::to_string(&Point::new(7, f64::INFINITY)).unwrap(), "[7,null]");
    }
}
