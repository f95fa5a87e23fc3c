//! The shape of a base model, whether or not the model is on this machine.

use std::path::{Path, PathBuf};

use difflow_model::ModelConfig;
use eyre::{Context, Result, eyre};

/// A shape and where it was found.
pub struct Shape {
    pub config: ModelConfig,
    /// The file's text.
    pub text: String,
    pub from: String,
}

/// `BASE_MODEL/config.json`, else `shapes/NAME.json` beside the dataflow file, NAME being the model's last part.
///
/// # Errors
/// Neither is there, or it is no configuration of a model.
pub fn find(base_model: &str) -> Result<Shape> {
    let folder = difflow_hub::cached_folder(base_model).unwrap_or_else(|| base_model.into());
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let places: [PathBuf; 2] = [folder.join("config.json"), Path::new("shapes").join(format!("{name}.json"))];
    let path = places.iter().find(|path| path.is_file()).ok_or_else(|| {
        eyre!(
            "the shape of BASE_MODEL {base_model} is not known: there is neither {} nor {} beside the dataflow file; write its config.json to one of them",
            places[0].display(),
            places[1].display()
        )
    })?;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = ModelConfig::from_json(&text, path)?;
    Ok(Shape { config, text, from: path.display().to_string() })
}
