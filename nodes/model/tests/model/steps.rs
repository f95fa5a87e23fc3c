//! Decodes as step objects: sequences join, are watched and leave between forwards, from one thread or several.

use std::collections::BTreeMap;
use std::sync::Arc;

use difflow_model::{
    Arithmetic, Budget, Caching, Canvas, Decoded, DiffusionDecoding, Filling, Generated, Generation, Model, Prompt,
    Reveals, Sampling, Score, Writing,
};

use crate::support::{GPT2, LLAMA, OTHERS, model, tokens};

/// Frequencies that depend on the length, from 8 positions on.
const DYNAMIC: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":16,"intermediate_size":24,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":8,
    "rope_scaling":{"rope_type":"dynamic","factor":4.0},"initializer_range":0.3,"bos_token_id":1,"eos_token_id":2}"#;

fn canvas(key: u64) -> Canvas {
    let length = 5 + (key as usize * 7) % 17;
    let tokens = tokens(length, key);
    let masked = (0..length).map(|at| at > 0 && !(tokens[at] + at as u32).is_multiple_of(4)).collect();
    Canvas { tokens, masked, key }
}

fn ways() -> Vec<DiffusionDecoding> {
    let sampling = Sampling { temperature: 0.9, top_p: 0.9, repetition_penalty: 1.1, ..Sampling::default() };
    let plain =
        DiffusionDecoding { reveals: Reveals::Random { steps: 6 }, sampling, seed: 5, ..DiffusionDecoding::default() };
    let budget = Budget::PerStep(2);
    let surest = DiffusionDecoding { reveals: Reveals::Confidence { score: Score::Margin, budget }, ..plain.clone() };
    let prefix = DiffusionDecoding { block: Some(4), cache: Caching::Prefix, ..surest.clone() };
    let guided = DiffusionDecoding { cache: Caching::Dual, refresh: Some(3), guidance: 0.5, ..prefix.clone() };
    let stopping = DiffusionDecoding { stop: vec![4, 5, 6, 7], ..prefix.clone() };
    vec![plain, surest, prefix, guided, stopping]
}

/// Tokens, forwards and order; probabilities may differ in the last bits between batches.
fn course(decoded: &Decoded) -> (Vec<u32>, u32, Vec<[u32; 3]>) {
    let order = decoded.history.iter().map(|reveal| [reveal.step, reveal.position, reveal.token]).collect();
    (decoded.tokens.clone(), decoded.nfe, order)
}

/// Canvases come one by one, longer ones after shorter ones, one of them is cancelled, and lanes are used again: the cache grows, in
/// lanes and in positions, while others are on their way.
#[test]
fn a_canvas_becomes_the_same_alone_among_others_and_joining_late() {
    let others = OTHERS.into_iter().flat_map(|json| [(json, true), (json, false)]);
    for (json, kernels) in [(LLAMA, true), (LLAMA, false), (GPT2, true), (DYNAMIC, true)].into_iter().chain(others) {
        let mut model = model(json, true);
        model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
        for options in ways() {
            let alone = |key| course(&model.decode(&[canvas(key)], &options).unwrap()[0]);
            let mut filling = Filling::new(&model, options.clone()).unwrap();
            let (mut finished, mut seen) = (BTreeMap::new(), BTreeMap::<u64, usize>::new());
            let mut key = 0;
            while key < 13 || filling.going() > 0 {
                if key < 13 {
                    for _ in 0..1 + key % 2 {
                        assert_eq!(filling.join(canvas(key)).unwrap(), key);
                        key += 1;
                    }
                    if key == 7 {
                        assert!(filling.cancel(5).is_some() && filling.cancel(5).is_none());
                    }
                }
                for step in filling.step().unwrap() {
                    *seen.entry(step.id).or_default() += step.reveals.len();
                }
                finished.extend(filling.take_finished());
            }
            assert_eq!(finished.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]);
            for (id, decoded) in finished {
                assert_eq!(course(&decoded), alone(id), "{json} {options:?}, canvas {id}");
                assert!(seen.get(&id).copied().unwrap_or(0) >= decoded.history.len());
            }
        }
    }
}

/// The frequencies of dynamic scaling went by the longest canvas of the batch.
#[test]
fn a_canvas_under_dynamic_rotary_scaling_does_not_depend_on_the_longest_beside_it() {
    let model = model(DYNAMIC, true);
    let options = DiffusionDecoding::surest_first(true);
    let (short, long) = (Canvas::continuation(&tokens(6, 1), 6, 0), Canvas::continuation(&tokens(6, 2), 50, 1));
    let alone = model.decode(std::slice::from_ref(&short), &options).unwrap().remove(0);
    let beside = model.decode(&[short, long], &options).unwrap().remove(0);
    assert_eq!(alone.tokens, beside.tokens);
    for (a, b) in alone.history.iter().zip(&beside.history) {
        assert!((a.probability - b.probability).abs() < 1e-5, "{a:?} {b:?}");
    }
}

/// What is cancelled is given as it stands, and a full canvas waits until it is taken.
#[test]
fn a_cancelled_canvas_is_given_as_it_stands() {
    let model = model(LLAMA, true);
    let mut filling = Filling::new(&model, DiffusionDecoding::surest_first(true)).unwrap();
    let (first, second) = (filling.join(Canvas::unconditional(1, 5, 0)).unwrap(), filling.join(canvas(3)).unwrap());
    filling.step().unwrap();
    assert_eq!((filling.going(), filling.canvas(second).map(|canvas| canvas.key)), (2, Some(3)));
    let stands = filling.cancel(first).unwrap();
    assert_eq!(
        (stands.nfe, stands.history.len(), stands.tokens.iter().filter(|&&token| token == 37).count()),
        (1, 1, 4)
    );
    while filling.going() > 0 {
        assert!(filling.step().unwrap().iter().all(|step| step.id == second));
    }
    assert_eq!(filling.step().unwrap(), []);
    assert_eq!(filling.take_finished().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [second]);
    assert_eq!(filling.take_finished(), []);
}

fn prompt(key: u64) -> Prompt {
    Prompt { tokens: tokens(2 + key as usize % 5, key), key }
}

fn generation() -> Generation {
    let sampling = Sampling { temperature: 1.2, top_p: 0.95, repetition_penalty: 1.1, ..Sampling::default() };
    Generation { max_new_tokens: 14, sampling, seed: 9, stop: vec![4, 5, 6] }
}

#[test]
fn a_text_becomes_the_same_alone_among_others_and_joining_late() {
    for (json, kernels) in [(LLAMA, true), (LLAMA, false), (GPT2, true)] {
        let mut model = model(json, true);
        model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
        let mut writing = Writing::new(&model, generation()).unwrap();
        let (mut finished, mut written) = (BTreeMap::new(), BTreeMap::<u64, Vec<u32>>::new());
        let mut key = 0;
        while key < 9 || writing.going() > 0 {
            if key < 9 {
                assert_eq!(writing.join(prompt(key)).unwrap(), key);
                key += 1;
            }
            if key == 3 {
                let cancelled = writing.cancel(2).unwrap();
                assert_eq!((cancelled.tokens, cancelled.stopped), (vec![], false));
            }
            for one in writing.step().unwrap() {
                written.entry(one.id).or_default().push(one.token);
            }
            finished.extend(writing.take_finished());
        }
        assert_eq!(finished.keys().copied().collect::<Vec<_>>(), [0, 1, 3, 4, 5, 6, 7, 8]);
        for (id, text) in finished {
            assert_eq!(written[&id], text.tokens);
            let alone: Vec<Generated> = model.generate(&[prompt(id)], &generation()).unwrap();
            assert_eq!(alone, [text], "{json}, text {id}");
        }
    }
}

#[test]
fn threads_that_share_a_model_write_what_one_writes() {
    fn shared<T: Send + Sync>(_: &T) {}
    let model = Arc::new(model(LLAMA, true));
    shared(&*model);
    let options = ways().remove(3);
    let canvases: Vec<Canvas> = (0..8).map(canvas).collect();
    let decode = |model: &Model, canvases: &[Canvas]| {
        let decoded = model.decode(canvases, &options).unwrap();
        let texts = model
            .generate(&canvases.iter().map(|canvas| prompt(canvas.key)).collect::<Vec<_>>(), &generation())
            .unwrap();
        (decoded.iter().map(course).collect::<Vec<_>>(), texts)
    };
    let alone: Vec<_> = canvases.chunks(2).map(|part| decode(&model, part)).collect();
    for _ in 0..3 {
        let together: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = canvases
                .chunks(2)
                .map(|part| {
                    let (model, decode) = (model.clone(), &decode);
                    scope.spawn(move || decode(&model, part))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(alone, together);
    }
}
