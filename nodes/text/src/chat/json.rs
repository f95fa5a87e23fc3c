//! `tojson` as transformers has it: Python's `json.dumps`.

use std::io;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

/// The filter: `indent`, `separators`, `sort_keys` and `ensure_ascii` as in Python; `ensure_ascii` is off where nothing is said.
pub fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let wrong = |e: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    let mut json = serde_json::to_value(value).map_err(|e| wrong(&e))?;
    if sorted == Some(true) {
        json.sort_all_objects();
    }
    let indent = match indent {
        None => None,
        Some(indent) => match indent.as_str() {
            _ if indent.is_none() => None,
            Some(text) => Some(text.to_owned()),
            None => Some(" ".repeat(usize::try_from(indent)?)),
        },
    };
    let mut out = Vec::new();
    let written = match (indent, separators.as_deref()) {
        (Some(indent), None) => write(&json, &mut out, PrettyFormatter::with_indent(indent.as_bytes())),
        (None, None) => write(&json, &mut out, Spaced { item: ", ", key: ": " }),
        (None, Some([item, key])) => write(&json, &mut out, Spaced { item, key }),
        _ => return Err(wrong(&"separators are two texts, without an indent")),
    };
    written.map_err(|e| wrong(&e))?;
    let text = String::from_utf8(out).map_err(|e| wrong(&e))?;
    Ok(if ascii == Some(true) { escaped(&text) } else { text })
}

fn write(json: &serde_json::Value, out: &mut Vec<u8>, formatter: impl Formatter) -> serde_json::Result<()> {
    json.serialize(&mut serde_json::Serializer::with_formatter(out, formatter))
}

/// On one line, with these separators.
struct Spaced<'a> {
    item: &'a str,
    key: &'a str,
}

impl Formatter for Spaced<'_> {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(self.item.as_bytes()) }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}
