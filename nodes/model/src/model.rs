//! A model: configuration, weights and the files that go with them.

mod load;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use crate::adapter::{Adapter, CONFIG as ADAPTER};
use crate::arithmetic::{Arithmetic, Precision};
use crate::attention::Attention;
use crate::batch::MicroBatch;
use crate::config::{Adapted, ModelConfig, Positions};
use crate::decoder::Decoder;
use crate::device::Device;
use crate::error::ModelError;
use crate::gathered::Gathered;
use crate::host::copied;
use crate::input::Layout;
use crate::later::upload;
use crate::network::Network;
use crate::objective::Objective;
use crate::parameter::Parameter;
use crate::pattern::Pattern;
use crate::recipe::RECIPE_FILE;
use crate::released;
use crate::remote_code;
use crate::shim::empty;
use crate::snapshot::{OwnFiles, Snapshot, TensorFile};
use crate::tensor_writer::{FILE_LIMIT, SavedFile};

/// How `transformers`, and difflow, are told to decode.
const GENERATION: &str = "generation_config.json";

/// Files beside the weights that are carried from the base model to every checkpoint.
const COMPANIONS: [&str; 10] = [
    RECIPE_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    GENERATION,
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// A decoder-only language model in memory.
#[derive(Debug)]
pub struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) decoder: Network,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) companions: BTreeMap<String, Vec<u8>>,
    pub(crate) adapter: Option<Adapter>,
    pub(crate) device: Device,
    pub(crate) arithmetic: Arithmetic,
    /// Logits held at once by the loss, in elements.
    pub(crate) chunk_elements: usize,
}

impl Model {
    /// Writes config.json, model.safetensors, the tokenizer's files and, of a diffusion model, the Python file by which `transformers` reads
    /// it into an existing directory, each synced to disk. The same model gives the same bytes. A tensor is written in the element type it was read from if that loses nothing, else
    /// in fp32.
    pub fn save(&self, dir: &Path) -> Result<Vec<SavedFile>, ModelError> {
        if self.decoder.own().is_some_and(|decoder| decoder.gathered.is_some()) {
            let wanted = "a process with all of them; a learner writes what ranks keep shares of";
            return Err(ModelError::input("weights to be saved", "none, or a share of them", wanted));
        }
        self.content(dir, |_, parameter| parameter.tensor.shallow_clone())?.write(dir)
    }

    /// What [`Model::save`] writes, with other values for the parameters. It shares their memory. A plug-in's torch model, which only the
    /// plug-in can write, is written into `dir` now.
    pub(crate) fn content(
        &self,
        dir: &Path,
        value: impl Fn(usize, &Parameter) -> Tensor,
    ) -> Result<Snapshot, ModelError> {
        if let Network::Foreign(foreign) = &self.decoder {
            return Ok(Snapshot {
                written: self.save_torch(foreign, dir, value)?,
                own: None,
                optimizer: None,
                file_limit: FILE_LIMIT,
            });
        }
        if let Some(adapter) = &self.adapter {
            let (weights, json) = self.adapter_files(adapter, value)?;
            let mut companions = self.companions.clone();
            companions.insert(ADAPTER.to_owned(), json);
            let own = OwnFiles { config: self.config.clone(), weights, companions };
            return Ok(Snapshot { written: Vec::new(), own: Some(own), optimizer: None, file_limit: FILE_LIMIT });
        }
        let mut tensors = BTreeMap::new();
        for (at, parameter) in self.parameters.iter().enumerate() {
            for ((part, view), stored) in parameter.split(&value(at, parameter))?.into_iter().zip(&parameter.stored) {
                tensors.insert(part.name.clone(), (view, *stored));
            }
        }
        let weights = TensorFile { name: "model", tensors, notes: Self::notes(), whole: false };
        let (config, companions) = self.beside();
        let own = OwnFiles { config, weights, companions };
        Ok(Snapshot { written: Vec::new(), own: Some(own), optimizer: None, file_limit: FILE_LIMIT })
    }

    /// config.json and what else is written beside the tensors.
    pub(crate) fn beside(&self) -> (ModelConfig, BTreeMap<String, Vec<u8>>) {
        let (mut config, mut companions) = (self.config.clone(), self.companions.clone());
        remote_code::add(&mut config, &mut companions);
        (config, companions)
    }

    /// The metadata of its tensors' file.
    pub(crate) fn notes() -> BTreeMap<String, String> {
        BTreeMap::from([("format".to_owned(), "pt".to_owned())])
    }

    /// Makes the decoder of the parameters as they are; where each of several processes keeps a share of them, with what gathers them.
    pub(crate) fn rebuild(&mut self, gathered: Option<Arc<Gathered>>) -> Result<(), ModelError> {
        let mut leaves = self.parameters.iter();
        let mut decoder = Decoder::new(&self.config, &mut |leaf| match leaves.next() {
            Some(parameter) if parameter.leaf == leaf => Ok(parameter.tensor.shallow_clone()),
            _ => Err(ModelError::Torch("the decoder has other parameters than before".to_owned())),
        })?;
        decoder.gathered = gathered;
        self.decoder = Network::Own(Box::new(decoder));
        Ok(())
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn device(&self) -> Device {
        self.device
    }

    /// Number of values of all parameters; a tied head counts once.
    pub fn parameter_count(&self) -> u64 {
        self.parameters.iter().map(|p| p.tensor.numel() as u64).sum()
    }

    /// Chooses by their names in the files which tensors a [`crate::Learner`] made from now on trains. The others get no gradients and no
    /// moments, and are saved as they are. Returns the number of values that are trained. Errors if tensors that are one matrix here
    /// (queries, keys and values; gate and up) are chosen apart: nothing is changed then.
    pub fn set_trainable(&mut self, choose: impl Fn(&str) -> bool) -> Result<u64, ModelError> {
        let mut chosen = Vec::with_capacity(self.parameters.len());
        for parameter in &self.parameters {
            let names: Vec<&str> = parameter.leaf.parts.iter().map(|part| part.name.as_str()).collect();
            let apart = names.iter().find(|name| choose(name) != choose(names[0]));
            if let Some(other) = apart {
                let found = format!("`{}` and `{other}` chosen apart", names[0]);
                return Err(ModelError::input("trained tensors", found, "all or none of those that are one matrix"));
            }
            chosen.push(choose(names[0]));
        }
        let mut count = 0;
        for (parameter, trainable) in self.parameters.iter_mut().zip(chosen) {
            parameter.trainable = trainable;
            count += if trainable { parameter.tensor.numel() as u64 } else { 0 };
        }
        Ok(count)
    }

    /// How this model computes where nothing else is said.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// Computes like this from now on. What is dropped in training is a learner's ([`crate::Learner::set_dropout`]). A plug-in's torch model
    /// keeps what it was loaded with.
    pub fn set_arithmetic(&mut self, how: Arithmetic) {
        let host = self.device == Device::Cpu;
        let (kernels, device_kernels) = (how.kernels && host, how.device_kernels && !host);
        self.arithmetic = Arithmetic { kernels, device_kernels, dropout: 0.0, adapter_dropout: 0.0, ..how };
    }

    /// Computes in this precision from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.arithmetic.precision = precision;
    }

    /// Keeps the matrices rounded where forwards are torch's operations in bf16, so that none of them rounds. For weights that do not
    /// change any more: a [`crate::Learner`] sees to it itself.
    ///
    /// # Errors
    /// When there is no memory for it: half as much again as the weights take.
    pub fn round(&mut self) -> Result<(), ModelError> {
        let torch = self.arithmetic.precision == Precision::Bf16 && !self.arithmetic.kernels;
        match &mut self.decoder {
            Network::Own(decoder) if torch => decoder.round(),
            _ => Ok(()),
        }
    }

    /// Logits that the loss holds at once, in values; more than the batch has is the naive form, with all of them at once.
    pub fn set_logit_chunk(&mut self, values: usize) {
        self.chunk_elements = values.max(1);
    }

    /// Marks what the weights are trained for; written to config.json. A model without a mask token has no mark.
    pub fn set_objective(&mut self, objective: Objective) {
        self.config.adapted = self.config.adapted.take().map(|adapted| adapted.trained_for(objective));
    }

    /// Says that a token is the mask token of weights that were trained for diffusion with shift, where their files do not say it. Errors if
    /// the model has no such token, or another mask token.
    pub fn set_mask_token(&mut self, id: u32) -> Result<(), ModelError> {
        if id as usize >= self.config.vocab_size {
            let wanted = format!("an id below the vocabulary's {}", self.config.vocab_size);
            return Err(ModelError::input("mask token", id, wanted));
        }
        match &self.config.adapted {
            Some(adapted) if adapted.mask_token_id != id => {
                Err(ModelError::input("mask token", id, format!("{}, as the files say", adapted.mask_token_id)))
            }
            Some(_) => Ok(()),
            None => {
                self.config.adapted = Some(Adapted::new(id));
                Ok(())
            }
        }
    }

    /// Says how the weights want to be decoded: the object `difflow` of generation_config.json, which is saved beside config.json. The keys
    /// of `transformers` in it stay as the base model had them. Errors if that file is no JSON object.
    pub fn set_generation(&mut self, options: Map<String, Value>) -> Result<(), ModelError> {
        let json = |source| ModelError::Json { path: GENERATION.into(), source };
        let mut file: Map<String, Value> = match self.companions.get(GENERATION) {
            Some(bytes) => serde_json::from_slice(bytes).map_err(json)?,
            None => Map::new(),
        };
        file.insert("difflow".to_owned(), Value::Object(options));
        let text = serde_json::to_string_pretty(&file).map_err(json)? + "\n";
        self.companions.insert(GENERATION.to_owned(), text.into_bytes());
        Ok(())
    }

    /// Logits `[L · V]` (fp32, row-major) of one sequence under an attention pattern.
    pub fn logits(&self, tokens: &[u32], pattern: &Pattern) -> Result<Vec<f32>, ModelError> {
        MicroBatch::clean(1, tokens.len(), tokens.to_vec()).check(self.config.vocab_size, self.longest())?;
        tch::no_grad(|| {
            let (layout, how) = (Layout::row(tokens.len()), self.arithmetic);
            let attention = Attention::new(pattern, layout, &self.config.windows(), self.decoder.target(how))?;
            let hidden = self.decoder.hidden(&self.ids(tokens, 1)?, &attention, how, false)?;
            copied(&self.decoder.logits(&self.decoder.normed(&hidden, how)?, how)?)
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
        Ok(upload(&wide, self.device.torch())?.f_view((rows as i64, columns))?)
    }
}

/// The companions that a folder has.
pub(crate) fn companions(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, ModelError> {
    let mut companions = BTreeMap::new();
    for name in COMPANIONS {
        let path = dir.join(name);
        if path.exists() {
            companions.insert(name.to_owned(), std::fs::read(&path).map_err(ModelError::read(&path))?);
        }
    }
    if !companions.contains_key(RECIPE_FILE)
        && let Some(recipe) = released::recipe(dir)?
    {
        companions.insert(RECIPE_FILE.to_owned(), recipe.into_bytes());
    }
    Ok(companions)
}

/// A tensor of this size, without memory.
pub(crate) fn without_values(size: &[i64]) -> Result<Tensor, ModelError> {
    let tensor = Tensor::f_empty(size, (Kind::Float, tch::Device::Cpu))?;
    empty(&tensor)?;
    Ok(tensor)
}
