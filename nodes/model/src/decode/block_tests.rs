//! Block diffusion decoding against the input and the pattern of training, `[x_t ; x_0]`.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::attention::Attention;
use crate::host::copied;
use crate::input::{Copies, Layout};
use crate::pattern::{Context, Pattern};
use crate::{Arithmetic, Device, Model};

const LLAMA: &str = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":37,"hidden_size":16,"intermediate_size":24,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64,
    "initializer_range":0.4,"tie_word_embeddings":true}"#;
const GPT2: &str = r#"{"architectures":["GPT2LMHeadModel"],"vocab_size":37,"n_embd":16,"n_layer":2,"n_head":4,
    "n_positions":64,"initializer_range":0.4}"#;
const MASK: u32 = 37;

fn model(json: &str, kernels: bool) -> Model {
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("config.json"), json).unwrap();
    let mut model = Model::initialise(dir.path(), 7, Device::Cpu).unwrap();
    model.add_mask_token(7).unwrap();
    model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
    model
}

/// Logits `[2·L · V]` of `[x_t ; x_0]`.
fn logits(model: &Model, noised: &[u32], clean: &[u32], pattern: &Pattern) -> Vec<f32> {
    tch::no_grad(|| {
        let how = model.arithmetic();
        let layout = Layout { copies: Copies::NoisedAndClean, ..Layout::row(clean.len()) };
        let attention = Attention::new(pattern, layout, &model.config.windows(), model.decoder.target(how)).unwrap();
        let ids = model.ids(&[noised, clean].concat(), 1).unwrap();
        let hidden = model.decoder.hidden(&ids, &attention, how, false).unwrap();
        copied(&model.decoder.logits(&model.decoder.normed(&hidden, how).unwrap(), how).unwrap()).unwrap()
    })
}

/// Every probability that decoding reports is that of training's input as it stood then. A wrong slot, range, block border or, with
/// shift, the noised text in the place of the clean one before the block changes it.
#[test]
fn decoding_sees_what_training_showed() {
    crate::set_num_threads(1);
    let mistral =
        LLAMA.replace("LlamaForCausalLM", "MistralForCausalLM").replace("\"initial", "\"sliding_window\":6,\"initial");
    let ways = [Context::Block, Context::Causal].into_iter().flat_map(|context| [(context, true), (context, false)]);
    for (context, shift) in ways {
        for (json, kernels) in [(LLAMA, true), (LLAMA, false), (GPT2, true), (&*mistral, true)] {
            let model = model(json, kernels);
            for (size, prompt) in [(4, 1), (4, 6), (5, 10), (1, 3), (32, 2)] {
                let canvas = Canvas::continuation(&(3..3 + prompt).collect::<Vec<u32>>(), 13, 5);
                let options = DiffusionDecoding {
                    reveals: Reveals::Confidence { score: Score::Margin, budget: Budget::PerStep(2) },
                    shift,
                    block: Some(size),
                    context: Some(context),
                    cache: Caching::Prefix,
                    ..DiffusionDecoding::default()
                };
                let decoded = model.decode(std::slice::from_ref(&canvas), &options).unwrap().remove(0);
                let (length, width) = (canvas.tokens.len(), MASK as usize + 1);
                let mut noised: Vec<u32> =
                    (0..length).map(|at| if canvas.masked[at] { MASK } else { canvas.tokens[at] }).collect();
                for step in decoded.history.chunk_by(|a, b| a.step == b.step) {
                    let logits = logits(&model, &noised, &noised, &Pattern::NoisedBlocks { size, context });
                    for reveal in step {
                        let at = reveal.position as usize;
                        let from = match shift {
                            _ if !shift => at,
                            _ if at.is_multiple_of(size) => length + at - 1,
                            _ => at - 1,
                        };
                        let row = &logits[from * width..][..width - 1];
                        let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                        let wanted = f64::from(row[reveal.token as usize]).exp() / total;
                        let found = f64::from(reveal.probability);
                        assert!((found - wanted).abs() < 1e-4, "{context:?} {shift} {size} {reveal:?}: {wanted}");
                    }
                    step.iter().for_each(|reveal| noised[reveal.position as usize] = reveal.token);
                }
                assert_eq!(noised, decoded.tokens);
            }
        }
    }
}
