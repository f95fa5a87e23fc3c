//! Reads safetensors: one file or the several of an index, memory-mapped, checked before any tensor is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::error::ModelError;

#[cfg(test)]
thread_local! {
    /// Bytes of tensors that this thread has read.
    pub(crate) static READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

struct MappedFile {
    path: PathBuf,
    map: Mmap,
    /// Bytes before the first tensor.
    data_start: usize,
    metadata: Metadata,
}

/// The tensors of a checkpoint by name.
pub(crate) struct TensorFiles {
    /// What errors name when a tensor is in no file: the index, or the only file.
    pub origin: PathBuf,
    files: Vec<MappedFile>,
    places: BTreeMap<String, usize>,
}

impl TensorFiles {
    /// Opens the tensors of a model in a folder: see [`TensorFiles::open_named`].
    pub fn open_model(dir: &Path) -> Result<Self, ModelError> {
        if ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| dir.join(name).exists()) {
            return Self::open_named(dir, "model");
        }
        let hint = if dir.join("pytorch_model.bin").exists() {
            ", only pytorch_model.bin: convert it with transformers' save_pretrained(safe_serialization=True)"
        } else {
            ""
        };
        Err(ModelError::NoWeights { path: dir.to_owned(), hint: hint.to_owned() })
    }

    /// Opens `DIR/NAME.safetensors`, or the files that `DIR/NAME.safetensors.index.json` lists.
    pub fn open_named(dir: &Path, name: &str) -> Result<Self, ModelError> {
        let (single, index) =
            (dir.join(format!("{name}.safetensors")), dir.join(format!("{name}.safetensors.index.json")));
        if single.exists() || !index.exists() {
            return Self::open(single.clone(), &[single]);
        }
        let text = std::fs::read_to_string(&index).map_err(ModelError::read(&index))?;
        let json: Value =
            serde_json::from_str(&text).map_err(|source| ModelError::Json { path: index.clone(), source })?;
        let wrong =
            || ModelError::Damaged { file: index.clone(), detail: "it has no `weight_map` of file names".into() };
        let names = json.get("weight_map").and_then(Value::as_object).ok_or_else(wrong)?;
        let files: Option<BTreeSet<&str>> = names.values().map(Value::as_str).collect();
        // A name with a path in it would read outside the directory.
        let files = files.filter(|files| files.iter().all(|f| !f.contains(['/', '\\']))).ok_or_else(wrong)?;
        let paths: Vec<PathBuf> = files.iter().map(|file| dir.join(file)).collect();
        Self::open(index, &paths)
    }

    /// Opens the given files; `origin` is what errors name when a tensor is missing.
    pub fn open(origin: PathBuf, paths: &[PathBuf]) -> Result<Self, ModelError> {
        let files = paths.iter().map(|path| map(path)).collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for name in file.metadata.tensors().into_keys() {
                if places.insert(name.clone(), index).is_some() {
                    let detail = format!("tensor `{name}` is in more than one file");
                    return Err(ModelError::Damaged { file: file.path.clone(), detail });
                }
            }
        }
        Ok(Self { origin, files, places })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Element type, number of values and bytes of every tensor.
    pub fn contents(&self) -> impl Iterator<Item = (String, u64, u64)> {
        self.files.iter().flat_map(|file| file.metadata.tensors().into_values()).map(|info| {
            let count = info.shape.iter().map(|&n| n as u64).product();
            (format!("{:?}", info.dtype), count, (info.data_offsets.1 - info.data_offsets.0) as u64)
        })
    }

    /// `__metadata__` of the first file.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.files.first()?.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// A copy of one tensor, in the file's own element type, on the CPU. `None` when no file has it.
    pub fn get(&self, name: &str, wanted: &[i64]) -> Result<Option<Tensor>, ModelError> {
        Ok(self.read(name, wanted, None)?.map(|flat| flat.f_view(wanted)).transpose()?)
    }

    /// As [`TensorFiles::get`], of some elements as they lie in the file: a flat tensor. No other bytes of the file are read.
    pub fn get_part(&self, name: &str, wanted: &[i64], part: Range<usize>) -> Result<Option<Tensor>, ModelError> {
        self.read(name, wanted, Some(part))
    }

    fn read(&self, name: &str, wanted: &[i64], part: Option<Range<usize>>) -> Result<Option<Tensor>, ModelError> {
        let Some(&index) = self.places.get(name) else { return Ok(None) };
        let file = &self.files[index];
        let Some(info) = file.metadata.info(name) else { return Ok(None) };
        let found: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        let (tensor, file_path) = (name.to_owned(), file.path.clone());
        if found != wanted {
            return Err(ModelError::Shape { tensor, file: file_path, found, wanted: wanted.to_vec() });
        }
        let kind = match info.dtype {
            Dtype::F64 => Kind::Double,
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F8_E4M3 => Kind::Float8e4m3fn,
            Dtype::F8_E5M2 => Kind::Float8e5m2,
            other => return Err(ModelError::Dtype { tensor, file: file_path, found: format!("{other:?}") }),
        };
        let cut = part.is_some();
        let part = part.unwrap_or_else(|| 0..wanted.iter().product::<i64>() as usize);
        let (begin, size) = (file.data_start + info.data_offsets.0, kind.elt_size_in_bytes());
        let bytes = &file.map[begin + size * part.start..begin + size * part.end];
        #[cfg(test)]
        READ.set(READ.get() + bytes.len());
        let tensor = Tensor::f_from_data_size(bytes, &[part.len() as i64], kind)?;
        if cut && !bytes.is_empty() {
            // Who reads a part has not the memory for all of them.
            // SAFETY: a mapping that is only read, of a file: what is read again is read from the file.
            _ = unsafe {
                file.map.unchecked_advise_range(UncheckedAdvice::DontNeed, begin + size * part.start, bytes.len())
            };
        }
        Ok(Some(tensor))
    }

    /// The file that holds a tensor, for errors.
    pub fn file_of(&self, name: &str) -> &Path {
        self.places.get(name).map_or(&self.origin, |&index| &self.files[index].path)
    }
}

fn map(path: &Path) -> Result<MappedFile, ModelError> {
    let file = File::open(path).map_err(ModelError::read(path))?;
    // SAFETY: the mapping is read-only. A program that truncates the file while it is mapped would crash this process;
    // checkpoints are renamed into place and never changed afterwards.
    let map = unsafe { Mmap::map(&file) }.map_err(ModelError::read(path))?;
    match SafeTensors::read_metadata(&map) {
        Ok((header, metadata)) => Ok(MappedFile { path: path.to_owned(), data_start: 8 + header, metadata, map }),
        Err(error) => Err(ModelError::Damaged {
            file: path.to_owned(),
            detail: shortage(&map).unwrap_or_else(|| error.to_string()),
        }),
    }
}

/// Which tensor a file that ends too early (or too late) cuts, and by how much. `None` when even the header is damaged.
fn shortage(bytes: &[u8]) -> Option<String> {
    let header = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let start = usize::try_from(header).ok()?.checked_add(8)?;
    let Some(text) = bytes.get(8..start) else {
        return Some(format!("found {} bytes, wanted {start} for the header alone", bytes.len()));
    };
    let json: serde_json::Map<String, Value> = serde_json::from_slice(text).ok()?;
    let ends = json.iter().filter_map(|(name, v)| Some((v.get("data_offsets")?.get(1)?.as_u64()? as usize, name)));
    let mut ends: Vec<_> = ends.collect();
    ends.sort();
    let whole = start.checked_add(ends.last()?.0)?;
    let cut = ends.iter().find(|(end, _)| start.saturating_add(*end) > bytes.len());
    let what =
        cut.map_or("bytes after the last tensor".to_owned(), |(_, name)| format!("it ends inside tensor `{name}`"));
    Some(format!("{what}, found {} bytes, wanted {whole}", bytes.len()))
}
