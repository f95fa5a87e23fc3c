//! Models by hub id (`owner/name`, or `owner/name@revision`): downloaded once into the Hugging Face cache, then used
//! like any other folder. `HF_ENDPOINT`, `HF_HOME` and the token (`HF_TOKEN`, else the one that `hf auth login`
//! stores) are honoured.

use std::fs::File;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

/// Why there is no folder.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither a folder nor a hub id.
    #[error("model: found {0}, wanted a folder that exists, or a hub id like owner/name or owner/name@revision")]
    NoModel(String),
    /// The hub does not give it, and the cache has no whole copy.
    #[error("{id} is no folder here, and cannot be fetched from the hub: {reason}")]
    Hub { id: String, reason: String },
}

/// Files beside the weights that are fetched where the repository has them. `difflow_recipe.json` is difflow's own.
const SMALL: [&str; 10] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "difflow_recipe.json",
];

/// True for what is no path that exists but could be a hub id.
pub fn is_id(model: &str) -> bool {
    !Path::new(model).exists() && parse(model).is_some()
}

/// Fetches what the keys BASE_MODEL and TOKENIZER name by hub id and puts the paths in their places; whatever else they say stays. A
/// tokenizer's id means the `tokenizer.json` of that model.
///
/// # Errors
/// The key, what it says, and why that cannot be had.
pub fn fetch_keys(base_model: &mut String, tokenizer: &mut String) -> Result<(), (&'static str, String, HubError)> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    if is_id(base_model) {
        *base_model = text(folder(base_model).map_err(|e| ("BASE_MODEL", base_model.clone(), e))?);
    }
    if is_id(tokenizer) {
        *tokenizer = text(folder(tokenizer).map_err(|e| ("TOKENIZER", tokenizer.clone(), e))?.join("tokenizer.json"));
    }
    Ok(())
}

/// The folder of a model: the path itself if it exists, else the cached files of a hub id, fetched where they are not there yet.
///
/// # Errors
/// Neither a folder nor an id; the hub cannot be reached and the cache has no whole copy; the repository has no safetensors.
pub fn folder(model: &str) -> Result<PathBuf, HubError> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let Some(repo) = parse(model) else {
        return Err(HubError::NoModel(model.to_owned()));
    };
    let wrong = |error: ApiError| HubError::Hub { id: model.to_owned(), reason: readable(&error) };
    let _alone = lock(&repo);
    let mut builder = ApiBuilder::from_env().with_progress(true);
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
        builder = builder.with_token(Some(token));
    }
    let remote = builder.build().map_err(wrong)?.repo(repo.clone());
    let names: Vec<String> = match remote.info() {
        Ok(info) => info.siblings.into_iter().map(|file| file.rfilename).collect(),
        // Off the network, or with the hub down, a whole copy in the cache is as good.
        Err(error) => return cached(&repo).ok_or_else(|| wrong(error)),
    };
    fetch(&remote, &names).map_err(wrong)?.ok_or_else(|| HubError::Hub {
        id: model.to_owned(),
        reason:
            "the repository has no config.json with safetensors (model.safetensors or model.safetensors.index.json)"
                .into(),
    })
}

/// Several nodes of a run want the same model at the same moment: one fetches, the others wait and find it in the cache. A cache
/// that cannot be written needs no lock.
fn lock(repo: &Repo) -> Option<File> {
    let folder = Cache::from_env().path().clone();
    std::fs::create_dir_all(&folder).ok()?;
    let file = File::create(folder.join(format!(".difflow-{}.lock", repo.folder_name()))).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// Fetches what a model needs of the repository's files; `None` when they are no model.
fn fetch(remote: &ApiRepo, names: &[String]) -> Result<Option<PathBuf>, ApiError> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let weights = if has("model.safetensors") { "model.safetensors" } else { "model.safetensors.index.json" };
    if !has("config.json") || !has(weights) {
        return Ok(None);
    }
    for name in SMALL.into_iter().filter(|name| has(name)) {
        remote.get(name)?;
    }
    let path = remote.get(weights)?;
    if weights.ends_with(".json") {
        for shard in names.iter().filter(|name| name.ends_with(".safetensors") && !name.contains(['/', '\\'])) {
            remote.get(shard)?;
        }
    }
    Ok(path.parent().map(Path::to_owned))
}

/// The folder of a hub id that needs no fetching.
pub fn cached_folder(model: &str) -> Option<PathBuf> {
    cached(&parse(model).filter(|_| is_id(model))?)
}

/// The cache's copy, if it has a configuration and weights.
fn cached(repo: &Repo) -> Option<PathBuf> {
    let cache = Cache::from_env().repo(repo.clone());
    let weights = ["model.safetensors", "model.safetensors.index.json"].iter().find_map(|name| cache.get(name));
    cache.get("config.json").and(weights)?.parent().map(Path::to_owned)
}

/// `owner/name` or `owner/name@revision`, of the characters that the hub allows.
fn parse(id: &str) -> Option<Repo> {
    let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
    let allowed = |word: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !word.is_empty() && !word.starts_with('.') && word.chars().all(fine)
    };
    let (owner, model) = name.split_once('/')?;
    let whole = allowed(owner) && allowed(model) && revision.split('/').all(allowed);
    whole.then(|| Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned()))
}

/// The cause in words, with what to do about the usual ones.
fn readable(error: &ApiError) -> String {
    let text = error.to_string();
    let hint = if text.contains("401") || text.contains("403") {
        "; set HF_TOKEN to a token that may read it"
    } else if text.contains("404") {
        "; is the id right? A private model needs HF_TOKEN"
    } else {
        ""
    };
    format!("{text}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_an_owner_and_a_name_and_perhaps_a_revision() {
        let revision = |id: &str| parse(id).map(|repo| repo.revision().to_owned());
        assert_eq!(revision("openai-community/gpt2").as_deref(), Some("main"));
        assert_eq!(revision("Qwen/Qwen2.5-0.5B@v1.0").as_deref(), Some("v1.0"));
        for wrong in ["gpt2", "/gpt2", "a/b/c", "../models", "a/../b", "a/b@", "a/b@../c", "a b/c", "~/model"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
