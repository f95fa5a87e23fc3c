//! Writes YAML back as text: the same values, in block style.

use crate::dataflow::yaml::{Content, Node};

/// The text of a document.
pub fn write(root: &Node) -> String {
    let mut text = String::new();
    value(root, 0, &mut text);
    text
}

/// Writes what stands behind `key:` or `-`, with the end of its last line.
fn value(node: &Node, indent: usize, text: &mut String) {
    match &node.content {
        Content::Scalar { text: scalar, plain } => text.push_str(&format!(" {}\n", written(scalar, *plain))),
        Content::Map(entries) if entries.is_empty() => text.push_str(" {}\n"),
        Content::List(items) if items.is_empty() => text.push_str(" []\n"),
        Content::Map(entries) => {
            begin(text);
            for entry in entries {
                text.push_str(&format!("{}{}:", " ".repeat(indent), name(&entry.key)));
                value(&entry.value, indent + 2, text);
            }
        }
        Content::List(items) => {
            begin(text);
            for item in items {
                text.push_str(&format!("{}-", " ".repeat(indent)));
                value(item, indent + 2, text);
            }
        }
    }
}

/// The line break before the first line of a mapping or a list that stands behind something.
fn begin(text: &mut String) {
    if !text.is_empty() {
        text.push('\n');
    }
}

/// Without quotes only what was so, for dora reads `true` and `"true"` alike but `~` and `"~"` not.
fn written(scalar: &str, plain: bool) -> String {
    if plain && !scalar.contains('\n') { scalar.to_owned() } else { serde_json::Value::from(scalar).to_string() }
}

fn name(key: &str) -> String {
    let simple = key.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) && !key.is_empty();
    written(key, simple && !key.starts_with(['-', '.']))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_node_kit::dataflow::Dataflow;

    use super::*;
    use crate::dataflow::yaml::parse;

    /// What is read, without places.
    fn content(text: &str) -> String {
        fn show(node: &Node) -> String {
            match &node.content {
                Content::Scalar { text, plain } => format!("{text:?}{plain}"),
                Content::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(",")),
                Content::Map(entries) => {
                    let all = entries.iter().map(|entry| format!("{}: {}", entry.key, show(&entry.value)));
                    format!("{{{}}}", all.collect::<Vec<_>>().join(","))
                }
            }
        }
        show(&parse(text).unwrap().root)
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        for text in [
            "a: 1\nb: { c: [x, \"y: z\", '#'], d: {}, e: [], f: }\n",
            "- 1\n- [2, [3]]\n- { a: [{ b: c }] }\n",
            "env:\n  A: 'it''s $HOME/x'\n  B: |\n    two\n    lines\n  C: 3e-3\n  \"odd key\": ~\n  sampler.DEVICE: cpu\n",
            "a: one\n  line, [more]\n",
            include_str!("../../../../dataflow.yml"),
        ] {
            let again = write(&parse(text).unwrap().root);
            assert_eq!(content(text), content(&again), "{again}");
        }
    }

    #[test]
    fn dora_reads_the_same_values() {
        let text = include_str!("../../../../dataflow.yml");
        let again = write(&parse(text).unwrap().root);
        let (one, two) = (Dataflow::parse(text).unwrap(), Dataflow::parse(&again).unwrap());
        assert_eq!((one.shared(), one.own()), (two.shared(), two.own()));
    }
}
