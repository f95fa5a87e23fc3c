//! An open model: weights, tokenizer, and what the checkpoint records about itself.

use std::path::{Path, PathBuf};

use difflow_diffusion::BlockSizes;
use difflow_model::{
    Blocks, Device, DeviceSettings, Loader, Model, ModelConfig, ObjectiveKind, Positions, Precision, TorchPlugin,
    set_num_threads,
};
use difflow_plugin_host::ModelRecipe;
use difflow_schema::Component;
use difflow_schema::run::RunDir;
use difflow_text::Words;
use serde_json::{Map, Value};

use crate::decoding::Decoding;
use crate::error::InferenceError;
use crate::facts::{Facts, Token};
use crate::generation;

/// How a model is opened.
#[derive(Debug, Clone)]
pub struct Opening {
    /// auto, cpu, cuda or cuda:N.
    pub device: String,
    /// CPU threads of one operation, for the whole process; `None` leaves them as they are.
    pub threads: Option<usize>,
    /// On a GPU: the most of its memory that this process takes, as a share.
    pub memory_fraction: f64,
    /// Arithmetic of matrix products and attention.
    pub precision: Precision,
    /// A tokenizer.json other than the one beside the weights.
    pub tokenizer: Option<PathBuf>,
    /// The mask token of a diffusion model whose files do not say it (DiffuLLaMA: 811).
    pub mask_token: Option<u32>,
    /// A folder with an adapter for the model. A checkpoint that is an adapter itself needs none.
    pub adapter: Option<PathBuf>,
}

impl Default for Opening {
    fn default() -> Self {
        let (device, precision) = ("auto".to_owned(), Precision::Fp32);
        let (tokenizer, mask_token, adapter) = (None, None, None);
        Self { device, threads: None, memory_fraction: 1.0, precision, tokenizer, mask_token, adapter }
    }
}

/// A model with its tokenizer. Queries need no exclusive access: several threads may share a session.
pub struct Session {
    folder: PathBuf,
    model: Model,
    words: Words,
    facts: Facts,
    generation: Map<String, Value>,
    opening: Opening,
}

/// A server asks one session from several threads: this fails to compile where a field forbids that.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Session>();
};

impl Session {
    /// Opens a checkpoint, a base model (a Hugging Face folder), the folder of a run (its last checkpoint), or a hub
    /// id. Errors if it is none of these, the device does not exist, or model and tokenizer do not fit each other.
    pub fn open(path: &Path, opening: &Opening) -> Result<Self, InferenceError> {
        let folder = folder(path)?;
        let mut facts = Facts::read(&folder)?;
        let loader = loader(opening, None, facts.torch_model.as_ref())?;
        let mut model = loader.checkpoint(&folder)?;
        if let Some(mask) = opening.mask_token {
            model.set_mask_token(mask)?;
        }
        if let Some(adapter) = &opening.adapter {
            model.load_adapter(adapter, &folder)?;
            // One of a run says how it was trained.
            if adapter.join(CONFIG).is_file() {
                facts = Facts::read(adapter)?;
            }
        }
        Self::with_model(folder, model, facts, opening)
    }

    /// Returns what opens other models that read the same tokens. It does not keep this one in memory.
    pub fn peers(&self) -> Peers {
        let mask = self.config().adapted.as_ref().map(|adapted| adapted.mask_token_id);
        Peers { words: self.words.clone(), facts: self.facts.clone(), opening: self.opening.clone(), mask }
    }

    fn with_model(folder: PathBuf, mut model: Model, facts: Facts, opening: &Opening) -> Result<Self, InferenceError> {
        model.set_precision(opening.precision);
        model.round()?;
        let beside = Some(folder.join(TOKENIZER)).filter(|path| path.is_file() || facts.tokenizer.is_none());
        let tokenizer = opening.tokenizer.clone().or(beside).or_else(|| facts.tokenizer.clone()).unwrap_or_default();
        let mut words = Words::open(&tokenizer, 0, 0)?;
        words.fit(model.config().vocab_size, None)?;
        let config = model.config();
        let eos = config.eos_token_ids.first().copied();
        let named = |token: &Option<Token>| match token {
            Some(Token::Id(id)) => Some(*id),
            Some(Token::Name(name)) => words.id(name),
            None => None,
        };
        let ids = (named(&facts.bos), named(&facts.eos));
        let first = ids.0.or(config.bos_token_id).or(eos).ok_or_else(|| {
            let wanted = "bos_token_id or eos_token_id: a text has to begin with one";
            InferenceError::unfit("config.json", format!("neither in {}", folder.display()), wanted)
        })?;
        words.bos = first;
        words.eos = ids.1.or(eos).unwrap_or(first);
        let generation = generation::read(&folder)?;
        Ok(Self { folder, model, words, facts, generation, opening: opening.clone() })
    }

    /// Returns the folder that the weights were read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the tokenizer.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Returns the model's configuration.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// Returns what the checkpoint records about itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns the most tokens that a document had in training.
    pub fn sequence_length(&self) -> usize {
        self.facts.sequence_length.unwrap_or(self.config().max_positions)
    }

    /// Returns the tokens of the canvas in which the model was trained to end a text, the anchor included; `None` if it
    /// must be told how long a text is to be.
    pub fn canvas(&self) -> Option<usize> {
        self.facts.canvas.filter(|_| !self.left_to_right())
    }

    /// The most tokens of a text, the anchor included, that the model ends by itself: those of its canvas, or of its rows where it writes
    /// block by block; `None` where it must be told how long to write.
    pub fn room(&self) -> Option<usize> {
        self.canvas().or_else(|| self.blocks().map(|_| self.sequence_length()))
    }

    /// Returns whether the model reads from left to right only: it has no mask token, or was trained to predict the
    /// next token.
    pub fn left_to_right(&self) -> bool {
        self.config().adapted.as_ref().is_none_or(|adapted| adapted.objective == ObjectiveKind::Ar)
    }

    /// How to decode: as `given` (by the names of the keys), else as the checkpoint says, else by default. Errors if an option that is
    /// given means nothing.
    pub fn decoding(&self, given: &Map<String, Value>) -> Result<Decoding, InferenceError> {
        let own =
            |reason: String| InferenceError::Generation { path: self.folder.join(generation::GENERATION), reason };
        let own = Decoding::default().with(&self.generation).map_err(own)?;
        own.with(given).map_err(|found| InferenceError::unfit("decoding", found, "options by their names as keys"))
    }

    /// What its blocks are, where it writes block by block.
    pub fn blocks(&self) -> Option<Blocks> {
        self.config().adapted.as_ref().and_then(|adapted| adapted.blocks)
    }

    /// Whether the model has learned to see both sides of a gap: one of block diffusion, if some rows of its training were not cut.
    pub fn fills_gaps(&self) -> bool {
        let whole = |sizes: &String| sizes.parse().is_ok_and(|sizes: BlockSizes| sizes.cut_share() < 1.0);
        !self.left_to_right() && (self.blocks().is_none() || self.facts.blocks.as_ref().is_some_and(whole))
    }

    /// Whether clean text is read from left to right: by some decoder, what is read of it depends on nothing behind it.
    pub fn reads_ahead(&self) -> bool {
        self.left_to_right() || self.blocks().is_some()
    }

    /// Returns the most tokens that a text can have, if the model has a table of positions.
    pub fn longest(&self) -> Option<usize> {
        (self.config().positions == Positions::Learned).then_some(self.config().max_positions)
    }

    /// Returns the tokens that end a text.
    pub fn stops(&self) -> Vec<u32> {
        let mut stops = self.config().eos_token_ids.clone();
        stops.push(self.words.eos);
        stops
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn shift(&self) -> bool {
        self.config().adapted.as_ref().is_none_or(|adapted| adapted.shift)
    }
}

/// Opens models that read the tokens of a session: the base model that it was made from, or a judge of its texts.
pub struct Peers {
    words: Words,
    facts: Facts,
    opening: Opening,
    /// The only token that needs no row.
    mask: Option<u32>,
}

impl Peers {
    /// Opens the base model that the checkpoint was made from. Returns `None` if none is known or its folder has no
    /// weights (a model trained from random weights has a base of its shape only). Errors if it cannot be read.
    pub fn base(&self) -> Result<Option<Session>, InferenceError> {
        let Some(named) = &self.facts.base_model else { return Ok(None) };
        let folder = folder(Path::new(named))?;
        if !has_weights(&folder) {
            return Ok(None);
        }
        let Facts { model_recipe, torch_model, .. } = &self.facts;
        let model = loader(&self.opening, model_recipe.as_ref(), torch_model.as_ref())?.base(&folder)?;
        self.session(folder, model).map(Some)
    }

    /// Opens the model at a path or with a hub id. Errors if it cannot be read or has other tokens.
    pub fn model(&self, path: &Path) -> Result<Session, InferenceError> {
        let folder = folder(path)?;
        let model = loader(&self.opening, None, None)?.checkpoint(&folder)?;
        self.session(folder, model)
    }

    fn session(&self, folder: PathBuf, mut model: Model) -> Result<Session, InferenceError> {
        let own = folder.join(TOKENIZER);
        if own.is_file() {
            self.words.agree(&Words::open(&own, self.words.bos, self.words.eos)?)?;
        }
        self.words.fit(model.config().vocab_size, self.mask)?;
        model.set_precision(self.opening.precision);
        model.round()?;
        let (words, opening) = (self.words.clone(), self.opening.clone());
        let generation = generation::read(&folder)?;
        Ok(Session { folder, model, words, facts: Facts::default(), generation, opening })
    }
}

/// Returns whether a folder has the weights of a model.
fn has_weights(folder: &Path) -> bool {
    ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| folder.join(name).exists())
}

fn loader(opening: &Opening, recipe: Option<&Component>, torch: Option<&Component>) -> Result<Loader, InferenceError> {
    if let Some(threads) = opening.threads {
        set_num_threads(threads);
    }
    DeviceSettings { memory_fraction: opening.memory_fraction, ..DeviceSettings::default() }.set()?;
    let device = Device::open(&opening.device)?;
    let recipe = recipe.map(|one| ModelRecipe::named(&one.name, &one.config)).transpose()?.flatten();
    // A checkpoint names the component that it needs; a library that has moved is looked for by that id.
    let torch_model = torch.and_then(|one| TorchPlugin::named(&one.name, &one.config).ok().flatten());
    Ok(Loader { recipe, torch_model, precision: opening.precision, ..Loader::new(device) })
}

/// The folder with config.json: the given one, the last checkpoint of a run, or that of a hub id.
fn folder(given: &Path) -> Result<PathBuf, InferenceError> {
    if given.join(CONFIG).exists() {
        return Ok(given.to_owned());
    }
    let run = RunDir::new(given, "");
    let steps = run.checkpoint_steps().unwrap_or_default();
    let last = steps.into_iter().rev().map(|step| run.checkpoint(step)).find(|folder| folder.join(CONFIG).exists());
    if let Some(last) = last {
        return Ok(last);
    }
    match given.to_str().filter(|id| difflow_hub::is_id(id)) {
        Some(id) => Ok(difflow_hub::folder(id)?),
        None => Err(InferenceError::NoModel { found: given.display().to_string() }),
    }
}

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tiny;

    #[test]
    fn a_run_stands_for_its_last_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        for step in ["step-00000200", "step-00001000", "step-00001200.partial", "step-00001100"] {
            std::fs::create_dir_all(dir.path().join("checkpoints").join(step)).unwrap();
        }
        for step in ["step-00000200", "step-00001000", "step-00001200.partial"] {
            std::fs::write(dir.path().join("checkpoints").join(step).join(CONFIG), "{}").unwrap();
        }
        assert_eq!(folder(dir.path()).unwrap(), dir.path().join("checkpoints/step-00001000"));
        let one = dir.path().join("checkpoints/step-00000200");
        assert_eq!(folder(&one).unwrap(), one);
        assert!(folder(&dir.path().join("nowhere")).unwrap_err().to_string().contains("config.json"));
    }

    #[test]
    fn special_tokens_are_the_origins_then_the_lineages_then_the_configurations() {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_model(dir.path(), true, 0.3);
        let ends = || {
            let session = Session::open(dir.path(), &tiny::opening()).unwrap();
            (session.words().bos, session.words().eos)
        };
        assert_eq!(ends(), (1, 2));
        std::fs::write(dir.path().join("lineage.json"), r#"{"configuration": {"BOS_TOKEN": "z", "EOS_TOKEN": "z"}}"#)
            .unwrap();
        let z = Session::open(dir.path(), &tiny::opening()).unwrap().words().id("z").unwrap();
        assert_eq!(ends(), (z, z));
        tiny::write_origin(dir.path(), None, |origin| (origin.bos, origin.eos) = (5, 6));
        assert_eq!(ends(), (5, 6));
    }

    /// DiffuLLaMA's files look like those of a base model.
    #[test]
    fn a_mask_token_that_the_files_do_not_name_can_be_told() {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_model(dir.path(), false, 0.3);
        let open = |mask| Session::open(dir.path(), &Opening { mask_token: mask, ..tiny::opening() });
        assert!(open(None).unwrap().left_to_right());
        let told = open(Some(36)).unwrap();
        assert!(!told.left_to_right() && told.shift() && told.config().adapted.as_ref().unwrap().mask_token_id == 36);
        assert!(open(Some(37)).err().unwrap().to_string().contains("below the vocabulary's 37"));
        tiny::write_model(dir.path(), true, 0.3);
        assert!(open(Some(36)).err().unwrap().to_string().contains("37, as the files say") && open(Some(37)).is_ok());
    }

    #[test]
    fn a_tokenizer_with_more_tokens_than_the_model_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_model(dir.path(), true, 0.3);
        let path = dir.path().join(TOKENIZER);
        let more = std::fs::read_to_string(&path).unwrap().replace("\"a\": 3,", "\"a\": 3, \"zz\": 99,");
        std::fs::write(&path, more).unwrap();
        assert!(Session::open(dir.path(), &tiny::opening()).err().unwrap().to_string().contains("ids go up to 99"));
    }

    /// The checkpoint's tokenizer has the mask token, for which the base model has no row; it is never in a text.
    #[test]
    fn the_base_model_is_opened_beside_its_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let (base, checkpoint) = (dir.path().join("base"), dir.path().join("checkpoint"));
        tiny::write_model(&base, false, 0.3);
        tiny::write_model(&checkpoint, true, 0.3);
        let session = |base: Option<&Path>| {
            tiny::write_origin(&checkpoint, base, |_| ());
            Session::open(&checkpoint, &tiny::opening()).unwrap()
        };
        let found = session(Some(&base)).peers().base().unwrap().unwrap();
        assert!(found.left_to_right() && found.words().eos == 2);
        std::fs::remove_file(base.join("model.safetensors")).unwrap();
        assert!(session(Some(&base)).peers().base().unwrap().is_none());
        assert!(session(Some(&dir.path().join("gone"))).peers().base().is_err());
    }
}
