//! The skeleton of a story: what is left when names, things, colours, numbers and the like are taken out.

use crate::mentions::mentions;

/// The text with every named fact replaced by the name of its class, and pronouns by PRONOUN. Two stories with the same skeleton
/// were told by the same sentences in the same order.
pub fn skeleton(text: &str) -> String {
    let mut bare = String::new();
    let mut from = 0;
    for named in mentions(text) {
        bare.push_str(&text[from..named.bytes.start]);
        bare.push_str(named.class.label());
        from = named.bytes.end;
    }
    bare.push_str(&text[from..]);
    let pronouns = ["she", "he", "She", "He"];
    let line = |line: &str| {
        line.split(' ')
            .map(|word| if pronouns.contains(&word) { "PRONOUN" } else { word })
            .collect::<Vec<_>>()
            .join(" ")
    };
    bare.split('\n').map(line).collect::<Vec<_>>().join("\n")
}
