//! A model: configuration, weights and the files that go with them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
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
use crate::family::{Names, without_base};
use crate::gathered::Gathered;
use crate::host::copied;
use crate::input::Layout;
use crate::later::upload;
use crate::loader::TorchPlugin;
use crate::loss::chunk_elements;
use crate::network::Network;
use crate::objective::Objective;
use crate::parameter::{Leaf, Parameter, Part, Source, initial};
use crate::pattern::Pattern;
use crate::recipe::{RECIPE_FILE, Recipe};
use crate::released;
use crate::remote_code;
use crate::shim::empty;
use crate::snapshot::{OwnFiles, Snapshot, TensorFile};
use crate::tensor_files::TensorFiles;
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

/// The values of a leaf, and the element type that each of its parts had in the files.
type Values = (Held, Vec<Kind>);

/// Gives the values of the n-th leaf.
type Give<'a> = dyn FnMut(u64, &Leaf) -> Result<Values, ModelError> + 'a;

/// Values in memory, or where they are read from.
enum Held {
    Here(Tensor),
    Elsewhere(Source),
}

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
    /// Loads a folder with an adapter (PEFT's files) and the base model that it names, or a Hugging Face directory: config.json, safetensors (one file or an index), and the tokenizer's files beside
    /// them. Any float dtype becomes fp32. The checkpoint of a plug-in's torch model says which component it needs; its library is
    /// looked for as docs/PLUGINS.md says of component ids.
    ///
    /// # Errors
    /// Names the tensor, the file, what was found and what was wanted.
    pub fn load(dir: &Path, device: Device) -> Result<Self, ModelError> {
        if dir.join(ADAPTER).exists() {
            return Self::load_adapted(dir, device);
        }
        let config = ModelConfig::load(dir)?;
        match &config.torch_model {
            None => Self::load_as(config, dir, device),
            Some(mark) => {
                let plugin = TorchPlugin::of_checkpoint(&mark.id, &mark.config)?;
                Self::load_torch(dir, &plugin, device, Precision::Fp32)
            }
        }
    }

    /// As [`Model::load`], with the text of a model recipe (docs of the `recipe` module) instead of the directory's own. The
    /// recipe travels with every checkpoint.
    pub fn load_with_recipe(dir: &Path, recipe: &str, device: Device) -> Result<Self, ModelError> {
        let parsed = Recipe::from_json(recipe.as_bytes(), Path::new(RECIPE_FILE))?;
        let mut model = Self::load_as(ModelConfig::load_with(dir, Some(parsed))?, dir, device)?;
        model.companions.insert(RECIPE_FILE.to_owned(), recipe.as_bytes().to_vec());
        Ok(model)
    }

    /// As [`Model::load`] and [`Model::load_with_recipe`], without reading the weights: each of several ranks will read a share of them
    /// ([`crate::Learner::of_ranks`] with [`crate::Sharding::Parameters`]). Nothing else can be done with such a model but giving it a mask
    /// token.
    ///
    /// # Errors
    /// As those, and for an adapter and a plug-in's torch model.
    pub fn load_apart(dir: &Path, recipe: Option<&str>, device: Device) -> Result<Self, ModelError> {
        let refused = |found: &str| {
            ModelError::input("a model whose weights ranks keep shares of", found, "one of difflow's own")
        };
        if dir.join(ADAPTER).exists() {
            return Err(refused("an adapter"));
        }
        let parsed = recipe.map(|text| Recipe::from_json(text.as_bytes(), Path::new(RECIPE_FILE))).transpose()?;
        let config = match parsed {
            Some(parsed) => ModelConfig::load_with(dir, Some(parsed))?,
            None => ModelConfig::load(dir)?,
        };
        if config.torch_model.is_some() {
            return Err(refused("a plug-in's torch model"));
        }
        let (files, names) = (Arc::new(TensorFiles::open_model(dir)?), config.family.names());
        let mut model = Self::build(config, dir, device, &mut |_, leaf| {
            let (parts, mut stored) = (leaf.parts.clone(), Vec::with_capacity(leaf.parts.len()));
            for part in &parts {
                stored.push(find_part(&files, names, part, 0..0)?.kind());
            }
            let files = files.clone();
            let source = Source::new(move |range| {
                let (mut begin, mut found) = (0, Vec::new());
                for part in &parts {
                    let count = part.shape.iter().product::<i64>() as usize;
                    let (from, to) = (range.start.max(begin), range.end.min(begin + count));
                    if from < to {
                        let values = find_part(&files, names, part, from - begin..to - begin)?;
                        found.push(values.f_to_kind(Kind::Float)?);
                    }
                    begin += count;
                }
                Ok(match found.len() {
                    0 => Tensor::f_zeros([0], (Kind::Float, tch::Device::Cpu))?,
                    1 => found.remove(0),
                    _ => Tensor::f_cat(&found, 0)?,
                })
            });
            Ok((Held::Elsewhere(source), stored))
        })?;
        model.refuse_extras(&files)?;
        if let Some(recipe) = recipe {
            model.companions.insert(RECIPE_FILE.to_owned(), recipe.as_bytes().to_vec());
        }
        Ok(model)
    }

    /// As [`Model::initialise`], and without weights as [`Model::load_apart`]. A rank draws a parameter at a time.
    ///
    /// # Errors
    /// As that.
    pub fn initialise_apart(dir: &Path, seed: u64, device: Device) -> Result<Self, ModelError> {
        let config = ModelConfig::load(dir)?;
        let (std, layers) = (config.initializer_range, config.layers);
        Self::build(config, dir, device, &mut |index, leaf| {
            let (own, stored) = (leaf.clone(), vec![Kind::Float; leaf.parts.len()]);
            let source = Source::new(move |range| {
                let all = initial(&own, seed, index, std, layers)?.f_view(-1)?;
                Ok(all.f_narrow(0, range.start as i64, range.len() as i64)?)
            });
            Ok((Held::Elsewhere(source), stored))
        })
    }

    fn load_as(config: ModelConfig, dir: &Path, device: Device) -> Result<Self, ModelError> {
        let (files, names) = (TensorFiles::open_model(dir)?, config.family.names());
        let model = Self::build(config, dir, device, &mut |_, leaf| {
            // Before anything is allocated: config.json may claim any size, but the file has the tensors that it has.
            let found = leaf.parts.iter().map(|part| find(&files, names, &part.name, &part.shape));
            let found = found.collect::<Result<Vec<_>, _>>()?;
            let whole = Tensor::f_empty(leaf.shape(), (Kind::Float, tch::Device::Cpu))?;
            let (mut start, mut stored) = (0, Vec::with_capacity(leaf.parts.len()));
            for (part, tensor) in leaf.parts.iter().zip(found) {
                stored.push(tensor.kind());
                // Not every element type can be copied into fp32 directly.
                whole.f_narrow(0, start, part.shape[0])?.f_copy_(&tensor.f_to_kind(Kind::Float)?)?;
                start += part.shape[0];
            }
            Ok((Held::Here(whole), stored))
        })?;
        model.refuse_extras(&files)?;
        Ok(model)
    }

    /// A new model with random weights, from `DIR/config.json` and the tokenizer's files beside it. The same seed gives the
    /// same weights on every machine.
    pub fn initialise(dir: &Path, seed: u64, device: Device) -> Result<Self, ModelError> {
        let config = ModelConfig::load(dir)?;
        let (std, layers) = (config.initializer_range, config.layers);
        Self::build(config, dir, device, &mut |index, leaf| {
            Ok((Held::Here(initial(leaf, seed, index, std, layers)?), vec![Kind::Float; leaf.parts.len()]))
        })
    }

    /// A new model of a config.json's text.
    pub(crate) fn of_json(json: &str, seed: u64, device: Device) -> Result<Self, ModelError> {
        let dir = tempfile::tempdir().map_err(ModelError::write(&std::env::temp_dir()))?;
        let file = dir.path().join("config.json");
        std::fs::write(&file, json).map_err(ModelError::write(&file))?;
        Self::initialise(dir.path(), seed, device)
    }

    fn build(config: ModelConfig, dir: &Path, device: Device, values: &mut Give) -> Result<Self, ModelError> {
        let companions = companions(dir)?;
        let mut parameters = Vec::new();
        let mut decoder = Decoder::new(&config, &mut |leaf| {
            let (held, stored) = values(parameters.len() as u64, &leaf)?;
            let (tensor, source) = match held {
                Held::Here(tensor) => (tensor.f_to_device(device.torch())?, None),
                Held::Elsewhere(source) => (without_values(&leaf.shape())?, Some(source)),
            };
            parameters.push(Parameter { leaf, tensor: tensor.shallow_clone(), source, stored, trainable: true });
            Ok(tensor)
        })?;
        decoder.gathered = parameters.iter().any(|parameter| parameter.source.is_some()).then(Gathered::nowhere);
        if let Some(recipe) = &config.recipe {
            recipe.check_tensors(parameters.iter().flat_map(|p| &p.leaf.own_names).map(String::as_str))?;
        }
        let decoder = Network::Own(Box::new(decoder));
        let (arithmetic, chunk_elements) = (Arithmetic::of(device), chunk_elements(device));
        Ok(Self { config, decoder, parameters, companions, adapter: None, device, arithmetic, chunk_elements })
    }

    /// Tensors that nothing reads are an error, except buffers that old files carry and a tied head that equals the embedding.
    fn refuse_extras(&self, files: &TensorFiles) -> Result<(), ModelError> {
        let (mut extra, names) = (Vec::new(), self.config.family.names());
        let parts = self.parameters.iter().flat_map(|p| &p.leaf.parts);
        let known: BTreeSet<String> = parts.flat_map(|part| spellings(names, &part.name)).collect();
        for name in files.names() {
            let buffer = names.buffers.iter().any(|ending| name.ends_with(ending));
            if buffer || known.contains(name) {
                continue;
            }
            let head = format!("{}.weight", names.head);
            let head = self.config.recipe.as_ref().map_or_else(|| head.clone(), |recipe| recipe.name(&head));
            if self.config.tied && spellings(names, &head).iter().any(|spelling| spelling == name) {
                let embedding = &self.parameters[0];
                let (all, size) = (embedding.elements(0..embedding.tensor.numel())?, embedding.tensor.size());
                let same = match files.get(name, &size)? {
                    Some(head) => {
                        head.f_to_kind(Kind::Float)?.f_view(-1)?.f_equal(&all.f_to_device(tch::Device::Cpu)?)?
                    }
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

/// The names that files may have for a tensor.
fn spellings(names: &Names, name: &str) -> [String; 3] {
    let alias = match name.strip_prefix(names.head) {
        Some(rest) => format!("{}{rest}", names.head_alias),
        None => name.to_owned(),
    };
    [name.to_owned(), without_base(name).to_owned(), alias]
}

/// A tensor of this size, without memory.
pub(crate) fn without_values(size: &[i64]) -> Result<Tensor, ModelError> {
    let tensor = Tensor::f_empty(size, (Kind::Float, tch::Device::Cpu))?;
    empty(&tensor)?;
    Ok(tensor)
}

/// Some elements of a part, in the file's own element type.
fn find_part(files: &TensorFiles, names: &Names, part: &Part, range: Range<usize>) -> Result<Tensor, ModelError> {
    for name in spellings(names, &part.name) {
        if let Some(tensor) = files.get_part(&name, &part.shape, range.clone())? {
            return Ok(tensor);
        }
    }
    let (tensor, file) = (part.name.clone(), files.origin.clone());
    Err(ModelError::MissingTensor { tensor, file, wanted: part.shape.clone() })
}

fn find(files: &TensorFiles, names: &Names, name: &str, wanted: &[i64]) -> Result<Tensor, ModelError> {
    for name in spellings(names, name) {
        if let Some(tensor) = files.get(&name, wanted)? {
            return Ok(tensor);
        }
    }
    let (tensor, file) = (name.to_owned(), files.origin.clone());
    Err(ModelError::MissingTensor { tensor, file, wanted: wanted.to_vec() })
}
