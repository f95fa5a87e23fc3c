//! The inputs of a module, seen from outside and from inside.

use std::collections::BTreeSet;

use difflow_node_kit::config::nearest;

use crate::dataflow::finding::{Finding, Kind};
use crate::dataflow::modules::file::Module;
use crate::dataflow::modules::{Expander, Use};
use crate::dataflow::parts::source;
use crate::dataflow::yaml::{Content, Entry, Mark};

/// What a module's own input is called inside.
const OUTSIDE: &str = "_mod";

impl Expander<'_> {
    /// The inputs that a module wants must be given, and no others.
    pub fn bound(&mut self, place: &Use, module: &Module, at: Mark) {
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

    /// An input of a node of a module, with the full name of its source; `None` for an optional one that is not given.
    pub fn input(&mut self, mut entry: Entry, place: &Use, module: &Module, ids: &BTreeSet<String>) -> Option<Entry> {
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
}
