//! The loss weight of a masked token by the clean context near it ("context-adaptive token-level noise rescheduling", CART: Dream 7B,
//! arXiv 2508.15487, and its public code).

/// Weights of the positions of a row, in the place of w(t): ½ Σ p·(1 − p)^(|n − i| − 1) over the clean positions i ≠ n of the document of
/// n. From 0, where everything is masked, to 1, where nothing else is. With p = 1 only the direct neighbours count, and the smaller p is,
/// the further the context reaches. A loss with these weights bounds no likelihood.
pub fn context_weights(masked: &[bool], documents: &[u32], p: f64) -> Vec<f64> {
    let mut weights = vec![0.0; masked.len()];
    let places = 0..masked.len();
    add_side(places.clone(), masked, documents, p, &mut weights);
    add_side(places.rev(), masked, documents, p, &mut weights);
    weights
}

/// Adds what stands before each place, in the order of the places.
fn add_side(places: impl Iterator<Item = usize>, masked: &[bool], documents: &[u32], p: f64, weights: &mut [f64]) {
    let (mut context, mut document) = (0.0, None);
    for at in places {
        if document != Some(documents[at]) {
            (context, document) = (0.0, Some(documents[at]));
        }
        weights[at] += 0.5 * context;
        context = (1.0 - p) * context + if masked[at] { 0.0 } else { p };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const O: bool = false;
    const X: bool = true;

    fn near(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}, wanted {wanted:?}");
    }

    /// By hand with p = 0.8: a neighbour counts 0.4, one further 0.08, one further 0.016.
    #[test]
    fn weights_are_those_computed_by_hand() {
        near(&context_weights(&[O, X, X, O], &[0; 4], 0.8), &[0.016, 0.4 + 0.08, 0.08 + 0.4, 0.016]);
        near(&context_weights(&[O, X, O], &[0; 3], 1.0), &[0.0, 1.0, 0.0]);
        near(&context_weights(&[X, X, X], &[0; 3], 0.3), &[0.0; 3]);
        near(&context_weights(&[], &[], 0.3), &[]);
    }

    /// The next document's tokens are no context, nor is padding.
    #[test]
    fn only_the_own_document_counts() {
        let documents = [0, 0, 1, 1, u32::MAX, u32::MAX];
        near(&context_weights(&[O, X, X, O, O, O], &documents, 0.5)[..4], &[0.0, 0.25, 0.25, 0.0]);
    }

    /// The double sum of the definition, for every pattern of eight positions.
    #[test]
    fn the_recursion_is_the_sum() {
        let documents = [0, 0, 0, 0, 0, 1, 1, 1];
        for pattern in 0..256u32 {
            let masked: Vec<bool> = (0..8).map(|i| pattern >> i & 1 == 1).collect();
            let wanted: Vec<f64> = (0..8usize)
                .map(|n| {
                    let context = (0..8usize).filter(|&i| i != n && !masked[i] && documents[i] == documents[n]);
                    context.map(|i| 0.5 * 0.3 * 0.7f64.powi(n.abs_diff(i) as i32 - 1)).sum()
                })
                .collect();
            near(&context_weights(&masked, &documents, 0.3), &wanted);
        }
    }
}
