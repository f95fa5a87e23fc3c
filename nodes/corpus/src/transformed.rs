//! Documents after the batch transforms. Those get plain texts, whatever the documents are, so that a plug-in works on any of them: of
//! conversations it may drop and repeat some, by their texts, but not change them.

use std::collections::BTreeMap;

use difflow_node_kit::{Problem, Problems};
use difflow_plugin_host::Transforms;
use difflow_schema::{Documents, PlainDocuments};
use eyre::Result;

/// What the transforms make of a batch.
///
/// # Errors
/// When one of them fails, or changes a conversation.
pub fn transformed(transforms: &mut Transforms, seq: u64, seed: u64, batch: Documents) -> Result<Documents> {
    let Documents { doc, text, messages } = batch;
    let before: BTreeMap<u64, (String, String)> = doc.iter().copied().zip(text.iter().cloned().zip(messages)).collect();
    let PlainDocuments { doc, text } = transforms.apply(seq, seed, PlainDocuments { doc, text })?;
    let mut messages = Vec::new();
    if !before.is_empty() {
        for (doc, text) in doc.iter().zip(&text) {
            match before.get(doc) {
                Some((same, own)) if same == text => messages.push(own.clone()),
                _ => {
                    let found = format!("a transform that changes document {doc}");
                    let allowed = "of conversations a transform may drop or repeat some; change them with SQL";
                    return Err(Problems::from(Problem::new("TRANSFORMS", found, allowed)).into());
                }
            }
        }
    }
    Ok(Documents { doc, text, messages })
}
