//! dora's modules: a node `module: FILE` stands for the nodes of that file. dora itself expands them only if the file
//! is below the dataflow file's folder, and calls the nodes `MODULE.NODE`; here modules are expanded wherever the
//! file is, and the nodes keep their own names as long as these are unique.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use difflow_node_kit::config::nearest;

use crate::dataflow::finding::{Finding, Kind};
use crate::dataflow::yaml::{Content, Entry, Mark, Node, parse};

/// Modules in modules.
const DEEPEST: usize = 8;
/// What a module's own input is called inside.
const OUTSIDE: &str = "_mod";
/// What a node that stands for a module may have; dora also knows `params` and `build`.
const OF_A_USE: [&str; 7] = ["id", "name", "description", "module", "inputs", "env", "deploy"];
/// What a module file has.
const OF_A_FILE: [&str; 2] = ["module", "nodes"];
/// Keys of the nodes of a module that are not written out here.
const ONLY_DORA: [&str; 4] = ["operator", "operators", "ros2", "hub"];

/// Where an output is read: a node's full id, and the output.
type Outputs = BTreeMap<String, String>;

/// Writes modules out.
pub struct Expander<'a> {
    /// The dataflow file's folder.
    folder: &'a Path,
    /// The files that were read: the dataflow file has no name here.
    pub files: Vec<PathBuf>,
    pub findings: Vec<Finding>,
    /// The own name of each node of a module, by its full id.
    names: BTreeMap<String, String>,
    /// Files that are being written out.
    open: Vec<PathBuf>,
}

/// A node that stands for a module, seen from inside.
struct Use<'a> {
    id: &'a str,
    inputs: &'a [Entry],
    env: &'a [Entry],
    deploy: Option<&'a Entry>,
}

/// A module file.
struct Module {
    /// Relative to the dataflow file's folder.
    folder: PathBuf,
    inputs: Vec<(String, Mark)>,
    optional: Vec<(String, Mark)>,
    outputs: Vec<(String, Mark)>,
    nodes: Vec<Node>,
}

impl<'a> Expander<'a> {
    /// For a dataflow file in `folder`.
    pub fn new(folder: &'a Path) -> Self {
        let (files, findings, names, open) = (vec![PathBuf::new()], Vec::new(), BTreeMap::new(), Vec::new());
        Self { folder, files, findings, names, open }
    }

    /// Puts the nodes of modules in their places. Returns whether there are any.
    pub fn expand(&mut self, root: &mut Node) -> bool {
        let Some(Node { content: Content::List(nodes), .. }) = root.get_mut("nodes") else { return false };
        if !nodes.iter().any(is_module) {
            return false;
        }
        let written_out = self.level(std::mem::take(nodes), Path::new(""));
        *nodes = written_out.0;
        self.shorten(nodes);
        true
    }

    /// The nodes of one file with those of its modules; and the outputs of each module, by its full id.
    fn level(&mut self, nodes: Vec<Node>, folder: &Path) -> (Vec<Node>, BTreeMap<String, Outputs>) {
        let (mut all, mut modules) = (Vec::new(), BTreeMap::new());
        for node in nodes {
            if is_module(&node) {
                let Some(id) = node.get("id").and_then(Node::text).map(str::to_owned) else {
                    let found = "a module without an id";
                    self.findings.push(Finding::error(Kind::MissingKey, node.at, "nodes", found, "wanted: `id: NAME`"));
                    continue;
                };
                if let Some((inner, outputs)) = self.module(&node, &id, folder) {
                    all.extend(inner);
                    modules.insert(id, outputs);
                }
            } else {
                all.push(node);
            }
        }
        for source in all.iter_mut().flat_map(sources) {
            self.outside(source, &modules);
        }
        (all, modules)
    }

    /// An input from a module becomes one from the node inside that gives it.
    fn outside(&mut self, source: &mut Node, modules: &BTreeMap<String, Outputs>) {
        let Content::Scalar { text, .. } = &mut source.content else { return };
        let Some((id, output)) = text.split_once('/') else { return };
        let Some(outputs) = modules.get(id) else { return };
        match outputs.get(output) {
            Some(inner) => text.clone_from(inner),
            None => {
                let near = nearest(output, outputs.keys().map(String::as_str));
                let allowed =
                    near.map_or_else(|| format!("{id} has no outputs"), |near| format!("did you mean {id}/{near}?"));
                let found = format!("`{output}`, which module {id} does not give");
                self.findings.push(Finding::error(Kind::UnknownOutput, source.at, id.to_owned(), found, allowed));
            }
        }
    }

    fn module(&mut self, node: &Node, id: &str, folder: &Path) -> Option<(Vec<Node>, Outputs)> {
        let allowed = "wanted: `id`, `module`, `inputs` and `env`; a module with more is for `dora run`";
        for entry in node.entries() {
            if !OF_A_USE.contains(&entry.key.as_str()) && !entry.value.is_null() {
                let found = format!("`{}` of a module", entry.key);
                self.findings.push(Finding::error(Kind::UnknownKey, entry.at, id, found, allowed));
            }
        }
        let module = self.read(node.get("module")?, id, folder)?;
        let place = Use {
            id,
            inputs: node.get("inputs").map_or(&[], Node::entries),
            env: node.get("env").map_or(&[], Node::entries),
            deploy: node.entries().iter().find(|entry| entry.key == "deploy"),
        };
        self.bound(&place, &module, node.at);
        let ids: BTreeSet<String> =
            module.nodes.iter().filter_map(|node| Some(node.get("id")?.text()?.to_owned())).collect();
        let mut inside = module.nodes.clone();
        for inner in &mut inside {
            self.inner(inner, &place, &module, &ids);
        }
        let (nodes, modules) = self.level(inside, &module.folder);
        self.open.pop();
        let outputs = self.outputs(&place, &module, &nodes, &modules);
        Some((nodes, outputs))
    }

    /// Reads a module file. It stays open until its nodes are written out.
    fn read(&mut self, named: &Node, id: &str, folder: &Path) -> Option<Module> {
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

    /// The inputs that a module wants must be given, and no others.
    fn bound(&mut self, place: &Use, module: &Module, at: Mark) {
        for (name, _) in &module.inputs {
            if !place.inputs.iter().any(|entry| entry.key == *name) {
                let (subject, found) = (format!("{}.inputs", place.id), format!("no input `{name}`"));
                let allowed = format!("wanted: `{name}: NODE/OUTPUT`");
                self.findings.push(Finding::error(Kind::MissingKey, at, subject, found, allowed));
            }
        }
        let known = || module.inputs.iter().chain(&module.optional).map(|(name, _)| name.as_str());
        for entry in place.inputs.iter().filter(|entry| !known().any(|name| name == entry.key)) {
            let near = nearest(&entry.key, known());
            let allowed =
                near.map_or_else(|| "the module has no inputs".to_owned(), |near| format!("did you mean {near}?"));
            let (subject, found) =
                (format!("{}.inputs.{}", place.id, entry.key), format!("the unknown input `{}`", entry.key));
            self.findings.push(Finding::error(Kind::UnknownInput, entry.at, subject, found, allowed));
        }
    }

    /// Makes a node of a module one of the dataflow: full names, paths from the dataflow file, and what its module was given.
    fn inner(&mut self, node: &mut Node, place: &Use, module: &Module, ids: &BTreeSet<String>) {
        if let Some(entry) = node.entries().iter().find(|entry| ONLY_DORA.contains(&entry.key.as_str())) {
            let (found, allowed) =
                (format!("`{}` in a module", entry.key), "wanted: programs; such a module is for `dora run`");
            self.findings.push(Finding::error(Kind::UnknownKey, entry.at, place.id, found, allowed));
        }
        if let Some(Node { content: Content::Scalar { text, .. }, .. }) = node.get_mut("id") {
            let full = format!("{}.{text}", place.id);
            self.names.insert(full.clone(), std::mem::replace(text, full));
        }
        if let Some(inputs) = node.get_mut("inputs").and_then(Node::entries_mut) {
            let all = std::mem::take(inputs);
            inputs.extend(all.into_iter().filter_map(|entry| self.input(entry, place, module, ids)));
        }
        let cloned = node.get("git").is_some_and(|git| !git.is_null());
        if let Some(Node { content: Content::Scalar { text, .. }, .. }) = node.get_mut("path")
            && !cloned
            && is_file(text)
        {
            *text = plain(&module.folder.join(&*text)).display().to_string();
        }
        let Some(entries) = node.entries_mut() else { return };
        if let Some(deploy) = place.deploy.filter(|_| !entries.iter().any(|entry| entry.key == "deploy")) {
            entries.push(deploy.clone());
        }
        if !place.env.is_empty()
            && let Some(env) = env_of(node)
        {
            let given = place.env.iter().filter(|given| !env.iter().any(|entry| entry.key == given.key));
            let given: Vec<Entry> = given.cloned().collect();
            env.extend(given);
        }
    }

    /// An input of a node of a module, with the full name of its source; `None` for an optional one that is not given.
    fn input(&mut self, mut entry: Entry, place: &Use, module: &Module, ids: &BTreeSet<String>) -> Option<Entry> {
        let source = source(&mut entry.value)?;
        let (at, Content::Scalar { text, .. }) = (source.at, &mut source.content) else { return Some(entry) };
        let Some((from, output)) = text.split_once('/') else { return Some(entry) };
        if ids.contains(from) {
            *text = format!("{}.{text}", place.id);
            return Some(entry);
        }
        if from != OUTSIDE {
            return Some(entry);
        }
        let Some(given) = place.inputs.iter().find(|entry| entry.key == output) else {
            if !module.inputs.iter().chain(&module.optional).any(|(name, _)| name == output) {
                let (subject, found) =
                    (format!("{}.inputs", place.id), format!("the unknown input `{output}` of the module"));
                let allowed = "wanted: one of its `inputs` or `inputs_optional`";
                self.findings.push(Finding::error(Kind::UnknownInput, at, subject, found, allowed));
            }
            return None;
        };
        // Queue and time of the inner node go before those that the module was given.
        let mut given = given.value.clone();
        match (&mut given.content, &entry.value.content) {
            (Content::Map(options), Content::Map(own)) => {
                let own: Vec<Entry> = own.iter().filter(|option| option.key != "source").cloned().collect();
                options.retain(|option| !own.iter().any(|own| own.key == option.key));
                options.extend(own);
            }
            (_, Content::Map(own)) => {
                let mut own = own.clone();
                if let Some(source) = own.iter_mut().find(|option| option.key == "source") {
                    source.value = given.clone();
                }
                given.content = Content::Map(own);
            }
            _ => {}
        }
        Some(Entry { value: given, ..entry })
    }

    fn outputs(
        &mut self,
        place: &Use,
        module: &Module,
        nodes: &[Node],
        modules: &BTreeMap<String, Outputs>,
    ) -> Outputs {
        let mut outputs = Outputs::new();
        for (name, at) in &module.outputs {
            let of_node = |node: &Node| {
                let id = node.get("id")?.text()?;
                let own = id.strip_prefix(place.id)?.strip_prefix('.')?;
                let direct = module.nodes.iter().any(|inner| inner.get("id").and_then(Node::text) == Some(own));
                let gives = node.get("outputs")?.items().iter().any(|output| output.text() == Some(name));
                (direct && gives).then(|| format!("{id}/{name}"))
            };
            let of_modules = modules.values().filter_map(|outputs| outputs.get(name).cloned());
            let givers: Vec<String> = nodes.iter().filter_map(of_node).chain(of_modules).collect();
            if let [giver] = givers.as_slice() {
                outputs.insert(name.clone(), giver.clone());
            } else {
                let found = format!("`{name}`, which {} nodes of the module give", givers.len());
                let subject = format!("{}.outputs", place.id);
                self.findings.push(Finding::error(
                    Kind::UnknownOutput,
                    *at,
                    subject,
                    found,
                    "wanted: an output of one node",
                ));
            }
        }
        outputs
    }

    /// Gives the nodes of modules their own names, where these are unique.
    fn shorten(&self, nodes: &mut [Node]) {
        let own = |id: &str| self.names.get(id).map_or_else(|| id.to_owned(), Clone::clone);
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for id in nodes.iter().filter_map(|node| node.get("id")?.text()) {
            *count.entry(own(id)).or_default() += 1;
        }
        let short = |id: &str| Some(own(id)).filter(|own| count.get(own) == Some(&1));
        for node in nodes {
            if let Some(Node { content: Content::Scalar { text, .. }, .. }) = node.get_mut("id")
                && let Some(name) = short(text)
            {
                *text = name;
            }
            for source in sources(node) {
                let Content::Scalar { text, .. } = &mut source.content else { continue };
                if let Some((id, output)) = text.split_once('/')
                    && let Some(name) = short(id)
                {
                    *text = format!("{name}/{output}");
                }
            }
        }
    }
}

fn is_module(node: &Node) -> bool {
    node.get("module").is_some_and(|module| !module.is_null())
}

/// A program by path: neither dora's words, nor an address, nor from the root, nor a name to be looked for on PATH.
fn is_file(path: &str) -> bool {
    let special = ["shell", "dynamic"].contains(&path) || path.contains("://") || Path::new(path).is_absolute();
    !special
}

/// Without `.` and, where that can be, without `..`.
fn plain(path: &Path) -> PathBuf {
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

/// The sources of a node's inputs.
fn sources(node: &mut Node) -> Vec<&mut Node> {
    let inputs = node.get_mut("inputs").and_then(Node::entries_mut);
    inputs.into_iter().flatten().filter_map(|entry| source(&mut entry.value)).collect()
}

fn source(input: &mut Node) -> Option<&mut Node> {
    if matches!(input.content, Content::Map(_)) { input.get_mut("source") } else { Some(input) }
}

/// The `env:` of a node, made if there is none; `None` where something else stands there.
pub fn env_of(node: &mut Node) -> Option<&mut Vec<Entry>> {
    let at = node.at;
    let entries = node.entries_mut()?;
    entries.retain(|entry| entry.key != "env" || !entry.value.is_null());
    if !entries.iter().any(|entry| entry.key == "env") {
        entries.push(Entry { key: "env".into(), at, value: Node { at, content: Content::Map(Vec::new()) } });
    }
    node.get_mut("env")?.entries_mut()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use tempfile::TempDir;

    use crate::dataflow::{File, Kind, Source, shape};

    /// A folder with files.
    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    const INNER: &str = "
module: { name: inner, inputs: [texts], inputs_optional: [more], outputs: [counts] }
nodes:
  - { id: count, path: ../bin/count, env: { OWN: inner }, inputs: { texts: { source: _mod/texts, queue_size: 7 }, more: _mod/more }, outputs: [counts] }
  - { id: show, path: show, inputs: { counts: count/counts } }
";
    const OUTER: &str = "
module: { name: outer, outputs: [counts] }
nodes:
  - { id: read, path: /usr/bin/read, outputs: [texts] }
  - { id: inner, module: inner.yml, inputs: { texts: read/texts } }
";
    const FILE: &str = "
nodes:
  - { id: all, module: ../modules/outer.yml, env: { OWN: outer, GIVEN: yes } }
  - { id: sum, path: bin/sum, inputs: { counts: all/counts } }
";

    fn wired(file: &File) -> BTreeMap<String, (String, Vec<String>)> {
        let sources = |node: &crate::dataflow::NodeEntry| {
            let named = |input: &crate::dataflow::Input| match &input.source {
                Source::Node { id, output } => format!("{}={id}/{output}", input.name),
                other => format!("{}={other:?}", input.name),
            };
            node.inputs.iter().map(named).collect()
        };
        let path =
            |node: &crate::dataflow::NodeEntry| node.path.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
        file.nodes.iter().map(|node| (node.id.clone(), (path(node), sources(node)))).collect()
    }

    #[test]
    fn modules_in_modules_become_plain_nodes_wherever_they_lie() {
        let folder =
            folder(&[("modules/inner.yml", INNER), ("modules/outer.yml", OUTER), ("experiments/mine.yml", FILE)]);
        let reading = shape::read(FILE, &folder.path().join("experiments"));
        assert!(reading.findings.is_empty(), "{:?}", reading.findings);
        let of =
            |path: &str, sources: &[&str]| (path.to_owned(), sources.iter().map(|&text| text.to_owned()).collect());
        let wanted = BTreeMap::from([
            ("read".to_owned(), of("/usr/bin/read", &[])),
            ("count".to_owned(), of("../bin/count", &["texts=read/texts"])),
            ("show".to_owned(), of("../modules/show", &["counts=count/counts"])),
            ("sum".to_owned(), of("bin/sum", &["counts=count/counts"])),
        ]);
        assert_eq!(wired(&reading.file), wanted);
        let count = reading.file.node("count").unwrap();
        assert_eq!((count.env["OWN"].text.as_str(), count.env["GIVEN"].text.as_str()), ("inner", "yes"));
        assert_eq!(count.inputs[0].queue_size, Some(7));
        assert_eq!((count.at.file, count.at.line), (2, 4), "a finding points into the module's file");
        assert_eq!(count.env["GIVEN"].at.file, 0);
    }

    #[test]
    fn a_module_that_is_used_twice_keeps_doras_names() {
        let folder = folder(&[("modules/inner.yml", INNER)]);
        let text = "
nodes:
  - { id: a, module: modules/inner.yml, inputs: { texts: read/texts } }
  - { id: b, module: modules/inner.yml, inputs: { texts: read/texts, more: a/counts } }
  - { id: read, path: read, outputs: [texts] }
";
        let reading = shape::read(text, folder.path());
        assert!(reading.findings.is_empty(), "{:?}", reading.findings);
        let ids: Vec<String> = wired(&reading.file).into_keys().collect();
        assert_eq!(ids, ["a.count", "a.show", "b.count", "b.show", "read"]);
        let inputs = &wired(&reading.file)["b.count"].1;
        assert_eq!(inputs, &["texts=read/texts", "more=a.count/counts"]);
    }

    #[test]
    fn what_is_wrong_with_a_module_is_said_with_its_file() {
        for (wrong, replaced, kind, file) in [
            ("../modules/outer.yml", "../modules/out.yml", Kind::MissingFile, 0),
            ("all/counts", "all/count", Kind::UnknownOutput, 0),
            ("module: inner.yml", "module: outer.yml", Kind::Cycle, 1),
            ("inputs: { texts: read/texts }", "inputs: {}", Kind::MissingKey, 1),
            ("inputs: { texts: read/texts }", "inputs: { texts: read/texts, mor: read/texts }", Kind::UnknownInput, 1),
            ("_mod/more", "_mod/mor", Kind::UnknownInput, 2),
            (
                "outputs: [counts] }\nnodes:\n  - { id: count",
                "outputs: [count] }\nnodes:\n  - { id: count",
                Kind::UnknownOutput,
                2,
            ),
            ("path: show", "operator: { python: x.py }", Kind::UnknownKey, 2),
            ("path: show", "path: show\n  - ]", Kind::YamlSyntax, 2),
            ("env: { OWN: outer", "params: { OWN: outer", Kind::UnknownKey, 0),
        ] {
            let [inner, outer, text] = [INNER, OUTER, FILE].map(|text| text.replace(wrong, replaced));
            let folder = folder(&[
                ("modules/inner.yml", &inner),
                ("modules/outer.yml", &outer),
                ("experiments/mine.yml", &text),
            ]);
            let findings = shape::read(&text, &folder.path().join("experiments")).findings;
            assert!(
                findings.iter().any(|finding| finding.kind == kind && finding.at.file == file),
                "{wrong} → {replaced}: {findings:#?}"
            );
        }
    }
}
