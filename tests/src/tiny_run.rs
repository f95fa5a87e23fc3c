//! A dataflow around a random model of a few thousand weights, which the test makes itself, with its own words and texts: for tests
//! that run many dataflows and look at what is computed, not at how good it is.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::safetensors::{Floats, write_safetensors};
use crate::{Dataflow, Random, write_parquet};

/// Tokens that the tokenizer knows.
const VOCABULARY: usize = 64;
/// Of the model.
const WIDTH: usize = 16;
/// Tokens in a row of [`Dataflow::ending_in`].
const ROW: usize = 16;

impl Dataflow {
    /// The paper's objective with a random model of one layer, its own corpus, and little to score and to sample.
    pub fn tiny(steps: u64) -> Self {
        let dataflow = Self::open("data/experiments/tiny-diffusion.yml");
        let folder = dataflow.folder().to_owned();
        let model = folder.join("model");
        write_model(&model, false);
        let tokenizer = folder.join("tokenizer.json");
        fs::write(&tokenizer, tokenizer_json().to_string()).expect("the folder takes a file");
        let texts = texts(400);
        let lines: String = texts.iter().fold(String::new(), |mut lines, text| {
            _ = writeln!(lines, "{}", json!({"text": text}));
            lines
        });
        fs::write(folder.join("corpus.jsonl"), lines).expect("the folder takes a file");
        let heldout: Vec<&str> = texts[..4].iter().map(String::as_str).collect();
        write_parquet(&folder.join("heldout.parquet"), "text", &heldout);
        let path = |name: &str| folder.join(name).display().to_string();
        let sources = json!([{"path": path("corpus.jsonl")}]).to_string();
        dataflow
            .set("", "BASE_MODEL", path("model"))
            .set("", "TOKENIZER", path("tokenizer.json"))
            .set("", "STEPS", steps)
            .set("", "MICRO_BATCH", 4)
            .set("", "SEQUENCE_LENGTH", 32)
            .set("corpus", "SOURCES", sources)
            .set("tokenizer", "SHUFFLE_WINDOW", 64)
            .set("trainer", "WARMUP_STEPS", 2)
            .set("trainer", "ANNEAL_STEPS", steps * 2 / 3 + 1)
            .set("trainer", "CHECKPOINT_EVERY", steps / 6 + 1)
            .set("trainer", "THREADS", 1)
            .set("corpus", "HELDOUT", path("heldout.parquet"))
            .set("evaluator", "HELDOUT", path("heldout.parquet"))
            .set("evaluator", "EVAL_DRAWS", 1)
            .set("evaluator", "INFILL", "")
            .set("sampler", "SAMPLES", 1)
            .set("sampler", "SAMPLES_FINAL", 1)
            .set("sampler", "LENGTHS", "8..16")
            .set("sampler", "DIFFUSION_STEPS", 4)
            .set("sampler", "CHECKER", "none")
            .set("sampler", "INFILL", "")
    }

    /// [`Dataflow::tiny`] for the question whether a forward reads to the right. Every row of training, every held-out document and every
    /// gap's right side ends in `last`, `w3` or `w4`; nothing else has these words, and the model gives both the same logit. Its weights stay
    /// what they are.
    pub fn ending_in(steps: u64, last: &str) -> Self {
        let dataflow = Self::tiny(steps);
        let folder = dataflow.folder().to_owned();
        write_model(&folder.join("model"), true);
        // One document, whose tokens behind its <bos> fill the rows: no row has an <eos>, which would be predicted from `last`.
        let mut random = Random::new(3);
        let mut words = |rows: usize| {
            let mut word = |at: usize| {
                if at.is_multiple_of(ROW) { last.to_owned() } else { word(5 + random.below(VOCABULARY - 5)) }
            };
            (1..rows * ROW).map(|at| word(at + 1)).collect::<Vec<_>>().join(" ")
        };
        fs::write(folder.join("corpus.jsonl"), json!({"text": words(64)}).to_string() + "\n")
            .expect("the folder takes a file");
        // Longer than a row, so that they are cut behind their first `last`.
        let heldout: Vec<String> = (0..4).map(|_| words(2)).collect();
        let heldout: Vec<&str> = heldout.iter().map(String::as_str).collect();
        write_parquet(&folder.join("heldout.parquet"), "text", &heldout);
        let gap = json!({"id": 0, "left": "w9 w8", "answer": " w7 w6", "right": format!(" w5 {last}")});
        fs::write(folder.join("gaps.jsonl"), gap.to_string() + "\n").expect("the folder takes a file");
        let gaps = folder.join("gaps.jsonl").display().to_string();
        dataflow
            .set("", "SEQUENCE_LENGTH", ROW)
            .set("tokenizer", "PACKING", "stream")
            .set("trainer", "LEARNING_RATE", 1e-12)
            .set("evaluator", "EVAL_DRAWS", 4)
            .set("sampler", "INFILL", gaps)
    }

    /// The corpus of [`Dataflow::tiny`].
    pub fn corpus_file(&self) -> std::path::PathBuf {
        self.folder().join("corpus.jsonl")
    }
}

fn word(number: usize) -> String {
    format!("w{number}")
}

fn texts(count: usize) -> Vec<String> {
    let mut random = Random::new(1);
    let mut text = || {
        let words = 5 + random.below(20);
        (0..words).map(|_| word(3 + random.below(VOCABULARY - 3))).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(|_| text()).collect()
}

fn tokenizer_json() -> Value {
    let special = |id: usize, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let names = ["<bos>", "<eos>", "<unk>"].map(str::to_owned).into_iter().chain((3..VOCABULARY).map(word));
    let vocab: serde_json::Map<String, Value> = names.zip(0u32..).map(|(name, id)| (name, Value::from(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, "<bos>"), special(1, "<eos>"), special(2, "<unk>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}

/// config.json and model.safetensors of a LLaMA of one layer with random weights. With `twins` it has a head of its own, in which `w3` and
/// `w4` have the same row.
fn write_model(folder: &Path, twins: bool) {
    fs::create_dir_all(folder).expect("a folder");
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": !twins, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32",
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("the folder takes a file");
    let square =
        ["q", "k", "v", "o"].map(|name| (format!("model.layers.0.self_attn.{name}_proj.weight"), vec![WIDTH, WIDTH]));
    let wide = ["gate", "up"].map(|name| (format!("model.layers.0.mlp.{name}_proj.weight"), vec![2 * WIDTH, WIDTH]));
    let norms = ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"];
    let norms = norms.map(|name| (format!("model.{name}.weight"), vec![WIDTH]));
    let rest = [
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, WIDTH]),
        ("model.layers.0.mlp.down_proj.weight".to_owned(), vec![WIDTH, 2 * WIDTH]),
    ];
    let mut random = Random::new(2);
    let head = twins.then(|| ("lm_head.weight".to_owned(), vec![VOCABULARY, WIDTH]));
    let tensors = square.into_iter().chain(wide).chain(norms).chain(rest).chain(head);
    let weights = tensors.map(|(name, shape)| {
        let mut value = || if shape.len() == 1 { 1.0 } else { random.unit() as f32 - 0.5 };
        let mut values: Vec<f32> = (0..shape.iter().product()).map(|_| value()).collect();
        if name == "lm_head.weight" {
            values.copy_within(3 * WIDTH..4 * WIDTH, 4 * WIDTH);
        }
        Floats { name, shape, values }
    });
    write_safetensors(folder, weights);
}
