//! YAML with the line and column of everything in it.

use std::collections::{BTreeMap, BTreeSet};

use granit_parser::{Event, Parser, ScalarStyle, Span};

/// Things in one file; a few aliases of aliases would otherwise fill the memory.
const MOST_NODES: usize = 100_000;
/// Nesting. A dataflow file needs six.
const DEEPEST: usize = 64;

/// A place in a file; line and column are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// Which file: 0 for the dataflow file, then its modules.
    pub file: usize,
    pub line: usize,
    pub column: usize,
}

impl Mark {
    /// Where a dataflow file begins.
    pub const START: Self = Self { file: 0, line: 1, column: 1 };
}

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub at: Mark,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text as written; `plain` when it stands there without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    Map(Vec<Entry>),
    List(Vec<Node>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub at: Mark,
    pub value: Node,
}

/// What is no YAML, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    pub at: Mark,
    pub problem: String,
}

/// The content of a file, and the keys that stand twice in one mapping.
#[derive(Debug)]
pub struct Document {
    pub root: Node,
    pub duplicates: Vec<(Mark, String)>,
}

impl Node {
    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        if let Content::Scalar { text, .. } = &self.content { Some(text) } else { None }
    }

    /// A text at a place, written in quotes.
    pub fn quoted(at: Mark, text: impl Into<String>) -> Self {
        Self { at, content: Content::Scalar { text: text.into(), plain: false } }
    }

    /// The entries of a mapping; none for anything else.
    pub fn entries(&self) -> &[Entry] {
        if let Content::Map(entries) = &self.content { entries } else { &[] }
    }

    /// The entries of a mapping, to be changed.
    pub fn entries_mut(&mut self) -> Option<&mut Vec<Entry>> {
        if let Content::Map(entries) = &mut self.content { Some(entries) } else { None }
    }

    /// The items of a list; none for anything else.
    pub fn items(&self) -> &[Self] {
        if let Content::List(items) = &self.content { items } else { &[] }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        self.entries_mut()?.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.value)
    }

    /// Says which file it and all in it stand in.
    pub fn stands_in(&mut self, file: usize) {
        self.at.file = file;
        match &mut self.content {
            Content::Scalar { .. } => {}
            Content::List(items) => items.iter_mut().for_each(|item| item.stands_in(file)),
            Content::Map(entries) => {
                for entry in entries {
                    entry.at.file = file;
                    entry.value.stands_in(file);
                }
            }
        }
    }

    /// What it is, in words.
    pub fn what(&self) -> &'static str {
        match &self.content {
            Content::Scalar { text, plain: true } if is_null(text) => "nothing",
            Content::Scalar { .. } => "a single value",
            Content::Map(_) => "a mapping",
            Content::List(_) => "a list",
        }
    }

    /// True for a value that is left out: `key:` with nothing behind it.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true } if is_null(text))
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A collection that is not closed yet.
struct Open {
    at: Mark,
    anchor: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, Mark)> },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
    duplicates: Vec<(Mark, String)>,
}

/// Reads one YAML document.
pub fn parse(text: &str) -> Result<Document, SyntaxError> {
    let mut builder = Builder::default();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let at = Mark { file: 0, line: e.marker().line(), column: e.marker().col() + 1 };
            let problem = e.info();
            let tab = if problem.contains("tab") { tab_after(text, at) } else { None };
            SyntaxError { at: tab.unwrap_or(at), problem }
        })?;
        let at = mark(&span);
        let wrong = |problem: &str| SyntaxError { at, problem: problem.to_owned() };
        match event {
            Event::DocumentStart(..) => {
                documents += 1;
                if documents > 1 {
                    return Err(wrong("a second document; a dataflow file is one"));
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let content = Content::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                builder.add(Node { at, content }, anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => builder.begin(at, anchor, Kind::List(Vec::new()))?,
            Event::MappingStart(_, anchor, _) => {
                builder.begin(at, anchor, Kind::Map { entries: Vec::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => builder.end()?,
            Event::Alias(id) => {
                let Some(node) = builder.anchors.get(&id).cloned() else {
                    return Err(wrong("an alias of something that is not complete yet"));
                };
                builder.nodes += size(&node);
                builder.add(Node { at, ..node }, 0)?;
            }
            _ => {}
        }
    }
    let root = builder.root.ok_or_else(|| SyntaxError { at: Mark::START, problem: "the file is empty".into() })?;
    Ok(Document { root, duplicates: builder.duplicates })
}

/// The first tab in an indentation from a place on: the parser sees it as the end of the line before.
fn tab_after(text: &str, at: Mark) -> Option<Mark> {
    let mut lines = text.lines().enumerate().skip(at.line.saturating_sub(1));
    lines.find_map(|(index, line)| {
        let column = line.chars().take_while(|c| c.is_whitespace()).position(|c| c == '\t')?;
        Some(Mark { file: 0, line: index + 1, column: column + 1 })
    })
}

fn mark(span: &Span) -> Mark {
    Mark { file: 0, line: span.start.line(), column: span.start.col() + 1 }
}

fn size(node: &Node) -> usize {
    1 + match &node.content {
        Content::Scalar { .. } => 0,
        Content::List(items) => items.iter().map(size).sum(),
        Content::Map(entries) => entries.iter().map(|entry| size(&entry.value)).sum(),
    }
}

impl Builder {
    fn begin(&mut self, at: Mark, anchor: usize, kind: Kind) -> Result<(), SyntaxError> {
        if self.open.len() >= DEEPEST {
            return Err(SyntaxError { at, problem: format!("nested deeper than {DEEPEST}") });
        }
        self.open.push(Open { at, anchor, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let Some(Open { at, anchor, kind }) = self.open.pop() else { return Ok(()) };
        let content = match kind {
            Kind::List(items) => Content::List(items),
            Kind::Map { entries, .. } => {
                let mut seen = BTreeSet::new();
                let again = entries.iter().filter(|entry| !seen.insert(entry.key.as_str()));
                self.duplicates.extend(again.map(|entry| (entry.at, entry.key.clone())));
                Content::Map(entries)
            }
        };
        self.add(Node { at, content }, anchor)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            return Err(SyntaxError {
                at: node.at,
                problem: format!("more than {MOST_NODES} values, aliases counted"),
            });
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(Kind::List(items)) => items.push(node),
            Some(Kind::Map { entries, key }) => match key.take() {
                Some((name, at)) => entries.push(Entry { key: name, at, value: node }),
                None => {
                    let at = node.at;
                    let Content::Scalar { text, .. } = node.content else {
                        return Err(SyntaxError { at, problem: "a key that is no single value".into() });
                    };
                    *key = Some((text, at));
                }
            },
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn everything_knows_its_line_and_column() {
        let document = parse("# head\nenv:\n  A: 1\n  'B': { c: [x, \"y\"] }\n").unwrap();
        let env = &document.root.entries()[0];
        assert_eq!((env.key.as_str(), env.at), ("env", Mark { file: 0, line: 2, column: 1 }));
        let [a, b] = env.value.entries() else { panic!("{env:?}") };
        assert_eq!((a.at, a.value.at), (Mark { file: 0, line: 3, column: 3 }, Mark { file: 0, line: 3, column: 6 }));
        assert_eq!(a.value.content, Content::Scalar { text: "1".into(), plain: true });
        let list = b.value.get("c").unwrap();
        let Content::List(items) = &list.content else { panic!("{list:?}") };
        assert_eq!(items[1].at, Mark { file: 0, line: 4, column: 17 });
        assert_eq!(items[1].content, Content::Scalar { text: "y".into(), plain: false });
    }

    #[test]
    fn a_key_that_stands_twice_is_found_at_its_second_place() {
        let document = parse("a: 1\nb: { c: 1, c: 2 }\na: 3\n").unwrap();
        assert_eq!(
            document.duplicates,
            [(Mark { file: 0, line: 2, column: 12 }, "c".into()), (Mark { file: 0, line: 3, column: 1 }, "a".into())]
        );
    }

    #[test]
    fn an_alias_is_what_it_stands_for_at_its_own_place() {
        let document = parse("a: &x { k: 1 }\nb: *x\n").unwrap();
        let b = document.root.get("b").unwrap();
        assert_eq!((b.at.line, b.get("k").unwrap().text()), (2, Some("1")));
    }

    #[test]
    fn what_is_no_yaml_has_a_place_and_a_reason() {
        for (text, line, column, problem) in [
            ("a: [1,\nb: 2", 1, 4, "bracket"),
            ("a: 1\n\tb: 2", 2, 1, "tab"),
            ("", 1, 1, "empty"),
            ("a: 1\n---\nb: 2", 2, 1, "second document"),
            ("a: *x", 1, 4, "anchor"),
            ("{[1]: 2}", 1, 2, "no single value"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.at, Mark { file: 0, line, column }, "{text:?}: {error:?}");
            assert!(error.problem.contains(problem), "{text:?}: {error:?}");
        }
    }

    /// Nine lines would otherwise become a billion values.
    #[test]
    fn aliases_of_aliases_and_deep_nesting_come_to_an_end() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..10 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(parse(&text).unwrap_err().problem.contains("aliases"));
        assert!(!parse(&"[".repeat(100_000)).unwrap_err().problem.is_empty());
        assert!(parse(&format!("{}{}", "[".repeat(80), "]".repeat(80))).unwrap_err().problem.contains("deeper"));
    }
}
