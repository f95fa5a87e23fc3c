//! docs/EDGES.md: ports, messages, columns and metrics.

use difflow_node_kit::dataflow::type_name;
use difflow_schema::measures::{Better, MEASURES, Measure};
use difflow_schema::ports::{PORTS, kinds};

const HEAD: &str = "\
# Edges

<!-- Made by `difflow docs --write .` from nodes/schema; a test compares. -->

What a node takes and gives. Every message is one Arrow struct array whose metadata has `seq` (its absolute number on the edge), `message` (its name and
version) and `fin` (there is no batch `seq`: the data ended), and on the way of the data `facts`: JSON that says what the batch was made with (nodes/schema/src/facts.rs).
Before its first batch the tokenizer sends a message without rows, marked `prelude`, for the facts alone. A program of your own on that way hands on both. Every receiver
checks name, columns, types and lengths. Data is never pushed: downstream asks with `demand` for batches by number. Where several
trainers train one model (docs/RANKS.md), the noiser has an input and an output for each: `demand-1` and `noised-1` beside `demand` and `noised`. dora's strict types know these messages from `types/difflow/v1.yml`; `difflow validate` checks them without anything written down.
";

/// What the columns mean.
const COLUMNS: [(&str, &str, &str); 40] = [
    ("demand/1", "next_seq", "first batch wanted"),
    ("demand/1", "count", "how many, at least 1"),
    ("documents/2", "doc", "position of the document in the corpus, from 0"),
    ("documents/2", "text", "its text; of a conversation its contents, one below the other"),
    (
        "documents/2",
        "messages",
        "of a conversation its messages, as a JSON list of objects with role and content; empty for plain texts. Messages documents/1, without \
         this column, are read as plain texts",
    ),
    ("sequences/1", "tokens", "clean token ids x0, `[rows, L]`"),
    ("sequences/1", "documents", "which document of its row a token belongs to, from 0; 4294967295 for padding"),
    (
        "sequences/1",
        "maskable",
        "false for the anchor of a document, for what is not learned of a conversation, and for padding",
    ),
    ("noised/2", "tokens", "as in sequences/1"),
    ("noised/2", "documents", "as in sequences/1"),
    ("noised/2", "maskable", "as in sequences/1"),
    ("noised/2", "masked", "which tokens are masked in xt"),
    ("noised/2", "t", "t in (0, 1]: one of the row, or one of each position"),
    ("noised/2", "weight", "loss weight w(t): one of the row, or one of each position"),
    (
        "noised/2",
        "block",
        "positions of a block of the row, the row's length where it is not cut; 0 in a batch without blocks",
    ),
    ("checkpoint/1", "step", "optimizer steps done"),
    ("checkpoint/1", "path", "absolute path of the folder"),
    ("checkpoint/1", "sha256", "of its manifest.json, in hex"),
    ("checkpoint/1", "bytes", "of all its files"),
    ("checkpoint/1", "tokens_seen", "training tokens so far"),
    ("metrics/1", "step", "optimizer steps done when it was measured"),
    ("metrics/1", "name", "which number, see below"),
    ("metrics/1", "value", "the number; NaN and infinity are news, not errors"),
    ("preview/1", "step", "optimizer steps done before the one it shows"),
    ("preview/1", "t", "t of the row"),
    ("preview/1", "weight", "loss weight of the row"),
    ("preview/1", "attn_mask_ratio", "share of the right-hand side that attention may see"),
    ("preview/1", "length", "tokens of a whole row, L"),
    (
        "preview/1",
        "block",
        "positions of a block of the row; L where it is not cut. Where it is, the pattern is that of [x_t ; x_0], 2L positions",
    ),
    ("preview/1", "tokens", "clean token ids of the row without its padding, the first of them when there are many"),
    ("preview/1", "masked", "which of them are masked"),
    ("preview/1", "attention", "the pattern made smaller, row by row: of each square the visible share, 255 for all"),
    ("samples/1", "step", "optimizer steps of the checkpoint that wrote it"),
    ("samples/1", "index", "number of the text within its checkpoint and kind"),
    ("samples/1", "kind", "`unconditional` (from nothing), `answer` or `infill`"),
    ("samples/1", "prompt", "what was given; a gap is `[…]`"),
    ("samples/1", "text", "the whole text"),
    ("samples/1", "verdict", "`ok`, or what is wrong; empty when nothing checks it"),
    ("samples/1", "nfe", "forward passes it took"),
    ("samples/1", "seconds", "seconds of the batch it was made in, by the batch's rows"),
];

fn meaning(message: &str, column: &str) -> &'static str {
    COLUMNS.iter().find(|(of, name, _)| (*of, *name) == (message, column)).map_or("", |(_, _, what)| what)
}

/// The page.
pub fn page() -> String {
    let mut text = String::from(HEAD);
    text.push_str("\n## Ports\n\n| program | inputs | outputs |\n|---|---|---|\n");
    for ports in PORTS {
        let one = |port: &difflow_schema::ports::Port| {
            let optional = if port.needed { "" } else { ", optional" };
            format!("`{}` ({}{optional})", port.name, port.message)
        };
        let inputs: Vec<String> = ports.inputs.iter().map(one).collect();
        let outputs: Vec<String> =
            ports.outputs.iter().map(|port| format!("`{}` ({})", port.name, port.message)).collect();
        text.push_str(&format!("| {} | {} | {} |\n", ports.program, inputs.join(", "), outputs.join(", ")));
    }
    text.push_str("\n## Messages\n");
    for kind in kinds() {
        text.push_str(&format!(
            "\n### {}\n\n{} (`{}`)\n\n| column | type | |\n|---|---|---|\n",
            kind.name,
            kind.what,
            kind.urn()
        ));
        for field in kind.fields.iter() {
            let (name, data_type) = (field.name(), type_name(field.data_type()));
            text.push_str(&format!("| `{name}` | {data_type} | {} |\n", meaning(kind.name, name)));
        }
    }
    text.push_str(
        "\n## Metrics\n\nThe names in metrics/1, by the monitor's input.\n\n| input | name | unit | better | |\n|---|---|---|---|---|\n",
    );
    for Measure { source, name, unit, better, what, .. } in MEASURES {
        let better = match better {
            Some(Better::Lower) => "lower",
            Some(Better::Higher) => "higher",
            None => "",
        };
        text.push_str(&format!("| {} | `{name}` | {} | {better} | {what} |\n", source.input(), unit.name()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_every_message_is_explained_and_no_other() {
        let mut explained = 0;
        for kind in kinds() {
            for field in kind.fields.iter() {
                assert!(!meaning(kind.name, field.name()).is_empty(), "{} {}", kind.name, field.name());
                explained += 1;
            }
        }
        assert_eq!(explained, COLUMNS.len());
    }
}
