//! Adapters: low-rank changes of a base model's matrices, which are trained and saved in its place (LoRA), in PEFT's files.

mod files;
mod lora;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use difflow_diffusion::keyed;
use tch::{Kind, Tensor};

use crate::config::ModelConfig;
use crate::device::Device;
use crate::error::ModelError;
use crate::layers::Linear;
use crate::model::{Model, companions};
use crate::network::Network;
use crate::parameter::{Init, Leaf, Parameter, Part};
use crate::snapshot::TensorFile;
use crate::tensor_files::TensorFiles;

pub use files::{AdapterConfig, Targets};
pub(crate) use lora::{LowRank, Piece};

pub(crate) use files::CONFIG;
use files::{WEIGHTS, fingerprint, tensor};

/// In the file's metadata: the base model's [`fingerprint`].
const BASE: &str = "base_sha256";

/// Gives A and B of a matrix, of this rank.
type Take<'a> = dyn FnMut(&Target, i64) -> Result<(Tensor, Tensor), ModelError> + 'a;

/// What is known of a model's adapter.
#[derive(Debug)]
pub(crate) struct Adapter {
    config: AdapterConfig,
    /// The base model's [`fingerprint`], where it is known.
    base_sha256: Option<String>,
}

/// One matrix of the base model that an adapter changes.
struct Target {
    /// Its name in the files, without `.weight`.
    module: String,
    inputs: i64,
    outputs: i64,
    /// Its first column among those of the map that it is part of.
    start: i64,
}

impl Model {
    /// Adds an adapter that changes nothing yet: A is drawn by the key, B is zero. Only the adapter, and the modules that it keeps whole,
    /// are trained from now on. Comes after the mask token.
    ///
    /// # Errors
    /// When the configuration means nothing, no matrix has a name that it targets, the model is a plug-in's, or it has an adapter.
    pub fn add_adapter(&mut self, config: &AdapterConfig, seed: u64) -> Result<(), ModelError> {
        let base = Path::new(config.base_model_name_or_path.as_deref().unwrap_or_default());
        // Of a base model that is not in a folder nothing can be said.
        let base = if base.is_dir() { Some(fingerprint(base)?) } else { None };
        let mut place = 0;
        self.take_adapter(config, base, &mut |target, rank| {
            // As PEFT draws A: uniform with the bound 1 / √in.
            let bound = 1.0 / (target.inputs as f64).sqrt();
            let mut rng = keyed::rng(seed, "adapter", place, 0);
            place += 1;
            let values = (0..rank * target.inputs).map(|_| ((2.0 * keyed::uniform(&mut rng) - 1.0) * bound) as f32);
            let a = Tensor::f_from_slice(&values.collect::<Vec<f32>>())?.f_view((rank, target.inputs))?;
            Ok((a, Tensor::f_zeros([target.outputs, rank], (Kind::Float, tch::Device::Cpu))?))
        })
    }

    /// The base model that the adapter in a folder names, with the adapter. The mask token, and what else was adapted, are those of the
    /// folder's config.json, which an adapter of PEFT does not have.
    pub(crate) fn load_adapted(dir: &Path, device: Device) -> Result<Self, ModelError> {
        let base = AdapterConfig::read(dir)?.base(dir)?;
        let mut model = Self::load(&base, device)?;
        model.load_adapter(dir, &base)?;
        Ok(model)
    }

    /// Adds the adapter in a folder with PEFT's files to the base model of the folder `base`, and takes the mask token and the companions
    /// that the adapter's folder has.
    ///
    /// # Errors
    /// Names what is wrong with the files, or does not fit the model; and when the adapter was trained for another base model.
    pub fn load_adapter(&mut self, dir: &Path, base: &Path) -> Result<(), ModelError> {
        let (config, path) = (AdapterConfig::read(dir)?, dir.join(WEIGHTS));
        let files = TensorFiles::open(path.clone(), std::slice::from_ref(&path))?;
        let trained_for = files.note(BASE).map(str::to_owned);
        if let Some(wanted) = &trained_for {
            let found = fingerprint(base)?;
            if found != *wanted {
                let what = format!("base model of the adapter in {}", dir.display());
                let found = format!("{} with sha256 {found}", base.display());
                return Err(ModelError::input(what, found, format!("sha256 {wanted}")));
            }
        }
        if dir.join("config.json").is_file() {
            self.adapt(ModelConfig::load(dir)?)?;
        }
        self.companions.extend(companions(dir)?);
        let find = |name: String, wanted: &[i64]| match files.get(&name, wanted)? {
            Some(tensor) => Ok(tensor.f_to_kind(Kind::Float)?),
            None => Err(ModelError::MissingTensor { tensor: name, file: path.clone(), wanted: wanted.to_vec() }),
        };
        let mut known = Vec::new();
        self.take_adapter(&config, trained_for, &mut |target, rank| {
            let names = ["lora_A.weight", "lora_B.weight"].map(|what| tensor(&target.module, what));
            known.extend(names.clone());
            let [a, b] = names;
            Ok((find(a, &[rank, target.inputs])?, find(b, &[target.outputs, rank])?))
        })?;
        for parameter in self.parameters.iter_mut().filter(|parameter| parameter.trainable && !parameter.leaf.adapter) {
            for (part, mut view) in parameter.split(&parameter.tensor.f_detach()?)? {
                let name = tensor(module(&part.name), "weight");
                view.f_copy_(&find(name.clone(), &part.shape)?)?;
                known.push(name);
            }
        }
        if let Some((embedding, head)) = self.tied().filter(|(embedding, _)| config.keeps(embedding)) {
            let [one, other] = [embedding, head].map(|module| tensor(&module, "weight"));
            let size = self.parameters[0].leaf.shape();
            if !find(one, &size)?.f_equal(&find(other.clone(), &size)?)? {
                return Err(ModelError::NotTied { tensor: other, file: path });
            }
            known.push(other);
        }
        let extra: Vec<String> =
            files.names().filter(|name| !known.iter().any(|k| k == name)).map(str::to_owned).collect();
        if !extra.is_empty() {
            return Err(ModelError::ExtraTensors { file: path, tensors: extra });
        }
        Ok(())
    }

    /// Keeps the matrices that are not trained in bf16 from now on: half the memory, and values that were bf16 in the files lose nothing.
    /// Products in fp32 make an fp32 copy of one matrix at a time.
    ///
    /// # Errors
    /// What torch says.
    pub fn round_base(&mut self) -> Result<(), ModelError> {
        let still = |parameter: &&mut Parameter| !parameter.trainable && parameter.is_matrix();
        tch::no_grad(|| {
            for parameter in self.parameters.iter_mut().filter(still) {
                let rounded = parameter.tensor.f_to_kind(Kind::BFloat16)?;
                // In place: the decoder has the same tensor.
                parameter.tensor.f_set_data(&rounded)?;
            }
            Ok(())
        })
    }

    /// Takes the mask token and the marks of a configuration with the same shape.
    fn adapt(&mut self, wanted: ModelConfig) -> Result<(), ModelError> {
        let Some(adapted) = wanted.adapted else { return Ok(()) };
        if wanted.vocab_size > self.config.vocab_size {
            // The row itself is in the adapter's file.
            self.add_mask_token(0)?;
        } else {
            self.use_mask_token(adapted.mask_token_id)?;
        }
        self.config.adapted = Some(adapted);
        Ok(())
    }

    /// Adds the adapter to the matrices that it changes; then there is none any more.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn merge_adapter(&mut self) -> Result<(), ModelError> {
        let Network::Own(decoder) = &mut self.decoder else { return Ok(()) };
        decoder.forget_recorded();
        tch::no_grad(|| {
            for map in decoder.blocks.iter_mut().flat_map(crate::block::Block::maps_mut) {
                let Some(change) = map.adapter.take() else { continue };
                for piece in &change.pieces {
                    let (dimension, mut product) = (i64::from(map.in_first), piece.product()?);
                    if map.in_first {
                        product = product.f_transpose(0, 1)?;
                    }
                    let length = piece.b.size()[0];
                    let _ = map.weight.master.f_detach()?.f_narrow(dimension, piece.start, length)?.f_add_(&product)?;
                }
            }
            Ok::<(), ModelError>(())
        })?;
        self.parameters.retain(|parameter| !parameter.leaf.adapter);
        self.parameters.iter_mut().for_each(|parameter| parameter.trainable = true);
        self.adapter = None;
        Ok(())
    }

    /// The adapter's configuration, where there is one.
    pub fn adapter(&self) -> Option<&AdapterConfig> {
        self.adapter.as_ref().map(|adapter| &adapter.config)
    }

    /// The modules of embedding and head, where they are one matrix. PEFT keeps each for itself, so both are in its files.
    fn tied(&self) -> Option<(String, String)> {
        let embedding = self.parameters.iter().find(|parameter| parameter.leaf.vocabulary)?;
        let head = self.config.family.names().head.to_owned();
        self.config.tied.then(|| (module(&embedding.leaf.parts[0].name).to_owned(), head))
    }

    /// Hangs pieces with the tensors that `take` gives into the maps that a configuration targets, and freezes everything else.
    fn take_adapter(
        &mut self,
        config: &AdapterConfig,
        base_sha256: Option<String>,
        take: &mut Take<'_>,
    ) -> Result<(), ModelError> {
        config.check()?;
        if self.adapter.is_some() {
            return Err(ModelError::input("adapter", "a second one", "a model without one; merge the first"));
        }
        let apart = |(embedding, head): &(String, String)| config.keeps(embedding) != config.keeps(head);
        if let Some((embedding, head)) = self.tied().filter(apart) {
            let (found, wanted) = (format!("one of `{embedding}` and `{head}`"), "both or none: they are one matrix");
            return Err(ModelError::input("modules_to_save of the adapter", found, wanted));
        }
        let (device, rank, scale) = (self.device.torch(), config.r as i64, config.scale());
        let Network::Own(decoder) = &mut self.decoder else {
            let wanted = "a model that difflow computes itself";
            return Err(ModelError::input("adapter", "for a plug-in's torch model", wanted));
        };
        decoder.forget_recorded();
        let mut added = Vec::new();
        let mut seen = Vec::new();
        for map in decoder.blocks.iter_mut().flat_map(crate::block::Block::maps_mut) {
            let targets = targets(map, &self.parameters)?;
            seen.extend(targets.iter().map(|target| target.module.clone()));
            let outputs = targets.iter().map(|target| target.outputs).sum();
            let mut pieces = Vec::new();
            for target in targets.iter().filter(|target| config.changes(&target.module)) {
                let (a, b) = take(target, rank)?;
                let (a, b) = (a.f_to_device(device)?, b.f_to_device(device)?);
                for (what, values) in [("lora_A.weight", &a), ("lora_B.weight", &b)] {
                    let part = (tensor(&target.module, what), values.size());
                    let leaf = Leaf { adapter: true, ..Leaf::new(Init::Zero, [part]) };
                    let tensor = values.shallow_clone();
                    added.push(Parameter { leaf, tensor, source: None, stored: vec![Kind::Float], trainable: true });
                }
                pieces.push(Piece { a, b, scale, start: target.start });
            }
            map.adapter = (!pieces.is_empty()).then_some(LowRank { pieces, outputs });
        }
        let routed = self.parameters.iter().filter(|parameter| parameter.leaf.routed);
        if let Some(part) =
            routed.flat_map(|parameter| &parameter.leaf.parts).find(|part| config.asks_for(module(&part.name)))
        {
            let found = format!("{:?}, which is the end of `{}`", config.target_modules, module(&part.name));
            let wanted = "none of a router or an expert: they are not adapted; all-linear leaves them out";
            return Err(ModelError::input("targets of the adapter", found, wanted));
        }
        if added.is_empty() {
            seen.truncate(8);
            let found = format!("{:?}", config.target_modules);
            return Err(ModelError::input("targets of the adapter", found, format!("some of {}, …", seen.join(", "))));
        }
        for parameter in &mut self.parameters {
            parameter.trainable = parameter.leaf.parts.iter().all(|part| config.keeps(module(&part.name)));
        }
        self.parameters.extend(added);
        self.adapter = Some(Adapter { config: config.clone(), base_sha256 });
        Ok(())
    }

    /// The adapter's files: what is trained, with other values for the parameters.
    pub(crate) fn adapter_files(
        &self,
        adapter: &Adapter,
        value: impl Fn(usize, &Parameter) -> Tensor,
    ) -> Result<(TensorFile, Vec<u8>), ModelError> {
        let mut tensors = BTreeMap::new();
        for (at, parameter) in self.parameters.iter().enumerate().filter(|(_, parameter)| parameter.trainable) {
            for ((part, view), stored) in parameter.split(&value(at, parameter))?.into_iter().zip(&parameter.stored) {
                let name =
                    if parameter.leaf.adapter { part.name.clone() } else { tensor(module(&part.name), "weight") };
                if let Some((_, head)) = self.tied().filter(|_| parameter.leaf.vocabulary) {
                    tensors.insert(tensor(&head, "weight"), (view.shallow_clone(), *stored));
                }
                tensors.insert(name, (view, *stored));
            }
        }
        let mut notes = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        notes.extend(adapter.base_sha256.clone().map(|sha256| (BASE.to_owned(), sha256)));
        let json = serde_json::to_vec_pretty(&adapter.config)
            .map_err(|source| ModelError::Json { path: CONFIG.into(), source })?;
        Ok((TensorFile { name: WEIGHTS.trim_end_matches(".safetensors"), tensors, notes, whole: true }, json))
    }
}

impl AdapterConfig {
    /// Values that are trained beside a model of this shape: A and B of every matrix that is targeted, and what is kept whole.
    pub fn parameter_count(&self, model: &ModelConfig) -> u64 {
        let trained = |leaf: &Leaf| -> u64 {
            let of_part = |part: &Part| match leaf.matrices {
                Some(_) if !leaf.routed && self.changes(module(&part.name)) => {
                    self.r as u64 * part.shape.iter().sum::<i64>() as u64
                }
                None if leaf.vocabulary && self.keeps(module(&part.name)) => leaf.values(),
                _ => 0,
            };
            leaf.parts.iter().map(of_part).sum()
        };
        model.leaves().iter().map(trained).sum()
    }

    /// Values of the matrices of a model of this shape that stay as they are.
    pub fn still_count(&self, model: &ModelConfig) -> u64 {
        let kept = |leaf: &&Leaf| leaf.parts.iter().all(|part| self.keeps(module(&part.name)));
        let matrix = |leaf: &&Leaf| leaf.parts[0].shape.len() >= 2;
        model.leaves().iter().filter(|leaf| matrix(leaf) && !kept(leaf)).map(Leaf::values).sum()
    }

    /// Last parts of the names of the modules with a row for each token: what an adapter keeps whole where a mask token was added, whose
    /// row would be lost otherwise.
    pub fn vocabulary_modules(model: &ModelConfig) -> [String; 2] {
        let names = model.family.names();
        [names.embedding, names.head].map(|name| name.rsplit('.').next().unwrap_or_default().to_owned())
    }

    /// Whether the output head is trained.
    pub fn keeps_head(&self, model: &ModelConfig) -> bool {
        self.keeps(model.family.names().head)
    }
}

/// A module's name from that of its weight.
fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

/// The matrices that a map stands for, in their order.
fn targets(map: &Linear, parameters: &[Parameter]) -> Result<Vec<Target>, ModelError> {
    let same = |parameter: &&Parameter| parameter.tensor.data_ptr() == map.weight.master.data_ptr();
    let parameter =
        parameters.iter().find(same).ok_or_else(|| ModelError::Torch("a map without its parameter".to_owned()))?;
    let mut start = 0;
    let target = |part: &Part| {
        let (rows, columns) = (part.shape[0], part.shape[1]);
        let (outputs, inputs) = if map.in_first { (columns, rows) } else { (rows, columns) };
        start += outputs;
        Target { module: module(&part.name).to_owned(), inputs, outputs, start: start - outputs }
    };
    Ok(parameter.leaf.parts.iter().map(target).collect())
}
