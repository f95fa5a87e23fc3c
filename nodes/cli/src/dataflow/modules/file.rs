//! A module's file.

use std::path::{Component, Path, PathBuf};

use crate::dataflow::finding::{Finding, Kind};
use crate::dataflow::modules::Expander;
use crate::dataflow::yaml::{Content, Mark, Node, parse};

/// Modules in modules.
const DEEPEST: usize = 8;
/// What a module file has.
const OF_A_FILE: [&str; 2] = ["module", "nodes"];

/// A module file.
pub struct Module {
    /// Relative to the dataflow file's folder.
    pub folder: PathBuf,
    pub inputs: Vec<(String, Mark)>,
    pub optional: Vec<(String, Mark)>,
    pub outputs: Vec<(String, Mark)>,
    pub nodes: Vec<Node>,
}

impl Expander<'_> {
    /// Reads a module file. It stays open until its nodes are written out.
    pub fn read(&mut self, named: &Node, id: &str, folder: &Path) -> Option<Module> {
        let written = named.text()?.to_owned();
        let path = plain(&folder.join(&written));
        let wrong =
            |kind, at, found: String, allowed: &str| Finding::error(kind, at, format!("{id}.module"), found, allowed);
        if Path::new(&written).is_absolute() {
            let allowed = "wanted: a path relative to this file";
            self.findings.push(wrong(Kind::WrongValue, named.at, format!("`{written}`"), allowed));
            return None;
        }
        if self.open.contains(&path) || self.open.len() >= DEEPEST {
            let found = format!("`{written}`, which contains itself");
            self.findings.push(wrong(Kind::Cycle, named.at, found, "wanted: modules that come to an end"));
            return None;
        }
        let text = match std::fs::read_to_string(self.folder.join(&path)) {
            Ok(text) => text,
            Err(e) => {
                let allowed = format!("no such module ({e}); its path is relative to the file that names it");
                self.findings.push(wrong(Kind::MissingFile, named.at, format!("`{written}`"), &allowed));
                return None;
            }
        };
        let file = self.files.len();
        self.files.push(path.clone());
        let mut document = match parse(&text) {
            Ok(document) => document,
            Err(e) => {
                let at = Mark { file, ..e.at };
                self.findings.push(Finding::error(Kind::YamlSyntax, at, "the module", e.problem, "wanted: YAML"));
                return None;
            }
        };
        document.root.stands_in(file);
        for (at, key) in document.duplicates {
            let (at, found) = (Mark { file, ..at }, format!("`{key}` a second time"));
            self.findings.push(Finding::error(Kind::DuplicateKey, at, key, found, "wanted: each key once"));
        }
        let root = document.root;
        for entry in root.entries().iter().filter(|entry| !OF_A_FILE.contains(&entry.key.as_str())) {
            let (found, allowed) = (format!("the unknown key `{}`", entry.key), "wanted: `module` and `nodes`");
            self.findings.push(Finding::error(Kind::UnknownKey, entry.at, "the module", found, allowed));
        }
        let (Some(header), Some(Content::List(nodes))) =
            (root.get("module"), root.get("nodes").map(|nodes| &nodes.content))
        else {
            let allowed = "wanted: `module: { name: … }` and a list `nodes`";
            self.findings.push(Finding::error(Kind::MissingKey, root.at, "the module", "no module", allowed));
            return None;
        };
        let names = |key: &str| -> Vec<(String, Mark)> {
            let items = header.get(key).map_or(&[][..], Node::items);
            items.iter().filter_map(|item| Some((item.text()?.to_owned(), item.at))).collect()
        };
        self.open.push(path.clone());
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let (inputs, optional, outputs) = (names("inputs"), names("inputs_optional"), names("outputs"));
        Some(Module { folder, inputs, optional, outputs, nodes: nodes.clone() })
    }
}

/// Without `.` and, where that can be, without `..`.
pub fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(plain.components().next_back(), Some(Component::Normal(_))) => {
                _ = plain.pop()
            }
            part => plain.push(part),
        }
    }
    plain
}
