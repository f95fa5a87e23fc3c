//! Weights of models that tests make.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// A tensor of 32-bit floats.
pub struct Floats {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Writes `folder`/model.safetensors.
pub fn write_safetensors(folder: &Path, tensors: impl IntoIterator<Item = Floats>) {
    let (mut header, mut data) = (Map::new(), Vec::<u8>::new());
    for Floats { name, shape, values } in tensors {
        let start = data.len();
        data.extend(values.into_iter().flat_map(f32::to_le_bytes));
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    fs::write(folder.join("model.safetensors"), file).expect("the folder takes a file");
}
