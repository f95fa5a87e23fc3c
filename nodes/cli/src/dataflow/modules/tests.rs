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
    let path = |node: &crate::dataflow::NodeEntry| node.path.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
    file.nodes.iter().map(|node| (node.id.clone(), (path(node), sources(node)))).collect()
}

#[test]
fn modules_in_modules_become_plain_nodes_wherever_they_lie() {
    let folder = folder(&[("modules/inner.yml", INNER), ("modules/outer.yml", OUTER), ("experiments/mine.yml", FILE)]);
    let reading = shape::read(FILE, &folder.path().join("experiments"));
    assert!(reading.findings.is_empty(), "{:?}", reading.findings);
    let of = |path: &str, sources: &[&str]| (path.to_owned(), sources.iter().map(|&text| text.to_owned()).collect());
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
        let folder =
            folder(&[("modules/inner.yml", &inner), ("modules/outer.yml", &outer), ("experiments/mine.yml", &text)]);
        let findings = shape::read(&text, &folder.path().join("experiments")).findings;
        assert!(
            findings.iter().any(|finding| finding.kind == kind && finding.at.file == file),
            "{wrong} → {replaced}: {findings:#?}"
        );
    }
}
