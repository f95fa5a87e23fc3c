//! Gives a base model its mask token: one additional vocabulary row, and its name in the tokenizer's files.

use serde_json::{Map, Value, json};
use tch::Tensor;

use difflow_diffusion::keyed;

use crate::config::Adapted;
use crate::error::ModelError;
use crate::host::{copied, read};
use crate::model::{Model, without_values};
use crate::network::Network;
use crate::parameter::normals;

/// Standard deviation of the noise on the new row, as a share of the embeddings' own: large enough to tell the row from
/// the mean, small enough that the model at first reads it as "any token".
const NOISE: f64 = 0.01;

impl Model {
    /// Adds the mask token as the last vocabulary row: the mean of all embeddings plus small noise, in the embedding and, when
    /// it is a matrix of its own, in the output head. Returns its id. A model that has one already is left alone.
    pub fn add_mask_token(&mut self, seed: u64) -> Result<u32, ModelError> {
        if let Some(adapted) = &self.config.adapted {
            return Ok(adapted.mask_token_id);
        }
        let id = self.config.vocab_size;
        let mask_token_id =
            u32::try_from(id).map_err(|_| ModelError::input("vocabulary", id, "fewer than 2^32 tokens"))?;
        let (vocab, device) = (id as i64, self.device.torch());
        let mut config = self.config.clone();
        config.vocab_size = id + 1;
        config.adapted = Some(Adapted::new(mask_token_id));
        if matches!(self.decoder, Network::Foreign(_)) {
            self.grow_torch(seed)?;
            self.config = config;
            self.name_mask_token(mask_token_id)?;
            return Ok(mask_token_id);
        }
        for (place, parameter) in self.parameters.iter_mut().enumerate() {
            if !parameter.leaf.vocabulary {
                continue;
            }
            let part = &mut parameter.leaf.parts[0];
            let width = part.shape[1] as usize;
            part.shape[0] = vocab + 1;
            if let Some(source) = parameter.source.take() {
                let all = source.elements(0..id * width)?;
                let row = Tensor::f_from_slice(&new_row(read(&all)?, width, seed, place as u64))?;
                parameter.tensor = without_values(&part.shape)?;
                parameter.source = Some(source.followed_by(id * width, row));
                continue;
            }
            let rows = copied(&parameter.tensor)?;
            let row = Tensor::f_from_slice(&new_row(&rows, width, seed, place as u64))?.f_view((1, width as i64))?;
            parameter.tensor = Tensor::f_cat(&[parameter.tensor.f_detach()?, row.f_to_device(device)?], 0)?;
        }
        let gathered = self.decoder.own().and_then(|decoder| decoder.gathered.clone());
        self.config = config;
        self.rebuild(gathered)?;
        self.name_mask_token(mask_token_id)?;
        Ok(mask_token_id)
    }

    /// Takes a token that the vocabulary has already as the mask token, as the paper's code does with a rare one. The files of the
    /// tokenizer stay as they are. A model that has a mask token keeps it.
    pub fn use_mask_token(&mut self, id: u32) -> Result<u32, ModelError> {
        if let Some(adapted) = &self.config.adapted {
            return Ok(adapted.mask_token_id);
        }
        if id as usize >= self.config.vocab_size {
            return Err(ModelError::input("mask token", id, format!("an id below {}", self.config.vocab_size)));
        }
        self.config.adapted = Some(Adapted::new(id));
        Ok(id)
    }

    /// Takes the content of a tokenizer.json in the place of the base model's own, with the mask token named in it.
    ///
    /// # Errors
    /// When it is none, or has more tokens than the model has rows.
    pub fn use_tokenizer(&mut self, json: Vec<u8>) -> Result<(), ModelError> {
        self.companions.insert("tokenizer.json".to_owned(), json);
        let mask = self.config.adapted.as_ref().map(|adapted| adapted.mask_token_id);
        mask.map_or(Ok(()), |mask| self.name_mask_token(mask))
    }

    /// Takes a chat template in the place of the base model's own.
    pub fn use_chat_template(&mut self, text: Vec<u8>) {
        self.companions.insert("chat_template.jinja".to_owned(), text);
    }

    /// Adds the token to tokenizer.json (and the mask token's name to tokenizer_config.json, where there is one).
    fn name_mask_token(&mut self, id: u32) -> Result<(), ModelError> {
        let Some(bytes) = self.companions.get("tokenizer.json") else { return Ok(()) };
        let parse = |name: &str, bytes: &[u8]| -> Result<Map<String, Value>, ModelError> {
            serde_json::from_slice(bytes).map_err(|source| ModelError::Json { path: name.into(), source })
        };
        let mut tokenizer = parse("tokenizer.json", bytes)?;
        let known = known_tokens(&tokenizer);
        if known.iter().any(|(_, known)| *known == u64::from(id)) {
            return Ok(());
        }
        let next = known.iter().map(|(_, id)| id + 1).max().unwrap_or(0);
        if next > u64::from(id) {
            let wanted = format!("at most {id}, the rows of the model's embedding");
            return Err(ModelError::input("tokens in tokenizer.json", next, wanted));
        }
        let is_new = |name: &String| known.iter().all(|(known, _)| known != name);
        let names = std::iter::once("<mask>".to_owned()).chain((1..).map(|n| format!("<mask_{n}>")));
        let name = names.into_iter().find(is_new).unwrap_or_default();
        let list = tokenizer.entry("added_tokens").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            let entry = |id: u64, content: &str| {
                json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": true})
            };
            // Embeddings are often padded beyond the tokenizer's last id; tokenizers number added tokens without gaps.
            (next..u64::from(id)).for_each(|n| list.push(entry(n, &format!("<unused_{n}>"))));
            list.push(entry(u64::from(id), &name));
        }
        // Written back once all of them could be read.
        let mut edited = vec![("tokenizer.json", tokenizer)];
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            if let Some(bytes) = self.companions.get(file) {
                let mut map = parse(file, bytes)?;
                map.insert("mask_token".into(), json!(name));
                edited.push((file, map));
            }
        }
        for (file, map) in edited {
            let mut text = serde_json::to_string_pretty(&map).unwrap_or_default();
            text.push('\n');
            self.companions.insert(file.to_owned(), text.into_bytes());
        }
        Ok(())
    }
}

/// The mean of the rows plus noise; sums in f64 and in row order, so that it does not depend on threads.
pub(crate) fn new_row(rows: &[f32], width: usize, seed: u64, place: u64) -> Vec<f32> {
    let count = (rows.len() / width) as f64;
    let mut mean = vec![0f64; width];
    for row in rows.chunks(width) {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    mean.iter_mut().for_each(|sum| *sum /= count);
    let spread = rows.chunks(width).flat_map(|row| row.iter().zip(&mean).map(|(v, m)| (f64::from(*v) - m).powi(2)));
    let std = (spread.sum::<f64>() / rows.len() as f64).sqrt();
    let mut rng = keyed::rng(seed, "mask-token", place, 0);
    let noise: Vec<f64> = normals(&mut rng, width).collect();
    mean.iter().zip(noise).map(|(m, z)| (m + NOISE * std * z) as f32).collect()
}

/// Every (token, id) of a tokenizer.json: the model's vocabulary (an object, or a list of pairs) and the added tokens.
fn known_tokens(tokenizer: &Map<String, Value>) -> Vec<(String, u64)> {
    let vocab = tokenizer.get("model").and_then(|model| model.get("vocab"));
    let mut known: Vec<(String, u64)> = match vocab {
        Some(Value::Object(map)) => map.iter().filter_map(|(t, id)| Some((t.clone(), id.as_u64()?))).collect(),
        Some(Value::Array(list)) => {
            (0..).zip(list).filter_map(|(id, pair)| Some((pair.get(0)?.as_str()?.to_owned(), id))).collect()
        }
        _ => Vec::new(),
    };
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let entry = |t: &Value| Some((t.get("content")?.as_str()?.to_owned(), t.get("id")?.as_u64()?));
    known.extend(added.into_iter().flatten().filter_map(entry));
    known
}
