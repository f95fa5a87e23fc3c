//! A model of files, or of random weights: what it reads, and what it refuses.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tch::{Kind, Tensor};

use super::{Model, companions, without_values};
use crate::adapter::CONFIG as ADAPTER;
use crate::arithmetic::{Arithmetic, Precision};
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::device::Device;
use crate::error::ModelError;
use crate::family::{Names, without_base};
use crate::gathered::Gathered;
use crate::loader::TorchPlugin;
use crate::loss::chunk_elements;
use crate::network::Network;
use crate::parameter::{Leaf, Parameter, Part, Source, initial};
use crate::recipe::{RECIPE_FILE, Recipe};
use crate::tensor_files::TensorFiles;

/// The values of a leaf, and the element type that each of its parts had in the files.
type Values = (Held, Vec<Kind>);

/// Gives the values of the n-th leaf.
type Give<'a> = dyn FnMut(u64, &Leaf) -> Result<Values, ModelError> + 'a;

/// Values in memory, or where they are read from.
enum Held {
    Here(Tensor),
    Elsewhere(Source),
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
}

/// The names that files may have for a tensor.
fn spellings(names: &Names, name: &str) -> [String; 3] {
    let alias = match name.strip_prefix(names.head) {
        Some(rest) => format!("{}{rest}", names.head_alias),
        None => name.to_owned(),
    };
    [name.to_owned(), without_base(name).to_owned(), alias]
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
