//! Logits against `transformers` for every family, flag and RoPE scaling: tests/goldens/make.py says how they were made.

use std::path::Path;

use difflow_model::{Arithmetic, Device, Model, Pattern, RECIPE_FILE};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

use crate::support::config_dir;

/// The formula of make.py: FNV-1a of the name, splitmix64 of the index, a number in [-1, 1).
pub fn value(name: &str, index: u64) -> f64 {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let mut x = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
}

fn weights(name: &str, count: usize) -> Vec<u8> {
    let norm = (name.contains("norm") || name.contains(".ln_")) && name.ends_with("weight");
    let number = |i: usize| if norm { 1.0 + 0.25 * value(name, i as u64) } else { 0.5 * value(name, i as u64) };
    (0..count).flat_map(|i| (number(i) as f32).to_le_bytes()).collect()
}

/// Writes the file with the weights of the tensors with these names and shapes.
pub fn write_weights(dir: &Path, tensors: &Value) {
    let all = tensors.as_object().unwrap().iter().map(|(name, shape)| {
        let shape: Vec<usize> = numbers(shape).iter().map(|&n| n as usize).collect();
        (name.clone(), shape.clone(), weights(name, shape.iter().product()))
    });
    let all: Vec<(String, Vec<usize>, Vec<u8>)> = all.collect();
    let views = all.iter().map(|(n, shape, data)| (n, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

/// The largest distance, as a share of the largest of the wanted numbers.
pub fn relative(found: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let gap =
        found.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, |a, b| if a >= b { a } else { b });
    gap / wanted.iter().fold(0.0, |most: f64, b| most.max(b.abs()))
}

#[test]
fn logits_equal_those_of_transformers() {
    let golden: Value = serde_json::from_str(include_str!("../goldens/transformers.json")).unwrap();
    let ids: Vec<u32> = numbers(&golden["ids"]).iter().map(|&n| n as u32).collect();
    let kept: Vec<usize> = numbers(&golden["kept"]).iter().map(|&n| n as usize).collect();
    let mut worst = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let dir = config_dir(&case["config"].to_string());
        if let Some(recipe) = case.get("recipe") {
            std::fs::write(dir.path().join(RECIPE_FILE), recipe.to_string()).unwrap();
        }
        write_weights(dir.path(), &case["tensors"]);
        let mut model = Model::load(dir.path(), Device::Cpu).unwrap();
        let values = |shape: &Value| numbers(shape).iter().product::<f64>() as u64;
        let count: u64 = case["tensors"].as_object().unwrap().values().map(values).sum();
        assert_eq!(model.config().parameter_count(), count, "{}: counted from the shape", case["title"]);
        for kernels in [true, false] {
            model.set_arithmetic(Arithmetic { kernels, ..model.arithmetic() });
            for (key, pattern) in [("causal", Pattern::Causal), ("full", Pattern::Full)] {
                let logits = model.logits(&ids, &pattern).unwrap();
                let rows: Vec<f32> = kept.iter().flat_map(|&at| logits[at * 37..(at + 1) * 37].to_vec()).collect();
                let wanted: Vec<f64> = case[key].as_array().unwrap().iter().flat_map(numbers).collect();
                worst.push((relative(&rows, &wanted), format!("{} {key}, kernels {kernels}", case["title"])));
            }
        }
    }
    assert_eq!(worst.len(), 4 * 54);
    let wrong: Vec<_> = worst.iter().filter(|(gap, _)| gap.is_nan() || *gap > 2e-5).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
