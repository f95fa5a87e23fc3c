//! What a key of a dataflow file refers to: `builtin:NAME`, a path with an optional `#component`, or a component id.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::elf;
use crate::error::PluginError;
use crate::library::{Component, Kind, Library};

/// A component in its library.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it is.
    pub library: Arc<Library>,
    /// What it is.
    pub component: Component,
}

/// Finds a component of a kind. A bare name is tried among the built-in components first, then as an id.
///
/// # Errors
/// Lists every place that was tried.
pub fn find(kind: Kind, value: &str) -> Result<Found, PluginError> {
    let builtin = Library::builtin()?;
    let name = value.strip_prefix("builtin:");
    let wanted = format!("{}{}", kind.builtin_prefix(), name.unwrap_or(value));
    if let Some(component) = builtin.components().iter().find(|component| component.id == wanted) {
        return Ok(Found { component: component.clone(), library: builtin });
    }
    let names: Vec<&str> =
        builtin.components().iter().filter_map(|c| c.id.strip_prefix(kind.builtin_prefix())).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    if let Some(name) = name {
        let what = format!("built-in {} `{name}`", kind.name());
        return Err(PluginError::NotFound { what, tried: format!("there are: {names}") });
    }
    let (path, id) = match value.split_once('#') {
        Some((path, id)) => (path, Some(id)),
        None => (value, None),
    };
    if id.is_some() || is_file(path) {
        return in_library(kind, Library::open(Path::new(path))?, id);
    }
    by_id(kind, value, &names)
}

/// Whether a value without its `#component` is the path of a file, not a name.
pub fn is_file(value: &str) -> bool {
    value.contains('/') || [".so", ".py"].iter().any(|end| value.ends_with(end))
}

/// The component `id` of a library, or the only one of the kind.
fn in_library(kind: Kind, library: Arc<Library>, id: Option<&str>) -> Result<Found, PluginError> {
    let all = library.components();
    let of_kind = || all.iter().filter(|component| component.kind == kind);
    let list = |components: &mut dyn Iterator<Item = &Component>| {
        let ids: Vec<&str> = components.map(|component| component.id.as_str()).collect();
        if ids.is_empty() { "no component at all".to_owned() } else { ids.join(", ") }
    };
    let found = match id {
        Some(id) => all.iter().find(|component| component.id == id),
        None => of_kind().next(),
    };
    let Some(component) = found else {
        let what = match id {
            Some(id) => format!("component `{id}` in {}", library.name()),
            None => format!("{} in {}", kind.name(), library.name()),
        };
        return Err(PluginError::NotFound { what, tried: format!("it holds {}", list(&mut all.iter())) });
    };
    if id.is_none() && of_kind().count() > 1 {
        let what = format!("single {} in {}", kind.name(), library.name());
        return Err(PluginError::NotFound { what, tried: format!("choose with #: {}", list(&mut of_kind())) });
    }
    if component.kind != kind {
        let (id, found) = (component.id.clone(), component.kind.name().to_owned());
        return Err(PluginError::Kind { id, found, wanted: kind.name().to_owned() });
    }
    Ok(Found { component: component.clone(), library })
}

/// The folders in which a component id is looked for, in this order: those of `DIFFLOW_PLUGIN_PATH`, `plugins/`, `bin/plugins/`,
/// `target/release/`, `target/debug/`, and the user's data folder.
pub fn search_path() -> Vec<PathBuf> {
    let given = std::env::var_os("DIFFLOW_PLUGIN_PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = std::env::split_paths(&given).filter(|path| !path.as_os_str().is_empty()).collect();
    all.extend(["plugins", "bin/plugins", "target/release", "target/debug"].map(PathBuf::from));
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")));
    all.extend(data.map(|data| data.join("difflow/plugins")));
    all
}

/// The libraries in the folders that are searched which look like plug-ins; none is loaded.
pub fn candidates() -> Vec<PathBuf> {
    let all = search_path().into_iter().flat_map(|folder| libraries(&folder));
    all.filter(|path| fs::read(path).is_ok_and(|bytes| elf::names_entry(&bytes))).collect()
}

/// The plug-in libraries of a folder, in order of their names.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "so")).collect();
    paths.sort();
    paths
}

fn by_id(kind: Kind, id: &str, builtin: &str) -> Result<Found, PluginError> {
    let mut tried = vec![format!("built-in: {builtin}")];
    // By content: the same library under two names is no contradiction.
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for folder in search_path() {
        let mut count = 0;
        for path in libraries(&folder) {
            // Other libraries lie about in such folders; they are not loaded.
            if !fs::read(&path).is_ok_and(|bytes| elf::names_entry(&bytes)) {
                continue;
            }
            count += 1;
            let library = match Library::open(&path) {
                Ok(library) => library,
                Err(error) => {
                    tried.push(error.to_string());
                    continue;
                }
            };
            let sha256 = library.sha256.clone().unwrap_or_default();
            if let Some(component) = library.components().iter().find(|component| component.id == id).cloned() {
                found.entry(sha256).or_insert(Found { library, component });
            }
        }
        let state = if folder.is_dir() { format!("{count} plug-in(s), none with it") } else { "no such folder".into() };
        tried.push(format!("{}: {state}", folder.display()));
    }
    let mut found = found.into_values();
    let Some(first) = found.next() else {
        let what = format!("{} `{id}`", kind.name());
        return Err(PluginError::NotFound { what, tried: format!("tried {}", tried.join("; ")) });
    };
    if let Some(second) = found.next() {
        let path = |found: &Found| found.library.path.clone().unwrap_or_default();
        return Err(PluginError::Duplicate { id: id.to_owned(), first: path(&first), second: path(&second) });
    }
    in_library(kind, first.library, Some(id))
}
