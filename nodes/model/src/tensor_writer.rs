//! Writes safetensors so that the same tensors always give the same bytes: names sorted, contiguous, header padded to
//! 8 bytes, one tensor (or a part of one) in host memory at a time, synced to disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::error::ModelError;

/// A file that was written and synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedFile {
    /// Name inside the directory.
    pub name: String,
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// Writes to a file and hashes on the way.
struct Hashed {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Hashed {
    fn create(path: PathBuf) -> Result<Self, ModelError> {
        let file = File::create(&path).map_err(ModelError::write(&path))?;
        Ok(Self { path, file, hash: Sha256::new(), bytes: 0 })
    }

    fn put(&mut self, data: &[u8]) -> Result<(), ModelError> {
        self.hash.update(data);
        self.bytes += data.len() as u64;
        self.file.write_all(data).map_err(ModelError::write(&self.path))
    }

    /// Syncs it.
    fn end(self, name: &str) -> Result<SavedFile, ModelError> {
        self.file.sync_all().map_err(ModelError::write(&self.path))?;
        let sha256 = hex::encode(self.hash.finalize());
        Ok(SavedFile { name: name.to_owned(), bytes: self.bytes, sha256 })
    }
}

/// Writes and syncs a small file.
pub(crate) fn write_bytes(dir: &Path, name: &str, data: &[u8]) -> Result<SavedFile, ModelError> {
    let mut out = Hashed::create(dir.join(name))?;
    out.put(data)?;
    out.end(name)
}

/// Syncs and describes a file that something else wrote.
pub(crate) fn sync_file(dir: &Path, name: &str) -> Result<SavedFile, ModelError> {
    let path = dir.join(name);
    let mut hash = Sha256::new();
    let (file, bytes) = hashed(&path, &mut hash)?;
    file.sync_all().map_err(ModelError::write(&path))?;
    let sha256 = hex::encode(hash.finalize());
    Ok(SavedFile { name: name.to_owned(), bytes, sha256 })
}

/// Takes the content of a file into a hash. Returns the file, and how many bytes it has.
pub(crate) fn hashed(path: &Path, hash: &mut Sha256) -> Result<(File, u64), ModelError> {
    let mut file = File::open(path).map_err(ModelError::read(path))?;
    let (mut bytes, mut chunk) = (0, vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut chunk).map_err(ModelError::read(path))?;
        if count == 0 {
            return Ok((file, bytes));
        }
        hash.update(&chunk[..count]);
        bytes += count as u64;
    }
}

/// The element type to write a tensor in: the one it was read from when that loses nothing, else fp32. So a model that is
/// only loaded and saved keeps its bytes, and a trained one keeps its bits.
pub(crate) fn lossless(tensor: &Tensor, stored: Kind) -> Result<Kind, ModelError> {
    let exact = [Kind::Float, tensor.kind()].contains(&stored)
        || tensor.f_to_kind(stored)?.f_to_kind(Kind::Float)?.f_equal(tensor)?;
    Ok(if exact { stored } else { Kind::Float })
}

/// The name of an element type in safetensors and in config.json.
pub(crate) fn names(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Double => ("F64", "float64"),
        Kind::Half => ("F16", "float16"),
        Kind::BFloat16 => ("BF16", "bfloat16"),
        Kind::Float8e4m3fn => ("F8_E4M3", "float8_e4m3fn"),
        Kind::Float8e5m2 => ("F8_E5M2", "float8_e5m2"),
        _ => ("F32", "float32"),
    }
}

/// Bytes of tensors that a file has at most, where nothing else is said: as much as in `transformers`.
pub(crate) const FILE_LIMIT: u64 = 5_000_000_000;

/// The shape and the element type of tensors, by their names.
pub(crate) type Shapes = BTreeMap<String, (Vec<i64>, Kind)>;

fn size((shape, kind): &(Vec<i64>, Kind)) -> usize {
    kind.elt_size_in_bytes() * shape.iter().product::<i64>() as usize
}

/// A safetensors file before it is written.
#[derive(Debug)]
pub(crate) struct Planned {
    pub name: String,
    pub tensors: Shapes,
}

/// Returns `NAME.safetensors` with these tensors, or, where that would have more than `limit` bytes of them, `NAME-00001-of-0000N.safetensors`
/// and so on, as Hugging Face's programs do. [`index`] is the file that goes with several.
pub(crate) fn planned(name: &str, limit: u64, tensors: &Shapes) -> Vec<Planned> {
    let (mut files, mut filled) = (vec![Shapes::new()], 0);
    for (name, tensor) in tensors {
        let bytes = size(tensor) as u64;
        if filled > 0 && filled + bytes > limit {
            files.push(Shapes::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(file) = files.last_mut() {
            file.insert(name.clone(), tensor.clone());
        }
    }
    let count = files.len();
    let named = |(number, tensors)| {
        let part = if count == 1 { String::new() } else { format!("-{:05}-of-{count:05}", number + 1) };
        Planned { name: format!("{name}{part}.safetensors"), tensors }
    };
    files.into_iter().enumerate().map(named).collect()
}

/// Writes and syncs which of several files each tensor is in; nothing of a single one.
pub(crate) fn write_index(dir: &Path, name: &str, files: &[Planned]) -> Result<Option<SavedFile>, ModelError> {
    if files.len() == 1 {
        return Ok(None);
    }
    let total: usize = files.iter().flat_map(|file| file.tensors.values()).map(size).sum();
    let places = |file: &Planned| file.tensors.keys().map(|name| (name.clone(), json!(file.name))).collect::<Vec<_>>();
    let map: Map<String, Value> = files.iter().flat_map(places).collect();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    write_bytes(dir, &format!("{name}.safetensors.index.json"), format!("{index:#}\n").as_bytes()).map(Some)
}

/// Writes and syncs [`planned`] files and their index, with `notes` as the metadata of each.
pub(crate) fn write_in_files(
    dir: &Path,
    name: &str,
    limit: u64,
    tensors: &BTreeMap<String, (Tensor, Kind)>,
    notes: &BTreeMap<String, String>,
) -> Result<Vec<SavedFile>, ModelError> {
    let shapes = tensors.iter().map(|(name, (tensor, kind))| (name.clone(), (tensor.size(), *kind))).collect();
    let files = planned(name, limit, &shapes);
    let mut saved = Vec::with_capacity(files.len() + 1);
    for file in &files {
        let mut writer = Writer::begin(dir, file, notes)?;
        for (tensor, kind) in file.tensors.keys().filter_map(|name| tensors.get(name)) {
            writer.put(tensor, *kind)?;
        }
        saved.push(writer.end()?);
    }
    saved.extend(write_index(dir, name, &files)?);
    Ok(saved)
}

/// Takes the next elements of a tensor.
pub(crate) type Put<'a> = dyn FnMut(&Tensor) -> Result<(), ModelError> + 'a;

/// A safetensors file that is being written.
pub(crate) struct Writer<'a> {
    file: &'a Planned,
    out: Hashed,
    /// That it has when it is whole.
    whole: u64,
    bytes: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Writes what stands before the tensors.
    pub fn begin(dir: &Path, file: &'a Planned, notes: &BTreeMap<String, String>) -> Result<Self, ModelError> {
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!(notes));
        let mut end = 0;
        for (name, tensor) in &file.tensors {
            let start = end;
            end += size(tensor);
            let (shape, kind) = tensor;
            header.insert(name.clone(), json!({"dtype": names(*kind).0, "shape": shape, "data_offsets": [start, end]}));
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut out = Hashed::create(dir.join(&file.name))?;
        out.put(&(header.len() as u64).to_le_bytes())?;
        out.put(&header)?;
        Ok(Self { file, whole: out.bytes + end as u64, out, bytes: Vec::new() })
    }

    /// Writes the next elements, in the order of the tensors' names.
    pub fn put(&mut self, part: &Tensor, kind: Kind) -> Result<(), ModelError> {
        let host = part.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(kind)?.f_contiguous()?;
        self.bytes.resize(kind.elt_size_in_bytes() * host.numel(), 0);
        host.f_copy_data_u8(&mut self.bytes, host.numel())?;
        self.out.put(&self.bytes)
    }

    /// Syncs the file. Errors if elements are missing, or too many.
    pub fn end(self) -> Result<SavedFile, ModelError> {
        let (found, name) = (self.out.bytes, &self.file.name);
        if found != self.whole {
            return Err(ModelError::input(format!("bytes of {name}"), found, self.whole));
        }
        self.out.end(name)
    }
}
