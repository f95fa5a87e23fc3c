//! Decoding: clean positions stay, masked ones are filled, and a sequence does not depend on the batch it is in.

use difflow_model::{Budget, Canvas, DiffusionDecoding, Generation, Model, Pattern, Prompt, Reveals, Sampling, Score};

use crate::support::{GPT2, LLAMA, QWEN3, model, tokens};

fn alpha(t: f64) -> f64 {
    1.0 - t
}

const ALL: [Reveals; 6] = [
    Reveals::Random { steps: 1 },
    Reveals::Random { steps: 8 },
    Reveals::Confidence { score: Score::Probability, budget: Budget::Steps(5) },
    Reveals::Confidence { score: Score::Margin, budget: Budget::PerStep(2) },
    Reveals::Confidence { score: Score::Entropy, budget: Budget::PerStep(1) },
    Reveals::Confidence { score: Score::Probability, budget: Budget::Steps(100) },
];

fn options(reveals: Reveals, shift: bool) -> DiffusionDecoding {
    let sampling = Sampling { temperature: 0.9, top_p: 0.9, top_k: None };
    DiffusionDecoding { reveals, sampling, seed: 3, shift }
}

/// Canvases of different lengths with gaps anywhere but at the anchor.
fn canvases() -> Vec<Canvas> {
    let lengths = [14usize, 9, 14, 20, 1, 6, 14, 11];
    let canvas = |(key, &length): (usize, &usize)| {
        let tokens = tokens(length, key as u64);
        let masked = (0..length).map(|i| i > 0 && !(tokens[i] + i as u32).is_multiple_of(3)).collect();
        Canvas { tokens, masked, key: key as u64 }
    };
    lengths.iter().enumerate().map(canvas).collect()
}

#[test]
fn clean_positions_stay_and_masked_ones_are_filled_once() {
    for (json, shift) in [(LLAMA, true), (LLAMA, false), (GPT2, true), (QWEN3, true)] {
        let model = model(json, true);
        let mask = model.config().mask_token_id().unwrap();
        for reveals in ALL {
            let decoded = model.decode(&canvases(), &options(reveals, shift), &alpha).unwrap();
            for (canvas, decoded) in canvases().iter().zip(decoded) {
                let holes = canvas.masked.iter().filter(|&&m| m).count();
                assert!(!decoded.tokens.contains(&mask) && decoded.tokens.len() == canvas.tokens.len());
                for (i, &token) in decoded.tokens.iter().enumerate() {
                    assert!(canvas.masked[i] || token == canvas.tokens[i]);
                }
                let mut places: Vec<u32> = decoded.history.iter().map(|r| r.position).collect();
                places.sort_unstable();
                places.dedup();
                assert_eq!((places.len(), decoded.history.len()), (holes, holes));
                assert!(decoded.history.windows(2).all(|pair| pair[0].step <= pair[1].step));
                let most = match reveals {
                    Reveals::Random { steps } => steps as usize,
                    Reveals::Confidence { budget: Budget::Steps(steps), .. } => holes.min(steps as usize),
                    Reveals::Confidence { budget: Budget::PerStep(k), .. } => holes.div_ceil(k as usize),
                };
                assert!(decoded.nfe as usize <= most, "{reveals:?}: {} of {most}", decoded.nfe);
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    for json in [LLAMA, GPT2] {
        let model = model(json, true);
        for reveals in ALL {
            let together = model.decode(&canvases(), &options(reveals, true), &alpha).unwrap();
            for (canvas, row) in canvases().iter().zip(together) {
                let alone = model.decode(std::slice::from_ref(canvas), &options(reveals, true), &alpha).unwrap();
                assert_eq!(alone, [row], "{reveals:?}");
            }
        }
    }
}

/// method.md: from t to s a masked position is revealed with probability (α(s)−α(t))/(1−α(t)).
#[test]
fn random_reveals_follow_the_schedule() {
    let model = model(LLAMA, true);
    let canvases: Vec<Canvas> = (0..40).map(|key| Canvas::unconditional(1, 50, key)).collect();
    let squared = |t: f64| (1.0 - t) * (1.0 - t);
    for alpha in [&alpha as &dyn Fn(f64) -> f64, &squared] {
        let decoded = model.decode(&canvases, &options(Reveals::Random { steps: 4 }, true), alpha).unwrap();
        for step in 0..4 {
            let (t, s) = (1.0 - f64::from(step) / 4.0, 0.75 - f64::from(step) / 4.0);
            let found = decoded.iter().flat_map(|d| &d.history).filter(|r| r.step == step).count() as f64 / 2000.0;
            assert!((found - (alpha(s) - alpha(t))).abs() < 0.035, "step {step}: {found}");
        }
    }
}

/// Greedy decoding one token a step from the left must be what the AR model does, when attention is made causal by order:
/// a canvas with a single hole at its end sees only what lies before it.
#[test]
fn a_single_hole_at_the_end_is_the_shifted_models_next_token() {
    let model = model(GPT2, true);
    let ids = tokens(10, 5);
    let reveals = Reveals::Confidence { score: Score::Probability, budget: Budget::PerStep(1) };
    let greedy = DiffusionDecoding { sampling: Sampling::GREEDY, ..options(reveals, true) };
    let decoded = model.decode(&[Canvas::continuation(&ids, 1, 0)], &greedy, &alpha).unwrap();
    let mut masked = ids.clone();
    masked.push(model.config().mask_token_id().unwrap());
    let logits = model.logits(&masked, &Pattern::Full).unwrap();
    let row = &logits[9 * 38..10 * 38 - 1];
    let best = (0..37u32).max_by(|a, b| row[*a as usize].total_cmp(&row[*b as usize])).unwrap();
    assert_eq!(decoded[0].tokens[10], best);
}

#[test]
fn bad_canvases_and_prompts_are_refused() {
    let model = model(GPT2, true);
    let decode = |canvas: Canvas| model.decode(&[canvas], &options(ALL[0], true), &alpha).unwrap_err().to_string();
    assert!(decode(Canvas { tokens: vec![1, 2], masked: vec![true, true], key: 0 }).contains("anchor"));
    assert!(decode(Canvas { tokens: vec![1, 99], masked: vec![false, false], key: 0 }).contains("found 99"));
    assert!(decode(Canvas { tokens: vec![], masked: vec![], key: 0 }).contains("anchor"));
    assert!(decode(Canvas::unconditional(1, 64, 0)).contains("at most 64"));
    let generate = |tokens: Vec<u32>| {
        let prompt = Prompt { tokens, key: 0 };
        model.generate(&[prompt], &generation(&model, 4, Sampling::GREEDY)).unwrap_err().to_string()
    };
    assert!(generate(vec![]).contains("at least one"));
    assert!(generate(vec![77]).contains("found 77"));
    assert!(generate(vec![1; 62]).contains("at most 65"));
}

fn generation(model: &Model, max_new_tokens: usize, sampling: Sampling) -> Generation {
    Generation { max_new_tokens, sampling, seed: 9, stop: model.config().eos_token_ids.clone() }
}

/// The KV cache must not change what is generated: greedy text equals that of a forward over everything at each step.
#[test]
fn cached_generation_equals_uncached() {
    let mistral =
        LLAMA.replace("LlamaForCausalLM", "MistralForCausalLM").replace("\"bos", "\"sliding_window\":6,\"bos");
    for json in [LLAMA, GPT2, QWEN3, &mistral] {
        let model = model(json, true);
        let prompts: Vec<Prompt> =
            [5usize, 3, 9].iter().map(|&n| Prompt { tokens: tokens(n, n as u64), key: 0 }).collect();
        let generated = model.generate(&prompts, &generation(&model, 12, Sampling::GREEDY)).unwrap();
        for (prompt, generated) in prompts.iter().zip(generated) {
            let mut ids = prompt.tokens.clone();
            for &token in &generated.tokens {
                let logits = model.logits(&ids, &Pattern::Causal).unwrap();
                let row = &logits[(ids.len() - 1) * 38..ids.len() * 38 - 1];
                let best = (0..37u32).rev().max_by(|a, b| row[*a as usize].total_cmp(&row[*b as usize])).unwrap();
                assert_eq!(token, best);
                ids.push(token);
            }
            assert!(generated.stopped || generated.tokens.len() == 12);
            assert_eq!(generated.nfe as usize, generated.tokens.len());
        }
    }
}

#[test]
fn generated_text_does_not_depend_on_its_batch_and_ends_at_a_stop_token() {
    let model = model(LLAMA, true);
    let prompts: Vec<Prompt> = (0..8).map(|key| Prompt { tokens: tokens(2 + key as usize % 4, key), key }).collect();
    let sampling = Sampling { temperature: 1.2, top_p: 0.95, top_k: None };
    let mut options = generation(&model, 20, sampling);
    options.stop = vec![4, 5, 6, 7];
    let together = model.generate(&prompts, &options).unwrap();
    assert!(together.iter().any(|text| text.stopped));
    for (prompt, row) in prompts.iter().zip(together) {
        assert_eq!(row.stopped, row.tokens.last().is_some_and(|t| options.stop.contains(t)));
        assert_eq!(model.generate(std::slice::from_ref(prompt), &options).unwrap(), [row]);
    }
}
