//! The content of a folder about to be written: a model, or everything that training continues from.
//!
//! A copy ([`crate::Learner::snapshot`]) shares no memory with the model, so another thread may write it while
//! training changes the weights.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::tensor_writer::{SavedFile, lossless, names, write_bytes, write_in_files};

/// A safetensors file before it is written.
#[derive(Debug)]
pub(crate) struct TensorFile {
    /// Without its ending.
    pub name: &'static str,
    /// By name: the values, and the element type that they were read in.
    pub tensors: BTreeMap<String, (Tensor, Kind)>,
    pub notes: BTreeMap<String, String>,
    /// Whether it is one file, however large it is: who reads adapters knows no index.
    pub whole: bool,
}

/// What config.json calls the element type of these tensors.
pub(crate) fn dtype(mut kinds: impl Iterator<Item = Kind>) -> &'static str {
    let first = kinds.next().unwrap_or(Kind::Float);
    names(if kinds.all(|kind| kind == first) { first } else { Kind::Float }).1
}

/// The files of difflow's own models.
#[derive(Debug)]
pub(crate) struct OwnFiles {
    pub config: ModelConfig,
    pub weights: TensorFile,
    pub companions: BTreeMap<String, Vec<u8>>,
}

/// Files before they are written.
#[derive(Debug)]
pub struct Snapshot {
    /// Those that are written already: of a plug-in's torch model, because only the plug-in knows how, and those of which no process has all.
    pub(crate) written: Vec<SavedFile>,
    pub(crate) own: Option<OwnFiles>,
    pub(crate) optimizer: Option<TensorFile>,
    /// Bytes of tensors that a file has at most.
    pub(crate) file_limit: u64,
}

impl Snapshot {
    /// Writes the files into an existing folder (for a snapshot: the one that it was made for), each synced to disk. The same content gives the same bytes. A tensor is written
    /// in the element type that it was read from if that loses nothing, else in fp32.
    ///
    /// # Errors
    /// When the folder cannot be written to, or the disk is full.
    pub fn write(&self, dir: &Path) -> Result<Vec<SavedFile>, ModelError> {
        let mut saved = self.written.clone();
        if let Some(own) = &self.own {
            let tensors = own.weights.in_stored_types()?;
            let dtype = dtype(tensors.values().map(|(_, kind)| *kind));
            saved.push(write_bytes(dir, "config.json", own.config.to_json(dtype).as_bytes())?);
            let limit = if own.weights.whole { u64::MAX } else { self.file_limit };
            saved.extend(write_in_files(dir, own.weights.name, limit, &tensors, &own.weights.notes)?);
            for (name, bytes) in &own.companions {
                saved.push(write_bytes(dir, name, bytes)?);
            }
        }
        if let Some(file) = &self.optimizer {
            saved.extend(write_in_files(dir, file.name, self.file_limit, &file.in_stored_types()?, &file.notes)?);
        }
        Ok(saved)
    }

    /// Bytes of the tensors as they are held.
    pub fn bytes(&self) -> u64 {
        let files = self.own.iter().map(|own| &own.weights).chain(&self.optimizer);
        let tensors = files.flat_map(|file| file.tensors.values());
        tensors.map(|(tensor, _)| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64).sum()
    }

    /// The same content in host memory of its own.
    pub(crate) fn copied(mut self) -> Result<Self, ModelError> {
        for file in self.own.iter_mut().map(|own| &mut own.weights).chain(&mut self.optimizer) {
            for (tensor, _) in file.tensors.values_mut() {
                let mut copy = Tensor::f_empty(tensor.size(), (tensor.kind(), tch::Device::Cpu))?;
                copy.f_copy_(&tensor.f_detach()?)?;
                *tensor = copy;
            }
        }
        Ok(self)
    }
}

impl TensorFile {
    fn in_stored_types(&self) -> Result<BTreeMap<String, (Tensor, Kind)>, ModelError> {
        let typed = |(name, (tensor, stored)): (&String, &(Tensor, Kind))| {
            let tensor = tensor.f_detach()?;
            let kind = lossless(&tensor, *stored)?;
            Ok((name.clone(), (tensor, kind)))
        };
        self.tensors.iter().map(typed).collect()
    }
}
