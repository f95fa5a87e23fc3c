//! How config.json spells a rotary embedding: `transformers` 5 in the object `rope_parameters`, 4 in `rope_scaling` and keys beside it.

use serde_json::{Map, Value, json};

use crate::config_reader::Reader;
use crate::error::ModelError;
use crate::rope::{Rope, RopeScaling};

/// The kinds of layers that may have a rotary embedding of their own.
const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// A family's keys of `transformers` 4, and what holds where they are left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RopeKeys {
    pub theta: &'static str,
    pub usual_theta: f64,
    /// The share of a head that is turned; `None`: all of it.
    pub partial: Option<&'static str>,
    pub usual_partial: f64,
    /// Layers with a window have an embedding of their own: its theta.
    pub local: Option<(&'static str, f64)>,
    /// LongRoPE is the only scaling, whatever it is called, and the length that it goes by is the key beside it, or this.
    pub only_long: Option<usize>,
}

impl RopeKeys {
    pub const USUAL: Self = Self {
        theta: "rope_theta",
        usual_theta: 10_000.0,
        partial: None,
        usual_partial: 1.0,
        local: None,
        only_long: None,
    };

    /// The embedding of all layers. Errors if difflow does not compute it.
    pub fn read(&self, r: &Reader, head_dim: usize, max_positions: usize) -> Result<Rope, ModelError> {
        let (new, old) = (object(r, "rope_parameters")?, object(r, "rope_scaling")?);
        // As `transformers` 5 has it.
        let (key, map) = match (old.filter(|map| !map.is_empty()), new) {
            (Some(map), _) => ("rope_scaling", map.clone()),
            (None, Some(map)) => ("rope_parameters", map.clone()),
            (None, None) => ("rope_scaling", Map::new()),
        };
        let nested = KINDS.iter().any(|kind| map.contains_key(*kind));
        r.require(!nested, key, "one rotary embedding, not one for each kind of layers")?;
        let theta = r.number_or(self.theta, self.usual_theta)?;
        self.rope(r, key, &map, theta, (head_dim, max_positions))
    }

    /// Those of the layers without and with a window.
    pub fn read_both(&self, r: &Reader, head_dim: usize, max_positions: usize) -> Result<(Rope, Rope), ModelError> {
        let (new, old) = (object(r, "rope_parameters")?, object(r, "rope_scaling")?);
        let wanted = "an object with `full_attention` and `sliding_attention`";
        let whole = new.is_none_or(|map| map.is_empty() || map.keys().all(|key| KINDS.contains(&key.as_str())));
        r.require(whole, "rope_parameters", wanted)?;
        let part = |kind: &str| match new.and_then(|map| map.get(kind)) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(_) => Err(r.wrong("rope_parameters", wanted)),
        };
        let (mut full, sliding) = (part(KINDS[0])?, part(KINDS[1])?);
        full.extend(old.cloned().unwrap_or_default());
        let key = if old.is_some() { "rope_scaling" } else { "rope_parameters" };
        let (local_key, local_usual) = self.local.unwrap_or((self.theta, self.usual_theta));
        let (theta, local) = (r.number_or(self.theta, self.usual_theta)?, r.number_or(local_key, local_usual)?);
        let sizes = (head_dim, max_positions);
        let (full, sliding) =
            (self.rope(r, key, &full, theta, sizes)?, self.rope(r, "rope_parameters", &sliding, local, sizes)?);
        // Of two that do, a forward could not say by which length it goes.
        let holds = sliding.length_class(1).is_none();
        r.require(holds, "rope_parameters", "a rope_type of default, linear, llama3 or yarn for sliding_attention")?;
        Ok((full, sliding))
    }

    /// That of an object, which is the value of `key`.
    fn rope(
        &self,
        outer: &Reader,
        key: &str,
        map: &Map<String, Value>,
        theta: f64,
        (head_dim, max_positions): (usize, usize),
    ) -> Result<Rope, ModelError> {
        let r = Reader::new(map, outer.file);
        let theta = r.number_or("rope_theta", theta)?;
        let size = match self.partial {
            None => {
                let share = r.number_or("partial_rotary_factor", 1.0)?;
                r.require(share == 1.0, "partial_rotary_factor", "1")?;
                outer.require(head_dim % 2 == 0, "head_dim", "an even number (rotary embedding turns pairs)")?;
                head_dim
            }
            Some(partial) => {
                let share = r.number_or("partial_rotary_factor", outer.number_or(partial, self.usual_partial)?)?;
                let size = (head_dim as f64 * share) as usize;
                let holds = share <= 1.0 && size >= 2 && size.is_multiple_of(2);
                let wanted = format!("a share of the head's {head_dim} dimensions that is an even number of them");
                outer.require(holds, partial, &wanted)?;
                // `transformers` 4 writes GPT-NeoX's share by both names.
                let other = outer.number_or("partial_rotary_factor", share)?;
                outer.require(other == share, "partial_rotary_factor", &format!("{share}, as {partial} says"))?;
                size
            }
        };
        let kind = r.get("rope_type").or(r.get("type")).map_or(Some("default"), Value::as_str);
        let need = |key: &str| match r.get(key) {
            Some(_) => r.number_or(key, 1.0),
            None => Err(r.wrong(key, "a number above 0")),
        };
        let original = original(outer, &r)?;
        let scaling = match (kind, self.only_long) {
            (Some("default"), _) => None,
            (Some("longrope" | "su" | "yarn"), Some(usual)) => {
                let original = outer.size_opt(ORIGINAL)?.unwrap_or(usual);
                Some(long(&r, size, original, max_positions)?)
            }
            (_, Some(_)) => return Err(outer.wrong(key, "a rope_type of default or longrope")),
            (Some("longrope"), None) => Some(long(&r, size, original.unwrap_or(max_positions), max_positions)?),
            (Some("linear"), None) => Some(RopeScaling::Linear { factor: need("factor")? }),
            (Some("dynamic"), None) => Some(RopeScaling::Dynamic { factor: need("factor")?, original: max_positions }),
            (Some("llama3"), None) => Some(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original: original.ok_or_else(|| r.wrong(ORIGINAL, "a positive integer"))?,
            }),
            (Some("yarn"), None) => Some(yarn(&r, need("factor")?, original.unwrap_or(max_positions))?),
            _ => return Err(outer.wrong(key, "a rope_type of default, linear, dynamic, llama3, yarn or longrope")),
        };
        Ok(Rope { theta, size, scaling })
    }

    /// Adds the keys of `transformers` 4 to a config.json that has only those of 5, which reads both.
    pub fn complete(&self, map: &mut Map<String, Value>) {
        self.complete_old(map);
        // The length that LongRoPE goes by is looked for beside the object.
        let scaling = map.get("rope_scaling").and_then(Value::as_object);
        let kind = scaling.and_then(|scaling| scaling.get("rope_type").or(scaling.get("type")));
        let original = scaling.and_then(|scaling| scaling.get(ORIGINAL)).cloned();
        if let Some(original) = original.filter(|_| kind.and_then(Value::as_str) == Some("longrope")) {
            map.entry(ORIGINAL).or_insert(original);
        }
    }

    fn complete_old(&self, map: &mut Map<String, Value>) {
        let Some(Value::Object(new)) = map.get("rope_parameters").cloned() else { return };
        let part = |kind: &str| new.get(kind).and_then(Value::as_object);
        let (global, local) = match self.local {
            Some(_) => (part(KINDS[0]).cloned().unwrap_or_default(), part(KINDS[1])),
            None => (new.clone(), None),
        };
        let mut add = |key: &str, value: Option<&Value>| {
            if let Some(value) = value.filter(|_| map.get(key).is_none_or(Value::is_null)) {
                map.insert(key.to_owned(), value.clone());
            }
        };
        add(self.theta, global.get("rope_theta"));
        if let Some((key, _)) = self.local {
            add(key, local.and_then(|local| local.get("rope_theta")));
        }
        if let Some(partial) = self.partial {
            add(partial, global.get("partial_rotary_factor"));
        }
        let kind = global.get("rope_type").or(global.get("type")).and_then(Value::as_str);
        if kind.is_some_and(|kind| kind != "default") {
            let mut scaling = global;
            if self.only_long.is_some() {
                // Of such a family version 4 takes these three keys and no other. What has a factor of its own it cannot read, and 5, which
                // prefers the older object, must not lose it.
                if ["factor", "attention_factor"]
                    .iter()
                    .any(|key| scaling.get(*key).is_some_and(|value| !value.is_null()))
                {
                    return;
                }
                scaling.retain(|key, _| ["short_factor", "long_factor"].contains(&key.as_str()));
                scaling.insert("type".to_owned(), json!("longrope"));
            }
            scaling.retain(|key, _| !["rope_theta", "partial_rotary_factor"].contains(&key.as_str()));
            add("rope_scaling", Some(&json!(scaling)));
        }
    }
}

const ORIGINAL: &str = "original_max_position_embeddings";

fn object<'a>(r: &'a Reader, key: &str) -> Result<Option<&'a Map<String, Value>>, ModelError> {
    match r.get(key) {
        None => Ok(None),
        Some(value) => value.as_object().map(Some).ok_or_else(|| r.wrong(key, "an object")),
    }
}

/// The length that a scaling goes by: of the object, or of the key beside it. Errors if both are there and differ.
fn original(outer: &Reader, inner: &Reader) -> Result<Option<usize>, ModelError> {
    let (beside, own) = (outer.size_opt(ORIGINAL)?, inner.size_opt(ORIGINAL)?);
    let alike = beside.is_none() || own.is_none() || beside == own;
    outer.require(alike, ORIGINAL, "what the rotary embedding's object says")?;
    Ok(own.or(beside))
}

fn yarn(r: &Reader, factor: f64, original: usize) -> Result<RopeScaling, ModelError> {
    let temperature = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let attention_factor = match (r.get("mscale"), r.get("mscale_all_dim")) {
        _ if r.get("attention_factor").is_some() => r.number_or("attention_factor", 1.0)?,
        (Some(_), Some(_)) => {
            temperature(r.number_or("mscale", 1.0)?) / temperature(r.number_or("mscale_all_dim", 1.0)?)
        }
        _ => temperature(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: r.number_or("beta_fast", 32.0)?,
        beta_slow: r.number_or("beta_slow", 1.0)?,
        original,
        attention_factor,
        truncate: r.flag("truncate")?.unwrap_or(true),
    })
}

fn long(r: &Reader, size: usize, original: usize, max_positions: usize) -> Result<RopeScaling, ModelError> {
    let factors = |key: &str| {
        let numbers = r.get(key).and_then(Value::as_array).filter(|numbers| numbers.len() == size / 2);
        let number = |value: &Value| value.as_f64().filter(|number| *number > 0.0);
        let numbers = numbers.and_then(|numbers| numbers.iter().map(number).collect::<Option<Vec<f64>>>());
        numbers.ok_or_else(|| r.wrong(key, &format!("{} numbers above 0", size / 2)))
    };
    let factor = r.number_or("factor", max_positions as f64 / original as f64)?;
    let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
    Ok(RopeScaling::Long {
        short: factors("short_factor")?,
        long: factors("long_factor")?,
        original,
        attention_factor: r.number_or("attention_factor", usual)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{ModelConfig, Positions};

    fn ropes(config: &ModelConfig) -> Vec<Rope> {
        match &config.positions {
            Positions::Rotary(ropes) => ropes.clone(),
            Positions::Learned => Vec::new(),
        }
    }

    /// What version 5 spells, version 4 reads from what we write: without the object of 5 the embedding is the same.
    #[test]
    fn a_config_of_transformers_5_is_written_for_both() {
        let read = |json: &Value| ModelConfig::from_json(&json.to_string(), Path::new("config.json")).unwrap();
        let shape = json!({"vocab_size": 32, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64});
        let factors = [json!([1.0, 1.5, 2.0, 3.0]), json!([2.0, 3.0, 4.0, 5.0])];
        let long = json!({"rope_type": "longrope", "rope_theta": 77.0, "partial_rotary_factor": 0.5,
            "short_factor": factors[0], "long_factor": factors[1], "original_max_position_embeddings": 16});
        let linear = json!({"rope_type": "linear", "rope_theta": 99.0, "factor": 3.0});
        let plain = json!({"rope_type": "default", "rope_theta": 55.0});
        let part = json!({"rope_type": "default", "rope_theta": 55.0, "partial_rotary_factor": 0.5});
        for (class, parameters) in [
            ("LlamaForCausalLM", linear.clone()),
            ("GPTNeoXForCausalLM", part.clone()),
            ("StableLmForCausalLM", part),
            ("Phi3ForCausalLM", long),
            ("Gemma3ForCausalLM", json!({"full_attention": linear, "sliding_attention": plain})),
        ] {
            let mut config = shape.clone();
            config["architectures"] = json!([class]);
            config["original_max_position_embeddings"] = json!(if class.starts_with("Phi3") { Some(16) } else { None });
            config["rope_parameters"] = parameters;
            config["dtype"] = json!("float32");
            let wanted = read(&config);
            let mut written: Map<String, Value> = serde_json::from_str(&wanted.to_json("bfloat16")).unwrap();
            assert_eq!((&written["dtype"], &written["torch_dtype"]), (&json!("bfloat16"), &json!("bfloat16")));
            assert_eq!(ropes(&read(&json!(written))), ropes(&wanted), "{class}, both");
            written.remove("rope_parameters");
            assert_eq!(ropes(&read(&json!(written))), ropes(&wanted), "{class}, the keys of 4");
        }
    }
}
