//! The names of the nodes of modules.

use std::collections::BTreeMap;

use crate::dataflow::modules::Expander;
use crate::dataflow::parts::sources;
use crate::dataflow::yaml::{Content, Node};

impl Expander<'_> {
    /// Gives the nodes of modules their own names, where these are unique.
    pub fn shorten(&self, nodes: &mut [Node]) {
        let own = |id: &str| self.names.get(id).map_or_else(|| id.to_owned(), Clone::clone);
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for id in nodes.iter().filter_map(|node| node.get("id")?.text()) {
            *count.entry(own(id)).or_default() += 1;
        }
        let short = |id: &str| Some(own(id)).filter(|own| count.get(own) == Some(&1));
        for node in nodes {
            if let Some(Node { content: Content::Scalar { text, .. }, .. }) = node.get_mut("id")
                && let Some(name) = short(text)
            {
                *text = name;
            }
            for source in sources(node) {
                let Content::Scalar { text, .. } = &mut source.content else { continue };
                if let Some((id, output)) = text.split_once('/')
                    && let Some(name) = short(id)
                {
                    *text = format!("{name}/{output}");
                }
            }
        }
    }
}
