//! Element types of files: read into fp32, written back as they were when nothing is lost.

use difflow_model::{Device, Model, Pattern};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{LLAMA, distance, model, read};

/// The bytes of every tensor of a folder's only file, by name.
fn stored(dir: &TempDir) -> Vec<(String, Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = read(&dir.path().join("model.safetensors"));
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = tensors.tensors().into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec())).collect()
}

fn write(dir: &TempDir, tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A LLaMA whose tensors are of the given type: the upper half of each fp32 (bf16), or made-up bytes that are finite numbers.
fn folder_of(dtype: Dtype) -> TempDir {
    let dir = TempDir::new().unwrap();
    model(LLAMA, false).save(dir.path()).unwrap();
    let tensors: Vec<_> = stored(&dir)
        .into_iter()
        .map(|(name, _, shape, data)| {
            let data = data.chunks(4).enumerate().flat_map(|(i, wide)| match dtype {
                Dtype::BF16 => wide[2..].to_vec(),
                Dtype::F64 => f64::from(f32::from_le_bytes(wide.try_into().unwrap())).to_le_bytes().to_vec(),
                // Exponents around 1/4: both signs, every mantissa.
                Dtype::F16 => vec![(i * 7) as u8, 0x34 | (i as u8 & 0x83)],
                _ => vec![0x28 | (i as u8 & 0x87)],
            });
            (name, dtype, shape, data.collect())
        })
        .collect();
    write(&dir, &tensors);
    dir
}

#[test]
fn loading_and_saving_keeps_every_byte_whatever_the_float_type() {
    for (dtype, name) in [
        (Dtype::BF16, "bfloat16"),
        (Dtype::F16, "float16"),
        (Dtype::F64, "float64"),
        (Dtype::F8_E4M3, "float8_e4m3fn"),
        (Dtype::F8_E5M2, "float8_e5m2"),
    ] {
        let (from, to) = (folder_of(dtype), TempDir::new().unwrap());
        let loaded = Model::load(from.path(), Device::Cpu).unwrap();
        assert!(loaded.logits(&[3, 4, 5], &Pattern::Full).unwrap().iter().all(|x| x.is_finite()), "{name}");
        loaded.save(to.path()).unwrap();
        assert!(stored(&from) == stored(&to), "{name}");
        let config: Value = serde_json::from_slice(&read(&to.path().join("config.json"))).unwrap();
        assert_eq!(config["torch_dtype"], name);
    }
}

/// One changed value that bf16 cannot hold: its tensor is written in fp32, the others stay.
#[test]
fn what_would_be_lost_is_written_in_fp32() {
    let (from, to) = (folder_of(Dtype::BF16), TempDir::new().unwrap());
    let mut model = Model::load(from.path(), Device::Cpu).unwrap();
    // The new row is a mean of bf16 rows, which bf16 cannot hold in general.
    model.add_mask_token(3).unwrap();
    model.save(to.path()).unwrap();
    let kinds: Vec<Dtype> = stored(&to).into_iter().map(|(_, dtype, ..)| dtype).collect();
    assert_eq!(kinds.iter().filter(|&&kind| kind == Dtype::F32).count(), 1, "{kinds:?}");
    let config: Value = serde_json::from_slice(&read(&to.path().join("config.json"))).unwrap();
    assert_eq!(config["torch_dtype"], "float32");
    let again = Model::load(to.path(), Device::Cpu).unwrap();
    let logits = |model: &Model| model.logits(&[3, 37, 5], &Pattern::Full).unwrap();
    assert_eq!(distance(&logits(&model), &logits(&again)), 0.0);
}

#[test]
fn types_that_are_no_floats_are_refused_by_name() {
    let dir = folder_of(Dtype::BF16);
    let mut tensors = stored(&dir);
    tensors[0].1 = Dtype::I16;
    write(&dir, &tensors);
    let error = Model::load(dir.path(), Device::Cpu).unwrap_err().to_string();
    assert!(error.contains(&tensors[0].0) && error.contains("I16") && error.contains("BF16"), "{error}");
}
