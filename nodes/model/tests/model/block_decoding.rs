//! Block diffusion: a text is written block by block, in as few forwards as its blocks take, and ends where it ends.

use difflow_model::{
    Budget, Caching, Canvas, Context, Decoded, DiffusionDecoding, Filling, Model, Reveals, Sampling, Score,
};

use crate::support::{GPT2, LLAMA, model, tokens};

fn options(context: Context, shift: bool, reveals: Reveals) -> DiffusionDecoding {
    let sampling = Sampling { temperature: 0.9, top_p: 0.9, ..Sampling::default() };
    DiffusionDecoding {
        reveals,
        sampling,
        seed: 3,
        shift,
        block: Some(4),
        context: Some(context),
        cache: Caching::Prefix,
        ..DiffusionDecoding::default()
    }
}

fn ways() -> Vec<DiffusionDecoding> {
    let reveals = [
        Reveals::Random { steps: 3 },
        Reveals::FirstHitting,
        Reveals::Confidence { score: Score::Margin, budget: Budget::Steps(2) },
        Reveals::Threshold { score: Score::Probability, threshold: 0.3, window: Some(2) },
        Reveals::EntropyBound { bound: 2.0 },
        Reveals::Stable { divergence: 0.5, threshold: 0.1, forwards: 1 },
    ];
    let mut ways = Vec::new();
    for context in [Context::Block, Context::Causal] {
        for shift in [true, false] {
            ways.extend(reveals.iter().map(|&reveals| options(context, shift, reveals)));
        }
    }
    ways
}

fn canvas(key: u64) -> Canvas {
    Canvas::continuation(&tokens(1 + key as usize % 7, key), 3 + (key as usize * 5) % 17, key)
}

/// Tokens, forwards and order; probabilities may differ in the last bits between batches.
fn course(decoded: &Decoded) -> (Vec<u32>, u32, Vec<[u32; 3]>) {
    let order = decoded.history.iter().map(|reveal| [reveal.step, reveal.position, reveal.token]).collect();
    (decoded.tokens.clone(), decoded.nfe, order)
}

fn alone(model: &Model, key: u64, options: &DiffusionDecoding) -> (Vec<u32>, u32, Vec<[u32; 3]>) {
    course(&model.decode(&[canvas(key)], options).unwrap()[0])
}

#[test]
fn a_block_model_writes_with_its_cache_what_it_writes_without() {
    for json in [LLAMA, GPT2] {
        let model = model(json, true);
        for cached in ways() {
            let plain = DiffusionDecoding { cache: Caching::None, ..cached.clone() };
            for key in 0..9 {
                assert_eq!(alone(&model, key, &cached), alone(&model, key, &plain), "{cached:?}, canvas {key}");
            }
        }
    }
}

/// Rows join and leave at any time, and each is at a block of its own.
#[test]
fn a_row_of_blocks_becomes_the_same_among_others_at_other_blocks() {
    for json in [LLAMA, GPT2] {
        let model = model(json, true);
        for mut options in ways() {
            options.stop = vec![4, 5];
            let (mut filling, mut finished) = (Filling::new(&model, options.clone()).unwrap(), Vec::new());
            let mut key = 0;
            while key < 11 || filling.going() > 0 {
                if key < 11 {
                    filling.join(canvas(key)).unwrap();
                    key += 1;
                }
                if key == 5 {
                    assert!(filling.cancel(3).is_some());
                }
                for step in filling.step().unwrap() {
                    assert!(step.open.len() <= 4 && step.open.start % 4 == 0);
                    assert!(step.reveals.iter().all(|reveal| step.open.contains(&(reveal.position as usize))));
                }
                finished.extend(filling.take_finished());
            }
            assert_eq!(finished.len(), 10);
            for (id, decoded) in finished {
                assert_eq!(course(&decoded), alone(&model, id, &options), "{options:?}, canvas {id}");
            }
        }
    }
}

/// No forward is spent on the cache alone: 2 tokens of a prompt and 14 new ones are four blocks.
#[test]
fn a_block_at_once_is_a_forward_a_block() {
    let model = model(LLAMA, true);
    let all = Reveals::Confidence { score: Score::Probability, budget: Budget::PerStep(4) };
    let decoded = model.decode(&[Canvas::continuation(&[1, 5], 14, 0)], &options(Context::Causal, false, all)).unwrap();
    assert_eq!((decoded[0].nfe, decoded[0].tokens.len()), (4, 16));
    assert_eq!(decoded[0].history.iter().map(|reveal| reveal.step).collect::<Vec<_>>(), {
        let counts = [2, 4, 4, 4];
        (0..4).flat_map(|step| vec![step; counts[step as usize]]).collect::<Vec<u32>>()
    });
}

/// How long a text may become decides nothing before it is that long: neither steps nor tokens.
#[test]
fn a_text_ends_at_its_end_token_whatever_its_limit() {
    let model = model(LLAMA, true);
    for mut options in ways() {
        options.stop = vec![4, 5, 6, 7, 8, 9, 10, 11];
        let mut ended = 0;
        for key in 0..20 {
            let write = |most| model.decode(&[Canvas::continuation(&[1], most, key)], &options).unwrap().remove(0);
            let (short, long) = (write(31), write(47));
            assert_eq!(short.stopped, short.tokens.last().is_some_and(|token| options.stop.contains(token)));
            if short.stopped {
                assert_eq!(course(&short), course(&long), "{options:?}");
                ended += 1;
            }
        }
        assert!(ended > 10, "{ended} texts ended");
    }
}

#[test]
fn what_means_nothing_to_a_block_model_is_refused() {
    let model = model(LLAMA, true);
    let base = options(Context::Block, false, Reveals::FirstHitting);
    let refused = |options: DiffusionDecoding| Filling::new(&model, options).unwrap_err().to_string();
    assert!(refused(DiffusionDecoding { block: None, ..base.clone() }).contains("block"));
    assert!(refused(DiffusionDecoding { cache: Caching::Dual, ..base.clone() }).contains("cache"));
    assert!(refused(DiffusionDecoding { refresh: Some(2), ..base.clone() }).contains("refresh"));
    assert!(refused(DiffusionDecoding { guidance: 0.5, ..base.clone() }).contains("guidance"));
    let bound = Reveals::EntropyBound { bound: -1.0 };
    assert!(refused(DiffusionDecoding { reveals: bound, ..base.clone() }).contains("entropy bound"));
    let stable = Reveals::Stable { divergence: f64::NAN, threshold: 0.9, forwards: 2 };
    assert!(refused(DiffusionDecoding { reveals: stable, ..base }).contains("KL"));
}
