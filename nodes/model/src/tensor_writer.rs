//! Writes safetensors so that the same tensors always give the same bytes: names sorted, contiguous, header padded to
//! 8 bytes, one tensor (or a part of one) in host memory at a time, synced to disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

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
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Hashed {
    fn put(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.hash.update(data);
        self.bytes += data.len() as u64;
        self.file.write_all(data)
    }
}

fn with_file(
    dir: &Path,
    name: &str,
    fill: impl FnOnce(&mut Hashed, &Path) -> Result<(), ModelError>,
) -> Result<SavedFile, ModelError> {
    let path = dir.join(name);
    let file = File::create(&path).map_err(ModelError::write(&path))?;
    let mut out = Hashed { file, hash: Sha256::new(), bytes: 0 };
    fill(&mut out, &path)?;
    out.file.sync_all().map_err(ModelError::write(&path))?;
    let sha256 = hex::encode(out.hash.finalize());
    Ok(SavedFile { name: name.to_owned(), bytes: out.bytes, sha256 })
}

/// Writes and syncs a small file.
pub(crate) fn write_bytes(dir: &Path, name: &str, data: &[u8]) -> Result<SavedFile, ModelError> {
    with_file(dir, name, |out, path| out.put(data).map_err(ModelError::write(path)))
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

/// Writes and syncs `DIR/NAME` with the given tensors, each in the given element type, and `notes` as its metadata.
pub(crate) fn write_tensors(
    dir: &Path,
    name: &str,
    tensors: &BTreeMap<String, (Tensor, Kind)>,
    notes: &BTreeMap<String, String>,
) -> Result<SavedFile, ModelError> {
    let shapes = tensors.iter().map(|(name, (tensor, kind))| (name.clone(), (tensor.size(), *kind))).collect();
    write_in_parts(dir, name, &shapes, notes, &mut |name, put| {
        tensors.get(name).map_or(Ok(()), |(tensor, _)| put(tensor))
    })
}

/// Bytes of tensors that a file of a model has at most, where nothing else is said: as much as in `transformers`.
pub(crate) const FILE_LIMIT: u64 = 5_000_000_000;

/// The shape and the element type of tensors, by their names.
pub(crate) type Shapes = BTreeMap<String, (Vec<i64>, Kind)>;

fn size((shape, kind): &(Vec<i64>, Kind)) -> usize {
    kind.elt_size_in_bytes() * shape.iter().product::<i64>() as usize
}

/// Writes and syncs `DIR/NAME.safetensors`, or, where that would have more than `limit` bytes of tensors, `DIR/NAME-00001-of-0000N.safetensors`
/// and so on and their index, as Hugging Face's programs do. `values` as of [`write_in_parts`]: it is asked in the order of the names.
pub(crate) fn write_in_files(
    dir: &Path,
    name: &str,
    limit: u64,
    tensors: &Shapes,
    notes: &BTreeMap<String, String>,
    values: &mut dyn FnMut(&str, &mut Put<'_>) -> Result<(), ModelError>,
) -> Result<Vec<SavedFile>, ModelError> {
    let total: u64 = tensors.values().map(|tensor| size(tensor) as u64).sum();
    if total <= limit {
        return Ok(vec![write_in_parts(dir, &format!("{name}.safetensors"), tensors, notes, values)?]);
    }
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
    let (mut saved, mut map) = (Vec::with_capacity(files.len() + 1), Map::new());
    for (number, of_file) in files.iter().enumerate() {
        let file = format!("{name}-{:05}-of-{:05}.safetensors", number + 1, files.len());
        saved.push(write_in_parts(dir, &file, of_file, notes, values)?);
        map.extend(of_file.keys().map(|name| (name.clone(), json!(file))));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    let text = format!("{index:#}\n");
    saved.push(write_bytes(dir, &format!("{name}.safetensors.index.json"), text.as_bytes())?);
    Ok(saved)
}

/// Takes the next elements of a tensor.
pub(crate) type Put<'a> = dyn FnMut(&Tensor) -> Result<(), ModelError> + 'a;

/// As [`write_tensors`], of tensors with these shapes and element types. `values` gives the elements of each, in parts; they are asked for in
/// the order of the names, and one part at a time is in memory.
pub(crate) fn write_in_parts(
    dir: &Path,
    name: &str,
    tensors: &Shapes,
    notes: &BTreeMap<String, String>,
    values: &mut dyn FnMut(&str, &mut Put<'_>) -> Result<(), ModelError>,
) -> Result<SavedFile, ModelError> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!(notes));
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += size(tensor);
        let (shape, kind) = tensor;
        header.insert(name.clone(), json!({"dtype": names(*kind).0, "shape": shape, "data_offsets": [start, end]}));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    with_file(dir, name, |out, path| {
        out.put(&(header.len() as u64).to_le_bytes()).map_err(ModelError::write(path))?;
        out.put(&header).map_err(ModelError::write(path))?;
        let mut bytes = Vec::new();
        for (name, tensor) in tensors {
            let (kind, before) = (tensor.1, out.bytes);
            values(name, &mut |part| {
                let host = part.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(kind)?.f_contiguous()?;
                bytes.resize(kind.elt_size_in_bytes() * host.numel(), 0);
                host.f_copy_data_u8(&mut bytes, host.numel())?;
                out.put(&bytes).map_err(ModelError::write(path))
            })?;
            let (found, wanted) = (out.bytes - before, size(tensor) as u64);
            if found != wanted {
                return Err(ModelError::input(format!("bytes of tensor `{name}` to be written"), found, wanted));
            }
        }
        Ok(())
    })
}
