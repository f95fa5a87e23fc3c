//! The outputs of a module.

use std::collections::BTreeMap;

use crate::dataflow::finding::{Finding, Kind};
use crate::dataflow::modules::file::Module;
use crate::dataflow::modules::{Expander, Outputs, Use};
use crate::dataflow::yaml::Node;

impl Expander<'_> {
    /// Where each output of a module comes from: one node of it, or one of the modules in it.
    pub fn outputs(
        &mut self,
        place: &Use,
        module: &Module,
        nodes: &[Node],
        modules: &BTreeMap<String, Outputs>,
    ) -> Outputs {
        let mut outputs = Outputs::new();
        for (name, at) in &module.outputs {
            let of_node = |node: &Node| {
                let id = node.get("id")?.text()?;
                let own = id.strip_prefix(place.id)?.strip_prefix('.')?;
                let direct = module.nodes.iter().any(|inner| inner.get("id").and_then(Node::text) == Some(own));
                let gives = node.get("outputs")?.items().iter().any(|output| output.text() == Some(name));
                (direct && gives).then(|| format!("{id}/{name}"))
            };
            let of_modules = modules.values().filter_map(|outputs| outputs.get(name).cloned());
            let givers: Vec<String> = nodes.iter().filter_map(of_node).chain(of_modules).collect();
            if let [giver] = givers.as_slice() {
                outputs.insert(name.clone(), giver.clone());
            } else {
                let found = format!("`{name}`, which {} nodes of the module give", givers.len());
                let subject = format!("{}.outputs", place.id);
                self.findings.push(Finding::error(
                    Kind::UnknownOutput,
                    *at,
                    subject,
                    found,
                    "wanted: an output of one node",
                ));
            }
        }
        outputs
    }
}
