//! Environment variables in a dataflow file: dora substitutes `$NAME` and `${NAME}`, and rejects a file with a
//! variable that is not set.

use crate::dataflow::{File, Finding, Kind, Value};

/// The text with every variable that is not set (or, without an environment, every variable) replaced by its name, so that dora can
/// read it; and a finding for each that is missed.
pub fn fill(text: &str, file: &File, environment: bool) -> (String, Vec<Finding>) {
    let unset = |name: &str| !environment || std::env::var_os(name).is_none();
    let mut readable = text.to_owned();
    for name in names(text).into_iter().filter(|name| unset(name)) {
        readable = readable.replace(&format!("${{{name}}}"), &name).replace(&format!("${name}"), &name);
    }
    let mut findings = Vec::new();
    if environment {
        let shared = file.shared.iter().map(|(key, value)| (format!("env.{key}"), value));
        let own = file
            .nodes
            .iter()
            .flat_map(|node| node.env.iter().map(move |(key, value)| (format!("{}.{key}", node.id), value)));
        for (subject, value) in shared.chain(own) {
            findings.extend(missing(&subject, value, &unset));
        }
    }
    (readable, findings)
}

fn missing(subject: &str, value: &Value, unset: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let finding = |name: String| {
        let found = format!("${name}, which is not set");
        Finding::error(Kind::MissingVariable, value.at, subject, found, "wanted: a variable of the environment")
    };
    names(&value.written).into_iter().filter(|name| unset(name)).map(finding).collect()
}

/// The variables that a text names and gives no default, longest first so that none is cut short by another.
fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (_, rest) in text.match_indices('$').map(|(at, _)| text.split_at(at + 1)) {
        let (rest, braced) = rest.strip_prefix('{').map_or((rest, false), |rest| (rest, true));
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let closed = !braced || rest[name.len()..].starts_with('}');
        if closed && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            names.push(name);
        }
    }
    names.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_as_dora_finds_them() {
        assert_eq!(names("$A/b ${LONG_1}/x ${D:-default} 5$ $9 $A"), ["LONG_1", "A"]);
        let (text, _) = fill("a: $NOT_SET_1/x\nb: ${NOT_SET}\n", &File::default(), true);
        assert_eq!(text, "a: NOT_SET_1/x\nb: NOT_SET\n");
    }
}
