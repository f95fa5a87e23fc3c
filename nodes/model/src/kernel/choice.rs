//! Operations on rows of logits before a token is chosen: largest value and exponentials.

use crate::kernel::dispatch;

/// The largest of the values; −∞ when there are none.
pub(crate) fn top(values: &[f32]) -> f32 {
    let mut found = f32::NEG_INFINITY;
    top_into(values, &mut found);
    found
}

fn top_into(values: &[f32], found: &mut f32) {
    dispatch! { top_into<S>(values: &[f32], found: &mut f32) {
        let whole = values.len() / S::LANES * S::LANES;
        // SAFETY: `whole` vectors lie inside both slices.
        unsafe {
            let mut tops = S::splat(f32::NEG_INFINITY);
            for i in (0..whole).step_by(S::LANES) {
                tops = tops.max(S::load(values.as_ptr().add(i)));
            }
            *found = values[whole..].iter().fold(tops.top(), |a, &b| a.max(b));
        }
    }}
}

/// Writes e^((x − top)·scale) of each value into `to` (as long as `values`); returns their sum. −∞ gives 0.
pub(crate) fn exponentials(values: &[f32], top: f32, scale: f32, to: &mut [f32]) -> f32 {
    let mut sum = 0.0;
    exponentials_into(values, top, scale, &mut to[..values.len()], &mut sum);
    sum
}

fn exponentials_into(values: &[f32], top: f32, scale: f32, to: &mut [f32], sum: &mut f32) {
    let to = &mut to[..values.len()];
    dispatch! { exponentials_into<S>(values: &[f32], top: f32, scale: f32, to: &mut [f32], sum: &mut f32) {
        let whole = values.len() / S::LANES * S::LANES;
        // SAFETY: `whole` vectors lie inside both slices.
        unsafe {
            let (shift, factor) = (S::splat(top), S::splat(scale));
            let mut sums = S::splat(0.0);
            for i in (0..whole).step_by(S::LANES) {
                let power = S::load(values.as_ptr().add(i)).sub(shift).mul(factor).exp();
                power.store(to.as_mut_ptr().add(i));
                sums = sums.add(power);
            }
            *sum = sums.sum();
        }
        for (to, x) in to[whole..].iter_mut().zip(&values[whole..]) {
            *to = ((x - top) * scale).exp();
            *sum += *to;
        }
    }}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_standard_library_at_any_length() {
        for length in [0, 1, 7, 16, 37, 513] {
            let values: Vec<f32> = (0..length).map(|i| ((i * 37) % 101) as f32 / 7.0 - 6.0).collect();
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(top(&values), largest);
            let mut to = vec![0.0; length];
            let sum = exponentials(&values, largest, 0.7, &mut to);
            let wanted: Vec<f32> = values.iter().map(|x| ((x - largest) * 0.7).exp()).collect();
            assert!(to.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-6));
            assert!((sum - wanted.iter().sum::<f32>()).abs() < 1e-3);
        }
    }

    #[test]
    fn minus_infinity_weighs_nothing() {
        let values = [0.0, f32::NEG_INFINITY, 1.0];
        let mut to = [9.0; 3];
        exponentials(&values, 1.0, 1.0, &mut to);
        assert_eq!(to[1], 0.0);
    }
}
