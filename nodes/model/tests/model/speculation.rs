//! Self-speculation writes what the autoregressive model writes: the same text greedily, the same distribution else.

use std::collections::BTreeMap;

use difflow_model::{
    Arithmetic, Generation, Model, Pattern, Prompt, Sampling, Speculated, Speculating, Speculation, Start,
};

use crate::support::{GPT2, LLAMA, model, tokens};

/// Three tokens and one that ends a text.
const TOY: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":4,"hidden_size":8,"intermediate_size":8,
    "num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":2,"max_position_embeddings":16,
    "initializer_range":0.9,"tie_word_embeddings":true,"bos_token_id":0,"eos_token_id":1}"#;
const TOY_GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":4,"n_embd":8,"n_layer":1,"n_head":2,
    "n_positions":16,"initializer_range":0.9,"bos_token_id":0,"eos_token_id":1}"#;
const END: u32 = 1;

fn speculation(sampling: Sampling, shift: bool, block: usize) -> Speculation {
    Speculation { sampling, seed: 9, stop: vec![END], shift, block }
}

fn speculate(model: &Model, prompts: &[Prompt], most: usize, options: &Speculation) -> Vec<Speculated> {
    let starts: Vec<Start> = prompts.iter().map(|prompt| Start { prompt: prompt.clone(), most }).collect();
    model.speculate(&starts, options, &mut |_, _| {}).unwrap()
}

/// The text is that of the AR decoder of the same weights, always: drafts only decide how many forwards it takes.
#[test]
fn the_greedy_text_is_the_autoregressive_one() {
    let mistral =
        LLAMA.replace("LlamaForCausalLM", "MistralForCausalLM").replace("\"bos", "\"sliding_window\":6,\"bos");
    let (mut accepted, mut drafted, mut saved) = (0, 0, 0);
    for (json, kernels) in
        [(LLAMA, true), (LLAMA, false), (GPT2, true), (&mistral, true), (TOY, true), (TOY_GPT2, true)]
    {
        let mut model = model(json, true);
        model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
        let toy = model.config().vocab_size == 5;
        let prompt = |key: u64| {
            let tokens = tokens(1 + key as usize % 5, key);
            Prompt { tokens: if toy { tokens.iter().map(|token| token % 4).collect() } else { tokens }, key }
        };
        let prompts: Vec<Prompt> = (0..24).map(prompt).collect();
        // The toys' table of positions ends with the longest prompt's last token but one.
        let most = if toy { 12 } else { 40 };
        let sampling = Sampling::GREEDY;
        let ar = Generation { max_new_tokens: most, sampling, seed: 0, stop: vec![END] };
        let wanted = model.generate(&prompts, &ar).unwrap();
        for shift in [true, false] {
            for block in [1, 2, 4, 7, 100] {
                let options = speculation(sampling, shift, block);
                let found = speculate(&model, &prompts, most, &options);
                for (wanted, found) in wanted.iter().zip(found) {
                    assert_eq!(
                        (&found.tokens, found.stopped),
                        (&wanted.tokens, wanted.stopped),
                        "{json} shift {shift}, block {block}"
                    );
                    assert!(found.nfe <= wanted.nfe);
                    (accepted, drafted) = (accepted + found.accepted, drafted + found.drafted);
                    saved += wanted.nfe - found.nfe;
                    let revealed: Vec<u32> = found.history.iter().map(|reveal| reveal.token).collect();
                    assert_eq!(revealed, found.tokens);
                }
            }
        }
    }
    // Both ends of the rule were met, and what was kept saved forwards.
    assert!(accepted > 100 && drafted - accepted > 100 && saved > 100, "{accepted} of {drafted}, {saved} saved");
}

/// Probabilities of the next token by the sampling options, worked out apart from the decoder: penalty, temperature, top-k, top-p.
fn next(model: &Model, text: &[u32], sampling: Sampling) -> Vec<f64> {
    let logits = model.logits(text, &Pattern::Causal).unwrap();
    let weight = |(&logit, token): (&f32, u32)| {
        let penalty = if text.contains(&token) { sampling.repetition_penalty } else { 1.0 };
        let logit = f64::from(logit);
        let penalised = if logit > 0.0 { logit / penalty } else { logit * penalty };
        (penalised / sampling.temperature).exp()
    };
    let mut weights: Vec<f64> = logits[(text.len() - 1) * 5..][..4].iter().zip(0..).map(weight).collect();
    // Top-p is a share of everything, also of what top-k leaves out.
    let enough = sampling.top_p * weights.iter().sum::<f64>();
    let mut order: Vec<usize> = (0..4).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut mass = 0.0;
    for (rank, id) in order.into_iter().enumerate() {
        if rank >= sampling.top_k.unwrap_or(4) || mass >= enough {
            weights[id] = 0.0;
        }
        mass += weights[id];
    }
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Every text of at most `most` tokens behind `text`, with its probability under AR sampling.
fn texts(model: &Model, text: &[u32], most: usize, sampling: Sampling) -> BTreeMap<Vec<u32>, f64> {
    let mut all = BTreeMap::new();
    for (token, probability) in (0..).zip(next(model, text, sampling)) {
        if probability == 0.0 {
            continue;
        }
        if token == END || most == 1 {
            all.insert(vec![token], probability);
            continue;
        }
        for (rest, share) in texts(model, &[text, &[token]].concat(), most - 1, sampling) {
            all.insert([vec![token], rest].concat(), probability * share);
        }
    }
    all
}

/// χ² over its critical value at one in a thousand (Wilson and Hilferty's approximation); texts that are expected less than five times
/// count together.
fn chi_square(found: &[Vec<u32>], wanted: &BTreeMap<Vec<u32>, f64>) -> f64 {
    let mut counts: BTreeMap<&[u32], f64> = BTreeMap::new();
    found.iter().for_each(|text| *counts.entry(text).or_default() += 1.0);
    let total = found.len() as f64;
    let (mut sum, mut cells, mut rare, mut rare_wanted) = (0.0, 0.0, 0.0, 0.0);
    for (text, share) in wanted {
        let (count, wanted) = (counts.remove(text.as_slice()).unwrap_or(0.0), share * total);
        if wanted < 5.0 {
            (rare, rare_wanted) = (rare + count, rare_wanted + wanted);
        } else {
            (sum, cells) = (sum + (count - wanted).powi(2) / wanted, cells + 1.0);
        }
    }
    if !counts.is_empty() {
        // A text that cannot be.
        return f64::INFINITY;
    }
    if rare_wanted > 1.0 {
        (sum, cells) = (sum + (rare - rare_wanted).powi(2) / rare_wanted, cells + 1.0);
    }
    let degrees: f64 = cells - 1.0;
    let spread = 2.0 / (9.0 * degrees);
    sum / (degrees * (1.0 - spread + 3.09 * spread.sqrt()).powi(3))
}

/// The draws are keyed, so this fails always or never.
#[test]
fn sampled_texts_have_the_autoregressive_distribution() {
    let plain = Sampling::default();
    let samplings = [
        plain,
        Sampling { temperature: 0.6, ..plain },
        Sampling { temperature: 1.5, top_p: 0.8, ..plain },
        Sampling { top_k: Some(3), repetition_penalty: 1.4, ..plain },
    ];
    let ways = samplings.into_iter().map(|sampling| (TOY, sampling)).chain([(TOY_GPT2, samplings[2])]);
    for (json, sampling) in ways {
        let model = model(json, true);
        let wanted = texts(&model, &[0, 2], 5, sampling);
        assert!((wanted.values().sum::<f64>() - 1.0).abs() < 1e-9);
        for shift in [true, false] {
            let options = speculation(sampling, shift, 3);
            let prompts: Vec<Prompt> = (0..6_000).map(|key| Prompt { tokens: vec![0, 2], key }).collect();
            let found = speculate(&model, &prompts, 5, &options);
            let (accepted, drafted): (u32, u32) =
                found.iter().fold((0, 0), |sum, one| (sum.0 + one.accepted, sum.1 + one.drafted));
            assert!(accepted > 200 && drafted - accepted > 200, "{accepted} of {drafted}");
            let found: Vec<Vec<u32>> = found.into_iter().map(|one| one.tokens).collect();
            let over = chi_square(&found, &wanted);
            assert!(over < 1.0, "{sampling:?}, shift {shift}: {over} of the critical value");
        }
    }
}

#[test]
fn a_text_with_drafts_becomes_the_same_alone_among_others_and_joining_late() {
    let sampling = Sampling { temperature: 1.2, top_p: 0.95, repetition_penalty: 1.1, ..Sampling::default() };
    for json in [LLAMA, GPT2] {
        let model = model(json, true);
        for shift in [true, false] {
            let options = Speculation { stop: vec![4, 5], ..speculation(sampling, shift, 4) };
            let prompt = |key: u64| Start {
                prompt: Prompt { tokens: tokens(1 + key as usize % 6, key), key },
                most: 9 + key as usize % 5,
            };
            let mut speculating = Speculating::new(&model, options.clone()).unwrap();
            let (mut finished, mut written) = (BTreeMap::new(), BTreeMap::<u64, Vec<u32>>::new());
            let mut key = 0;
            while key < 9 || speculating.going() > 0 {
                if key < 9 {
                    assert_eq!(speculating.join(prompt(key)).unwrap(), key);
                    key += 1;
                }
                if key == 3 {
                    assert!(speculating.cancel(2).is_some() && speculating.cancel(2).is_none());
                }
                for step in speculating.step().unwrap() {
                    assert!(step.accepted <= step.tokens.len() && step.drafts.len() < 4);
                    written.entry(step.id).or_default().extend(step.tokens);
                }
                finished.extend(speculating.take_finished());
            }
            assert_eq!(finished.keys().copied().collect::<Vec<_>>(), [0, 1, 3, 4, 5, 6, 7, 8]);
            for (id, text) in finished {
                assert_eq!(written[&id], text.tokens);
                let alone = model.speculate(&[prompt(id)], &options, &mut |_, _| {}).unwrap().remove(0);
                assert_eq!((alone.tokens, alone.nfe, alone.stopped), (text.tokens, text.nfe, text.stopped));
            }
        }
    }
}
