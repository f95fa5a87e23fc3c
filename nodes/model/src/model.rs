//! A model: configuration, weights and the files that travel with them.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use crate::attention::{Attention, Pattern};
use crate::batch::MicroBatch;
use crate::config::{Adapted, Family, ModelConfig, Positions};
use crate::decoder::Decoder;
use crate::device::Device;
use crate::error::ModelError;
use crate::host::copied;
use crate::loss::CHUNK_ELEMENTS;
use crate::objective::Objective;
use crate::parameter::{Parameter, initial};
use crate::tensor_files::TensorFiles;
use crate::tensor_writer::{SavedFile, write_bytes, write_tensors};

/// Arithmetic of matrix products and attention. Master weights, norms, losses and optimizer state are fp32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    #[default]
    Fp32,
    Bf16,
}

/// Files beside the weights that are carried from the base model to every checkpoint.
const COMPANIONS: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// A decoder-only language model in memory.
#[derive(Debug)]
pub struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) decoder: Decoder,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) companions: BTreeMap<String, Vec<u8>>,
    pub(crate) device: Device,
    /// Logits held at once by the loss, in elements.
    pub(crate) chunk_elements: usize,
}

impl Model {
    /// Loads a Hugging Face directory: config.json, safetensors (one file or an index), and the tokenizer's files beside
    /// them. Any float dtype becomes fp32.
    ///
    /// # Errors
    /// Names the tensor, the file, what was found and what was wanted.
    pub fn load(dir: &Path, device: Device) -> Result<Self, ModelError> {
        let config = ModelConfig::load(dir)?;
        let files = TensorFiles::open_model(dir)?;
        let model = Self::build(config, dir, device, &mut |_, leaf| {
            let whole = Tensor::f_empty(leaf.shape(), (Kind::Float, tch::Device::Cpu))?;
            let mut start = 0;
            for part in &leaf.parts {
                let tensor = find(&files, &part.name, &part.shape)?;
                whole.f_narrow(0, start, part.shape[0])?.f_copy_(&tensor)?;
                start += part.shape[0];
            }
            Ok(whole)
        })?;
        model.refuse_extras(&files)?;
        Ok(model)
    }

    /// A new model with random weights, from `DIR/config.json` and the tokenizer's files beside it. The same seed gives the
    /// same weights on every machine.
    pub fn initialise(dir: &Path, seed: u64, device: Device) -> Result<Self, ModelError> {
        let config = ModelConfig::load(dir)?;
        let (std, layers) = (config.initializer_range, config.layers);
        Self::build(config, dir, device, &mut |index, leaf| initial(leaf, seed, index, std, layers))
    }

    fn build(
        config: ModelConfig,
        dir: &Path,
        device: Device,
        values: &mut dyn FnMut(u64, &crate::parameter::Leaf) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut companions = BTreeMap::new();
        for name in COMPANIONS {
            let path = dir.join(name);
            if path.exists() {
                companions.insert(name.to_owned(), std::fs::read(&path).map_err(ModelError::read(&path))?);
            }
        }
        let mut parameters = Vec::new();
        let decoder = Decoder::new(&config, &mut |leaf| {
            let tensor = values(parameters.len() as u64, &leaf)?.f_to_device(device.torch())?;
            parameters.push(Parameter { leaf, tensor: tensor.shallow_clone() });
            Ok(tensor)
        })?;
        Ok(Self { config, decoder, parameters, companions, device, chunk_elements: CHUNK_ELEMENTS })
    }

    /// Tensors that nothing reads are an error, except buffers that old files carry and a tied head that equals the embedding.
    fn refuse_extras(&self, files: &TensorFiles) -> Result<(), ModelError> {
        let known: Vec<&str> =
            self.parameters.iter().flat_map(|p| &p.leaf.parts).map(|part| part.name.as_str()).collect();
        let mut extra = Vec::new();
        for name in files.names() {
            let buffer = name.ends_with(".rotary_emb.inv_freq")
                || (self.config.family == Family::Gpt2
                    && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")));
            if buffer || known.iter().any(|k| *k == name || without_base(k) == name) {
                continue;
            }
            if self.config.tied && name == "lm_head.weight" {
                let embedding = &self.parameters[0].tensor.f_to_device(tch::Device::Cpu)?;
                let same = match files.get(name, &embedding.size())? {
                    Some(head) => head.f_to_kind(Kind::Float)?.f_equal(embedding)?,
                    None => true,
                };
                if same {
                    continue;
                }
                return Err(ModelError::NotTied { tensor: name.to_owned(), file: files.file_of(name).to_owned() });
            }
            extra.push(name.to_owned());
        }
        match extra.first() {
            None => Ok(()),
            Some(first) => Err(ModelError::ExtraTensors { file: files.file_of(first).to_owned(), tensors: extra }),
        }
    }

    /// Writes config.json, model.safetensors and the tokenizer's files into an existing directory, each synced to disk. The
    /// same model gives the same bytes.
    pub fn save(&self, dir: &Path) -> Result<Vec<SavedFile>, ModelError> {
        let mut tensors = BTreeMap::new();
        for parameter in &self.parameters {
            for (part, view) in parameter.split(&parameter.tensor)? {
                tensors.insert(part.name.clone(), view);
            }
        }
        let notes = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut saved = vec![
            write_bytes(dir, "config.json", self.config.to_json().as_bytes())?,
            write_tensors(dir, "model.safetensors", &tensors, &notes)?,
        ];
        for (name, bytes) in &self.companions {
            saved.push(write_bytes(dir, name, bytes)?);
        }
        Ok(saved)
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// Number of trained values; a tied head counts once.
    pub fn parameter_count(&self) -> u64 {
        self.parameters.iter().map(|p| p.tensor.numel() as u64).sum()
    }

    /// Arithmetic of everything computed from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.decoder.kind = match precision {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
    }

    /// Marks what the weights are trained for; written to config.json. A model without a mask token has no mark.
    pub fn set_objective(&mut self, objective: Objective) {
        if let Some(adapted) = &mut self.config.adapted {
            let shift = match objective {
                Objective::Diffusion { shift } => shift,
                Objective::Ar => adapted.shift,
            };
            *adapted = Adapted { mask_token_id: adapted.mask_token_id, shift, objective: objective.name().to_owned() };
        }
    }

    /// Logits `[L · V]` (fp32, row-major) of one sequence under an attention pattern.
    pub fn logits(&self, tokens: &[u32], pattern: &Pattern) -> Result<Vec<f32>, ModelError> {
        MicroBatch::clean(1, tokens.len(), tokens.to_vec()).check(self.config.vocab_size, self.longest())?;
        tch::no_grad(|| {
            let attention =
                Attention::new(pattern, (1, tokens.len()), None, self.config.sliding_window, self.decoder.target())?;
            let hidden = self.decoder.hidden(&self.ids(tokens, 1)?, &attention)?;
            copied(&self.decoder.logits(&self.decoder.normed(&hidden)?)?)
        })
    }

    /// The hard limit on sequence length, where there is one.
    pub(crate) fn longest(&self) -> Option<usize> {
        (self.config.positions == Positions::Learned).then_some(self.config.max_positions)
    }

    /// Token ids as `[rows, length]` on the device.
    pub(crate) fn ids(&self, tokens: &[u32], rows: usize) -> Result<Tensor, ModelError> {
        let wide: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
        let columns = (tokens.len() / rows.max(1)) as i64;
        Ok(Tensor::f_from_slice(&wide)?.f_view((rows as i64, columns))?.f_to_device(self.device.torch())?)
    }
}

/// Files of a bare model (`GPT2Model`, `LlamaModel`) name tensors without the base's prefix.
fn without_base(name: &str) -> &str {
    name.strip_prefix("transformer.").or_else(|| name.strip_prefix("model.")).unwrap_or(name)
}

fn find(files: &TensorFiles, name: &str, wanted: &[i64]) -> Result<Tensor, ModelError> {
    for name in [name, without_base(name)] {
        if let Some(tensor) = files.get(name, wanted)? {
            return Ok(tensor);
        }
    }
    let (tensor, file) = (name.to_owned(), files.origin.clone());
    Err(ModelError::MissingTensor { tensor, file, wanted: wanted.to_vec() })
}
