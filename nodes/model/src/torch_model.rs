//! A plug-in's torch model as a [`Model`]: loaded, given its mask token, saved.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use crate::arithmetic::{Arithmetic, Precision};
use crate::config::{ModelConfig, TorchMark};
use crate::device::Device;
use crate::error::ModelError;
use crate::foreign::Foreign;
use crate::host::copied;
use crate::loader::TorchPlugin;
use crate::loss::chunk_elements;
use crate::mask_token::new_row;
use crate::model::{Model, companions};
use crate::network::Network;
use crate::parameter::Parameter;
use crate::tensor_writer::{SavedFile, sync_file, write_bytes};

/// State of the plug-in (`difflow.state/1`), where it has any.
const STATE_FILE: &str = "torch_model.state";

impl Model {
    /// Loads a folder with a plug-in's torch model. Of config.json difflow reads the vocabulary's size, the ids of special tokens and the
    /// longest sequence; the rest is for the plug-in. The precision is that of everything computed with it.
    ///
    /// # Errors
    /// What the plug-in says, or what is wrong with config.json or a parameter.
    pub fn load_torch(
        dir: &Path,
        plugin: &TorchPlugin,
        device: Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let mark = TorchMark { id: plugin.found.component.id.clone(), config: plugin.config.clone() };
        let config = ModelConfig::load_torch(dir, mark)?;
        let (kind, dtype) = match precision {
            Precision::Fp32 => (Kind::Float, "f32"),
            Precision::Bf16 => (Kind::BFloat16, "bf16"),
        };
        let mut model = plugin.open()?;
        match fs::read(dir.join(STATE_FILE)) {
            Ok(bytes) => model.instance_mut().load_state(&bytes)?,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(ModelError::read(&dir.join(STATE_FILE))(e)),
        }
        model.load(Some(dir), &device.to_string(), dtype, 0)?;
        let foreign = Foreign::new(model, device, kind);
        let parameters = foreign.parameters()?;
        let (companions, decoder) = (companions(dir)?, Network::Foreign(Box::new(foreign)));
        let arithmetic = Arithmetic { precision, kernels: false, ..Arithmetic::of(device) };
        let chunk_elements = chunk_elements(device);
        Ok(Self { config, decoder, parameters, companions, adapter: None, device, arithmetic, chunk_elements })
    }

    /// One more row for every parameter with a row for each token, as [`Model::add_mask_token`] gives it to difflow's own models.
    pub(crate) fn grow_torch(&mut self, seed: u64) -> Result<(), ModelError> {
        let Network::Foreign(foreign) = &self.decoder else { return Ok(()) };
        let size = self.config.vocab_size;
        let rows = |parameters: &[Parameter]| -> BTreeMap<String, i64> {
            let matrices = parameters.iter().filter(|parameter| parameter.is_matrix());
            matrices.map(|p| (p.leaf.parts[0].name.clone(), p.leaf.parts[0].shape[0])).collect()
        };
        let before = rows(&self.parameters);
        foreign.set_vocab_size(size + 1)?;
        self.parameters = foreign.parameters()?;
        let after = rows(&self.parameters);
        let (old, new) = (size as i64, size as i64 + 1);
        let grew = |name: &String| before.get(name) == Some(&old) && after.get(name) == Some(&new);
        let mut count = 0;
        for (place, parameter) in self.parameters.iter().enumerate() {
            let part = &parameter.leaf.parts[0];
            if part.shape.len() != 2 || !grew(&part.name) {
                continue;
            }
            let (tensor, width) = (parameter.tensor.f_detach()?, part.shape[1]);
            let row = new_row(&copied(&tensor.f_narrow(0, 0, old)?)?, width as usize, seed, place as u64);
            let row = Tensor::f_from_slice(&row)?.f_view((1, width))?.f_to_device(self.device.torch())?;
            tensor.f_narrow(0, old, 1)?.f_copy_(&row)?;
            count += 1;
        }
        if count > 0 {
            return Ok(());
        }
        let what = format!("parameters that set_vocab_size({new}) made larger");
        Err(ModelError::input(what, "none", format!("those with {old} rows, one for each token, with {new} now")))
    }

    /// Writes the plug-in's files, config.json with difflow's keys in it, and the companions. Values other than the parameters' own are
    /// put in their place while the plug-in writes.
    pub(crate) fn save_torch(
        &self,
        foreign: &Foreign,
        dir: &Path,
        value: impl Fn(usize, &Parameter) -> Tensor,
    ) -> Result<Vec<SavedFile>, ModelError> {
        let swap = |given: &dyn Fn(usize, &Parameter) -> Option<Tensor>| -> Result<Vec<Option<Tensor>>, ModelError> {
            let mut before = Vec::with_capacity(self.parameters.len());
            for (at, parameter) in self.parameters.iter().enumerate() {
                let mut own = parameter.tensor.f_detach()?;
                let other = given(at, parameter).filter(|other| other.data_ptr() != own.data_ptr());
                let Some(other) = other else {
                    before.push(None);
                    continue;
                };
                let mut copy = own.f_zeros_like()?;
                copy.f_copy_(&own)?;
                before.push(Some(copy));
                own.f_copy_(&other)?;
            }
            Ok(before)
        };
        // No forward may see the other values.
        let mut plugin = foreign.plugin();
        let own = swap(&|at, parameter| Some(value(at, parameter)))?;
        let written = plugin.save(dir);
        swap(&|at, _| own[at].as_ref().map(Tensor::shallow_clone))?;
        drop(plugin);
        written?;
        let path = dir.join("config.json");
        let mut config = self.config.clone();
        if path.exists() {
            let text = fs::read(&path).map_err(ModelError::read(&path))?;
            let own: Map<String, Value> =
                serde_json::from_slice(&text).map_err(|source| ModelError::Json { path: path.clone(), source })?;
            config.merge(own);
        }
        write_bytes(dir, "config.json", config.to_json("float32").as_bytes())?;
        for (name, bytes) in &self.companions {
            write_bytes(dir, name, bytes)?;
        }
        if let Some(bytes) = foreign.state()? {
            write_bytes(dir, STATE_FILE, &bytes)?;
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(ModelError::read(dir))? {
            let entry = entry.map_err(ModelError::read(dir))?;
            if entry.path().is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        names.iter().map(|name| sync_file(dir, name)).collect()
    }
}
