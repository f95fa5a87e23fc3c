//! Samplers against the distribution that they are meant to have, worked out from the model's own probabilities.

use difflow_model::{Canvas, DiffusionDecoding, Model, Pattern, Reveals, Sampling};

use crate::support::model;

const TOY: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":4,"hidden_size":8,"intermediate_size":8,
    "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":2,"max_position_embeddings":16,
    "initializer_range":0.9,"tie_word_embeddings":true,"bos_token_id":0,"eos_token_id":1}"#;
const TOKENS: usize = 4;
const ANCHOR: u32 = 0;

/// p(token at `position` | canvas) of the toy model, the mask left out.
fn conditional(model: &Model, canvas: &[u32], position: usize) -> Vec<f64> {
    let logits = model.logits(canvas, &Pattern::Full).unwrap();
    let row = &logits[(position - 1) * (TOKENS + 1)..][..TOKENS];
    let weights: Vec<f64> = row.iter().map(|&x| f64::from(x).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// Probability of every pair of tokens at positions 1 and 2. `together` is the probability that one forward reveals both; else
/// either comes first with equal chance.
fn exact(model: &Model, together: f64) -> Vec<f64> {
    let mask = model.config().mask_token_id().unwrap();
    let both = [conditional(model, &[ANCHOR, mask, mask], 1), conditional(model, &[ANCHOR, mask, mask], 2)];
    let mut pairs = Vec::new();
    for a in 0..TOKENS {
        for b in 0..TOKENS {
            let then_b = conditional(model, &[ANCHOR, a as u32, mask], 2)[b];
            let then_a = conditional(model, &[ANCHOR, mask, b as u32], 1)[a];
            let apart = 0.5 * both[0][a] * then_b + 0.5 * both[1][b] * then_a;
            pairs.push(together * both[0][a] * both[1][b] + (1.0 - together) * apart);
        }
    }
    pairs
}

fn chi_square(model: &Model, reveals: Reveals, wanted: &[f64]) -> f64 {
    let count = 6000;
    let canvases: Vec<Canvas> = (0..count).map(|key| Canvas::unconditional(ANCHOR, 2, key)).collect();
    let options =
        DiffusionDecoding { reveals, seed: 11, sampling: Sampling::default(), ..DiffusionDecoding::default() };
    let mut found = [0.0; TOKENS * TOKENS];
    for one in model.decode(&canvases, &options).unwrap() {
        found[one.tokens[1] as usize * TOKENS + one.tokens[2] as usize] += 1.0;
    }
    found.iter().zip(wanted).map(|(f, w)| (f - w * count as f64).powi(2) / (w * count as f64)).sum()
}

/// 15 degrees of freedom: beyond 37.7 once in a thousand. The draws are keyed, so this fails always or never.
#[test]
fn first_hitting_has_the_distribution_of_random_with_ever_smaller_steps() {
    let model = model(TOY, true);
    let apart = exact(&model, 0.0);
    assert!((apart.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    // Under the linear schedule each of T steps is equally likely to be a position's: both have the same one in 1/T of cases.
    for (reveals, steps) in [(Reveals::Random { steps: 200 }, 200.0), (Reveals::Random { steps: 1 }, 1.0)] {
        let found = chi_square(&model, reveals, &exact(&model, 1.0 / steps));
        assert!(found < 37.7, "{reveals:?}: {found}");
    }
    let found = chi_square(&model, Reveals::FirstHitting, &apart);
    assert!(found < 37.7, "first hitting: {found}");
    // The test can tell the two apart: positions revealed together do not know of each other.
    let found = chi_square(&model, Reveals::Random { steps: 1 }, &apart);
    assert!(found > 60.0, "one step looks like many: {found}");
}
