//! How a checkpoint wants to be decoded: the object `difflow` of generation_config.json, `transformers`' file beside
//! config.json, with decoding options by the names that they have as keys of a dataflow file.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::decoding::Decoding;
use crate::error::InferenceError;

/// Its name in a checkpoint's folder.
pub(crate) const GENERATION: &str = "generation_config.json";

/// Reads what a folder says of decoding; nothing where it says nothing. Errors if the file is damaged or names an option that there is
/// not.
pub(crate) fn read(dir: &Path) -> Result<Map<String, Value>, InferenceError> {
    let path = dir.join(GENERATION);
    let wrong = |reason: String| InferenceError::Generation { path: path.clone(), reason };
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Map::new()),
        bytes => bytes.map_err(|e| wrong(e.to_string()))?,
    };
    let file: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    let options = match file.get("difflow") {
        None => return Ok(Map::new()),
        Some(Value::Object(options)) => options.clone(),
        Some(other) => return Err(wrong(format!("`difflow` is {other}; allowed: an object of decoding options"))),
    };
    Decoding::default().with(&options).map_err(|reason| wrong(format!("`difflow`: {reason}")))?;
    Ok(options)
}

/// The name of an option where names are in lower case.
fn short(key: &str) -> String {
    if key == "DIFFUSION_STEPS" { "steps".to_owned() } else { key.to_lowercase() }
}

impl Decoding {
    /// The same with other values for some options, by the names that they have as keys. Errors in words if there is no such option or
    /// its value means nothing.
    pub fn with(&self, options: &Map<String, Value>) -> Result<Self, String> {
        let mut all = self.options();
        for (name, value) in options {
            if !all.contains_key(name) {
                let known: Vec<&str> = all.keys().map(String::as_str).collect();
                return Err(format!("`{name}` is no decoding option; allowed: {}", known.join(", ")));
            }
            all.insert(name.clone(), value.clone());
        }
        serde_json::from_value(Value::Object(all)).map_err(|e| e.to_string())
    }

    /// All options by their names as keys.
    fn options(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(options)) => options,
            _ => Map::new(),
        }
    }

    /// The options that a command line gave, by their names as keys; the others have their defaults.
    #[cfg(feature = "clap")]
    pub fn given(&self, matches: &clap::ArgMatches) -> Map<String, Value> {
        let given = |key: &String| matches.value_source(&short(key)) == Some(clap::parser::ValueSource::CommandLine);
        self.options().into_iter().filter(|(key, _)| given(key)).collect()
    }

    /// The keys of all options, by the names that they have on a command line and in a request: in lower case.
    pub fn keys() -> BTreeMap<String, String> {
        Self::default().options().into_iter().map(|(key, _)| (short(&key), key)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::decoding::Decoder;

    fn file(text: &str) -> Result<Map<String, Value>, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(GENERATION), text).unwrap();
        read(dir.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_checkpoint_says_how_it_is_decoded_beside_the_keys_of_transformers() {
        let found = file(r#"{"eos_token_id": 2, "difflow": {"DECODER": "threshold", "THRESHOLD": 0.7}}"#).unwrap();
        let decoding = Decoding::default().with(&found).unwrap();
        assert_eq!(decoding, Decoding { decoder: Decoder::Threshold, threshold: 0.7, ..Decoding::default() });
        assert!(file(r#"{"eos_token_id": 2}"#).unwrap().is_empty());
        assert!(read(Path::new("/nowhere")).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_option_or_no_value_is_refused_with_the_file() {
        for (text, why) in [
            ("{", "EOF"),
            (r#"{"difflow": 3}"#, "an object of decoding options"),
            (r#"{"difflow": {"TEMPERATUR": 1}}"#, "TEMPERATURE"),
            (r#"{"difflow": {"DECODER": "best"}}"#, "first-hitting"),
        ] {
            let error = file(text).unwrap_err();
            assert!(error.contains(GENERATION) && error.contains(why), "{error}");
        }
    }
}
