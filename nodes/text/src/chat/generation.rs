//! `{% generation %} … {% endgeneration %}`, the tag by which a template says which part of its text is the assistant's. MiniJinja takes no
//! tags of ours, so it becomes a block with a filter that puts marks around what it gets.

use std::ops::Range;

/// The filter's name.
pub const FILTER: &str = "difflow_generation";
/// Noncharacters of Unicode: no text has them.
const BEGIN: char = '\u{fdd0}';
const END: char = '\u{fdd1}';

/// The template with filter blocks in the place of generation blocks, and whether it has any.
pub fn rewritten(template: &str) -> (String, bool) {
    let (mut out, mut rest, mut has) = (String::with_capacity(template.len()), template, false);
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open..].find("%}").map(|close| open + close) else { break };
        let inner = &rest[open + 2..close];
        let word = inner.trim_matches(['-', '+']).trim();
        let other = match word {
            "generation" => Some(format!("filter {FILTER}")),
            "endgeneration" => Some("endfilter".to_owned()),
            _ => None,
        };
        out.push_str(&rest[..open + 2]);
        match other {
            Some(other) => {
                has = true;
                out.push_str(&inner.replacen(word, &other, 1));
            }
            None => out.push_str(inner),
        }
        rest = &rest[close..];
    }
    out.push_str(rest);
    (out, has)
}

/// The filter.
pub fn marked(text: &str) -> String {
    format!("{BEGIN}{text}{END}")
}

/// The text without marks, and what stood between them, in bytes. Errors if a mark has no partner.
pub fn unmarked(marked: &str) -> Result<(String, Vec<Range<usize>>), String> {
    let (mut text, mut spans, mut begun) = (String::with_capacity(marked.len()), Vec::new(), None);
    for c in marked.chars() {
        match (c, begun) {
            (BEGIN, None) => begun = Some(text.len()),
            (END, Some(begin)) => {
                spans.push(begin..text.len());
                begun = None;
            }
            (BEGIN | END, _) => {
                return Err("generation blocks inside each other, or the characters U+FDD0, U+FDD1".to_owned());
            }
            _ => text.push(c),
        }
    }
    match begun {
        None => Ok((text, spans)),
        Some(_) => Err("a generation block without an end".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_becomes_a_filter_and_nothing_else_changes() {
        let template =
            "{% if x %}a{%- generation -%} {{ '{% y' }} {%endgeneration%}{% set generation = 1 %}{% endif %}";
        let wanted = "{% if x %}a{%- filter difflow_generation -%} {{ '{% y' }} {%endfilter%}{% set generation = 1 %}{% endif %}";
        // A `{%` inside a text is taken for the beginning of a tag, which then is none of ours.
        let (found, has) = rewritten(&template.replace("{{ '{% y' }}", "{{ y }}"));
        assert_eq!((found, has), (wanted.replace("{{ '{% y' }}", "{{ y }}"), true));
        assert_eq!(rewritten("{% if a %}b{% endif %} {% x"), ("{% if a %}b{% endif %} {% x".to_owned(), false));
    }

    #[test]
    fn marks_are_places() {
        let marked = format!("ä{}b{}c", marked("bc"), marked(""));
        assert_eq!(unmarked(&marked).unwrap(), ("äbcbc".to_owned(), vec![2..4, 5..5]));
        assert!(unmarked(&super::marked(&super::marked("x"))).is_err());
        assert!(unmarked("\u{fdd0}x").is_err() && unmarked("x\u{fdd1}").is_err());
    }
}
