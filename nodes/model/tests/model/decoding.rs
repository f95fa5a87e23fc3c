//! Decoding: clean positions stay, masked ones are filled, and a sequence does not depend on the batch it is in.

use difflow_model::{
    Arithmetic, Budget, Caching, Canvas, Decoded, DiffusionDecoding, Generation, Model, Pattern, Prompt, Reveal,
    Reveals, Sampling, Score,
};

use crate::support::{GPT2, LLAMA, OTHERS, QWEN3, distance, model, tokens};

const ALL: [Reveals; 14] = [
    Reveals::Random { steps: 1 },
    Reveals::Random { steps: 8 },
    Reveals::Confidence { score: Score::Probability, budget: Budget::Steps(5) },
    Reveals::Confidence { score: Score::Margin, budget: Budget::PerStep(2) },
    Reveals::Confidence { score: Score::Entropy, budget: Budget::PerStep(1) },
    Reveals::Confidence { score: Score::Probability, budget: Budget::Steps(100) },
    Reveals::FirstHitting,
    Reveals::Threshold { score: Score::Probability, threshold: 0.3, window: None },
    Reveals::Threshold { score: Score::Probability, threshold: 0.1, window: Some(3) },
    Reveals::Threshold { score: Score::Margin, threshold: 0.0, window: None },
    Reveals::Threshold { score: Score::Probability, threshold: 1.0, window: Some(2) },
    Reveals::EntropyBound { bound: 0.0 },
    Reveals::EntropyBound { bound: 3.0 },
    Reveals::Stable { divergence: 0.3, threshold: 0.1, forwards: 1 },
];

fn options(reveals: Reveals, shift: bool) -> DiffusionDecoding {
    let sampling = Sampling { temperature: 0.9, top_p: 0.9, top_k: Some(30), repetition_penalty: 1.1 };
    DiffusionDecoding { reveals, sampling, seed: 3, shift, ..DiffusionDecoding::default() }
}

/// All ways to split the work: without and with blocks, caches and guidance.
fn ways(reveals: Reveals, shift: bool) -> Vec<DiffusionDecoding> {
    let plain = options(reveals, shift);
    let block = DiffusionDecoding { block: Some(4), ..plain.clone() };
    let prefix = DiffusionDecoding { cache: Caching::Prefix, ..block.clone() };
    let dual = DiffusionDecoding { cache: Caching::Dual, refresh: Some(3), ..block.clone() };
    let guided = DiffusionDecoding { guidance: 0.5, ..dual.clone() };
    vec![plain, block, prefix, dual, guided]
}

/// Tokens, forwards and order; probabilities may differ in the last bits between batches.
fn course(decoded: &Decoded) -> (Vec<u32>, Vec<[u32; 3]>) {
    let order = decoded.history.iter().map(|r| [r.step, r.position, r.token]).collect();
    ([decoded.tokens.clone(), vec![decoded.nfe]].concat(), order)
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
        for options in ALL.iter().flat_map(|&reveals| ways(reveals, shift)) {
            let decoded = model.decode(&canvases(), &options).unwrap();
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
                assert!(decoded.history.iter().all(|r| r.probability > 0.0 && r.probability <= 1.0));
                // Guidance reads twice; the share of each block is rounded to at least one step.
                let sides = if options.guidance == 0.0 { 1 } else { 2 };
                let blocks = options.block.map_or(1, |_| holes);
                let most = match options.reveals {
                    Reveals::Random { steps } | Reveals::Confidence { budget: Budget::Steps(steps), .. } => {
                        holes.min(blocks.max(steps as usize))
                    }
                    Reveals::Confidence { budget: Budget::PerStep(k), .. } if blocks == 1 => holes.div_ceil(k as usize),
                    _ => holes,
                };
                assert!(decoded.nfe as usize <= sides * most, "{options:?}: {} of {most}", decoded.nfe);
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    for json in [LLAMA, GPT2] {
        let model = model(json, true);
        for options in ALL.iter().flat_map(|&reveals| ways(reveals, true)) {
            let together = model.decode(&canvases(), &options).unwrap();
            for (canvas, row) in canvases().iter().zip(&together) {
                let alone = model.decode(std::slice::from_ref(canvas), &options).unwrap();
                assert_eq!(course(&alone[0]), course(row), "{options:?}");
            }
        }
    }
}

/// A cache may save work and not change what is written, as long as nothing in it is stale: refreshed at every step.
#[test]
fn cached_decoding_equals_uncached_when_refreshed_every_step() {
    for (json, shift) in [(LLAMA, true), (LLAMA, false), (GPT2, true), (QWEN3, true)] {
        let model = model(json, true);
        for reveals in ALL {
            let plain = DiffusionDecoding { block: Some(5), ..options(reveals, shift) };
            let wanted = model.decode(&canvases(), &plain).unwrap();
            for cache in [Caching::Prefix, Caching::Dual] {
                let cached = DiffusionDecoding { cache, refresh: Some(1), ..plain.clone() };
                let found = model.decode(&canvases(), &cached).unwrap();
                for (wanted, found) in wanted.iter().zip(&found) {
                    assert_eq!(course(wanted), course(found), "{cache:?} {reveals:?}");
                }
            }
        }
    }
}

/// A cache that is not refreshed holds keys and values of positions that have changed since: the probabilities show it. Equal ones would
/// mean that nothing is cached, and the test above compares a decoder with itself.
#[test]
fn a_cache_that_is_not_refreshed_is_stale() {
    let model = model(LLAMA, true);
    let block = DiffusionDecoding { block: Some(5), ..DiffusionDecoding::surest_first(true) };
    let wanted = model.decode(&canvases(), &block).unwrap();
    for cache in [Caching::Prefix, Caching::Dual] {
        let found = model.decode(&canvases(), &DiffusionDecoding { cache, ..block.clone() }).unwrap();
        assert!(wanted != found, "{cache:?}");
    }
}

/// What stands to the right of a gap has its part in how probable the filling is: a decoder that reads from the left would not see it.
#[test]
fn the_right_side_of_a_gap_changes_what_is_written_into_it() {
    for json in [LLAMA, GPT2, QWEN3] {
        let model = model(json, true);
        for options in ways(Reveals::Confidence { score: Score::Probability, budget: Budget::PerStep(1) }, true) {
            let probabilities = |last: u32| {
                let mut tokens = tokens(12, 3);
                tokens[11] = last;
                let canvas = Canvas { tokens, masked: (0..12).map(|at| (4..7).contains(&at)).collect(), key: 0 };
                let decoded = model.decode(&[canvas], &options).unwrap().remove(0);
                decoded.history.iter().map(|reveal| reveal.probability).collect::<Vec<f32>>()
            };
            assert!(distance(&probabilities(5), &probabilities(6)) > 1e-4, "{json} {options:?}");
        }
    }
}

/// Each step reveals its share of the grid. Decoding ran training's noise schedule backwards: 40 % of a text was revealed in the
/// last step under a `clipped` one, 13 % under a polynomial of power 0.5.
#[test]
fn every_step_of_random_reveals_its_share_of_the_grid_and_the_last_no_more() {
    let model = model(LLAMA, true);
    let canvases: Vec<Canvas> = (0..40).map(|key| Canvas::unconditional(1, 50, key)).collect();
    for steps in [4, 10] {
        let decoded = model.decode(&canvases, &options(Reveals::Random { steps }, true)).unwrap();
        let share = 1.0 / f64::from(steps);
        for step in 0..steps {
            let found = decoded.iter().flat_map(|d| &d.history).filter(|r| r.step == step).count() as f64 / 2000.0;
            // Four standard deviations of 2000 draws.
            assert!((found - share).abs() < 4.0 * (share / 2000.0).sqrt(), "step {step} of {steps}: {found}");
        }
    }
}

/// Greedy decoding one token a step from the left must be what the AR model does, when attention is made causal by order:
/// a canvas with a single hole at its end sees only what lies before it.
#[test]
fn a_single_hole_at_the_end_is_the_shifted_models_next_token() {
    let model = model(GPT2, true);
    let ids = tokens(10, 5);
    let greedy = DiffusionDecoding::surest_first(true);
    let decoded = model.decode(&[Canvas::continuation(&ids, 1, 0)], &greedy).unwrap();
    let mut masked = ids.clone();
    masked.push(model.config().mask_token_id().unwrap());
    let logits = model.logits(&masked, &Pattern::Full).unwrap();
    let row = &logits[9 * 38..10 * 38 - 1];
    let best = (0..37u32).max_by(|a, b| row[*a as usize].total_cmp(&row[*b as usize])).unwrap();
    assert_eq!(decoded[0].tokens[10], best);
}

/// Both sides are in view, and of the left no more than the window, as in training. Decoding did not know of windows: a Mistral with
/// one shorter than the canvas gave 0.112 where training's pattern gives 0.147.
#[test]
fn decoding_sees_what_training_sees_through_a_sliding_window() {
    let mistral =
        LLAMA.replace("LlamaForCausalLM", "MistralForCausalLM").replace("\"bos", "\"sliding_window\":4,\"bos");
    let mut model = model(&mistral, true);
    let options = DiffusionDecoding {
        reveals: Reveals::Random { steps: 1 },
        sampling: Sampling::GREEDY,
        ..DiffusionDecoding::default()
    };
    let cached = DiffusionDecoding { block: Some(30), cache: Caching::Dual, ..options.clone() };
    for kernels in [true, false] {
        model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
        for options in [&options, &cached] {
            for canvas in canvases() {
                let mut masked = canvas.tokens.clone();
                (0..masked.len()).filter(|&at| canvas.masked[at]).for_each(|at| masked[at] = 37);
                let logits = model.logits(&masked, &Pattern::Full).unwrap();
                for reveal in model.decode(&[canvas], options).unwrap().remove(0).history {
                    let row = &logits[(reveal.position as usize - 1) * 38..][..37];
                    let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                    let wanted = f64::from(row[reveal.token as usize]).exp() / total;
                    assert!(
                        (f64::from(reveal.probability) - wanted).abs() < 1e-5,
                        "{reveal:?}: training sees {wanted}"
                    );
                }
            }
        }
    }
}

#[test]
fn bad_canvases_and_prompts_are_refused() {
    let model = model(GPT2, true);
    let decode = |canvas: Canvas| model.decode(&[canvas], &options(ALL[0], true)).unwrap_err().to_string();
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
    for json in [LLAMA, GPT2, QWEN3, &mistral].into_iter().chain(OTHERS) {
        let model = model(json, true);
        let prompts: Vec<Prompt> =
            [5usize, 3, 9].iter().map(|&n| Prompt { tokens: tokens(n, n as u64), key: 0 }).collect();
        let generated = model.generate(&prompts, &generation(&model, 12, Sampling::GREEDY)).unwrap();
        for (prompt, generated) in prompts.iter().zip(generated) {
            let mut ids = prompt.tokens.clone();
            for &token in &generated.tokens {
                // As long as the text may become: what rotary embeddings may go by.
                let mut whole = ids.clone();
                whole.resize(prompt.tokens.len() + 11, 3);
                let logits = model.logits(&whole, &Pattern::Causal).unwrap();
                let row = &logits[(ids.len() - 1) * 38..ids.len() * 38 - 1];
                let best = (0..37u32).rev().max_by(|a, b| row[*a as usize].total_cmp(&row[*b as usize])).unwrap();
                assert_eq!(token, best, "{json}");
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
    let sampling = Sampling { temperature: 1.2, top_p: 0.95, ..Sampling::default() };
    let mut options = generation(&model, 20, sampling);
    options.stop = vec![4, 5, 6, 7];
    let together = model.generate(&prompts, &options).unwrap();
    assert!(together.iter().any(|text| text.stopped));
    for (prompt, row) in prompts.iter().zip(together) {
        assert_eq!(row.stopped, row.tokens.last().is_some_and(|t| options.stop.contains(t)));
        assert_eq!(model.generate(std::slice::from_ref(prompt), &options).unwrap(), [row]);
    }
}

#[test]
fn first_hitting_reveals_one_position_a_forward_in_any_order() {
    let model = model(LLAMA, true);
    let canvases: Vec<Canvas> = (0..60).map(|key| Canvas::unconditional(1, 4, key)).collect();
    let decoded = model.decode(&canvases, &options(Reveals::FirstHitting, true)).unwrap();
    let mut first = [0; 5];
    for one in &decoded {
        assert_eq!((one.nfe, one.history.len()), (4, 4));
        first[one.history[0].position as usize] += 1;
    }
    assert!(first[1..].iter().all(|&n| n >= 5), "{first:?}");
}

/// Threshold 0 reveals everything at once, one above every probability a single position a step.
#[test]
fn the_threshold_decides_between_one_step_and_one_position_a_step() {
    let model = model(LLAMA, true);
    let at = |threshold| {
        let reveals = Reveals::Threshold { score: Score::Probability, threshold, window: None };
        model.decode(&[Canvas::unconditional(1, 12, 0)], &options(reveals, true)).unwrap().remove(0).nfe
    };
    assert_eq!((at(0.0), at(1.0)), (1, 12));
    let between = at(0.05);
    assert!((2..12).contains(&between), "{between}");
}

/// What is not sure is revealed among the leftmost masked positions of the window only: with one place from left to right.
/// What is sure is revealed anywhere.
#[test]
fn a_window_keeps_unsure_positions_in_order() {
    let model = model(LLAMA, true);
    let decode = |threshold, window| {
        let reveals = Reveals::Threshold { score: Score::Probability, threshold, window };
        model.decode(&[Canvas::unconditional(1, 24, 5)], &options(reveals, true)).unwrap().remove(0)
    };
    let places = |one: Decoded| one.history.iter().map(|reveal| reveal.position).collect::<Vec<_>>();
    assert_eq!(places(decode(2.0, Some(1))), (1..25).collect::<Vec<_>>());
    assert_eq!(decode(2.0, Some(100)), decode(2.0, None));
    for (window, threshold) in [(3, 2.0), (3, 0.06), (6, 0.06)] {
        let one = decode(threshold, Some(window));
        let mut masked: Vec<u32> = (1..25).collect();
        let mut outside = 0;
        for step in one.history.chunk_by(|a, b| a.step == b.step) {
            let inside = |reveal: &Reveal| masked.iter().take(window).any(|&place| place == reveal.position);
            let unsure: Vec<&Reveal> = step.iter().filter(|reveal| f64::from(reveal.probability) < threshold).collect();
            assert!(
                step.iter().any(inside) && unsure.len() <= 1 && unsure.iter().all(|reveal| inside(reveal)),
                "{step:?}"
            );
            outside += step.iter().filter(|reveal| !inside(reveal)).count();
            masked.retain(|&place| step.iter().all(|reveal| reveal.position != place));
        }
        assert_eq!(outside > 0, threshold < 1.0, "{outside} tokens beyond the window");
    }
}

/// Blocks are finished from left to right, and steps are shared among them.
#[test]
fn blocks_are_filled_from_left_to_right() {
    let model = model(LLAMA, true);
    let reveals = Reveals::Confidence { score: Score::Probability, budget: Budget::Steps(6) };
    let options = DiffusionDecoding { block: Some(4), ..options(reveals, true) };
    let decoded = model.decode(&[Canvas::unconditional(1, 12, 0)], &options).unwrap().remove(0);
    let blocks: Vec<u32> = decoded.history.iter().map(|r| (r.position - 1) / 4).collect();
    assert!(blocks.windows(2).all(|pair| pair[0] <= pair[1]), "{blocks:?}");
    assert_eq!(decoded.nfe, 6);
}

/// What stands behind a stop token in the free end of a canvas is dropped; one inside a gap ends nothing.
#[test]
fn a_stop_token_ends_the_free_end_of_a_canvas_only() {
    let model = model(LLAMA, true);
    let stop: Vec<u32> = (3..12).collect();
    let canvases: Vec<Canvas> = (0..8).map(|key| Canvas::continuation(&tokens(5, key), 20, key)).collect();
    let mut early = 0;
    for reveals in ALL {
        let options = DiffusionDecoding { stop: stop.clone(), ..options(reveals, true) };
        for one in model.decode(&canvases, &options).unwrap() {
            let end = one.tokens[5..].iter().position(|token| stop.contains(token));
            assert_eq!(one.stopped, end.is_some());
            assert_eq!(one.tokens.len(), end.map_or(25, |at| 6 + at));
            assert_eq!(one.history.len(), one.tokens.len() - 5);
            early += usize::from(one.stopped);
        }
        let gap = Canvas { tokens: tokens(20, 1), masked: (0..20).map(|i| (3..17).contains(&i)).collect(), key: 0 };
        let one = model.decode(&[gap], &options).unwrap().remove(0);
        assert_eq!((one.tokens.len(), one.stopped), (20, false));
    }
    assert!(early > 10, "{early} texts were stopped");
}

/// With w = −1 only the side without the given tokens is left: what was given must not matter any more.
#[test]
fn guidance_weighs_the_logits_without_the_given_tokens() {
    let model = model(LLAMA, true);
    let fill = |given: &[u32], guidance: f64| {
        let options = DiffusionDecoding { guidance, ..DiffusionDecoding::surest_first(true) };
        let mut prefix = vec![1];
        prefix.extend(given);
        let decoded = model.decode(&[Canvas::continuation(&prefix, 10, 0)], &options).unwrap().remove(0);
        (decoded.tokens[prefix.len()..].to_vec(), decoded.nfe)
    };
    let (one, another) = (tokens(6, 1), tokens(6, 2));
    assert_ne!(fill(&one, 0.0).0, fill(&another, 0.0).0);
    assert_eq!(fill(&one, -1.0).0, fill(&another, -1.0).0);
    assert_eq!((fill(&one, 0.0).1, fill(&one, -1.0).1), (10, 20));
    // Nothing is given: nothing to weigh, and no second forward.
    assert_eq!(fill(&[], 2.0), fill(&[], 0.0));
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let model = model(LLAMA, true);
    let refused =
        |options: DiffusionDecoding| model.decode(&[Canvas::unconditional(1, 3, 0)], &options).unwrap_err().to_string();
    let base = DiffusionDecoding::default();
    assert!(refused(DiffusionDecoding { block: Some(0), ..base.clone() }).contains("block"));
    assert!(refused(DiffusionDecoding { cache: Caching::Dual, ..base.clone() }).contains("block"));
    let threshold = Reveals::Threshold { score: Score::Probability, threshold: f64::NAN, window: None };
    assert!(refused(DiffusionDecoding { reveals: threshold, ..base.clone() }).contains("threshold"));
    let window = Reveals::Threshold { score: Score::Probability, threshold: 0.9, window: Some(0) };
    assert!(refused(DiffusionDecoding { reveals: window, ..base.clone() }).contains("window"));
    let hot = Sampling { temperature: -1.0, ..Sampling::default() };
    assert!(refused(DiffusionDecoding { sampling: hot, ..base }).contains("temperature"));
}

/// The judge: exp of the mean next-token cross-entropy, whatever the batch.
#[test]
fn perplexity_is_that_of_the_next_tokens() {
    let model = model(LLAMA, false);
    let texts: Vec<Vec<u32>> = [7usize, 3, 1, 12].iter().map(|&n| tokens(n, n as u64)).collect();
    let (mut nats, mut count) = (0.0, 0.0);
    for text in &texts {
        let logits = model.logits(text, &Pattern::Causal).unwrap();
        for at in 1..text.len() {
            let row = &logits[(at - 1) * 37..at * 37];
            let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            nats += total.ln() - f64::from(row[text[at] as usize]);
            count += 1.0;
        }
    }
    let wanted = (nats / count).exp();
    for rows in [1, 3] {
        let found = model.perplexity(&texts, rows).unwrap();
        assert!((found - wanted).abs() < 1e-3 * wanted, "{found} {wanted}");
    }
}
