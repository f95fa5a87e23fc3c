//! Mermaid output, which GitHub and many editors render.

use crate::graph::Graph;

/// A flowchart.
pub fn draw(graph: &Graph) -> String {
    let quoted = |text: &str| text.replace('"', "#quot;");
    let mut text = String::from("flowchart LR\n");
    for (number, node) in graph.nodes.iter().enumerate() {
        text.push_str(&format!("  n{number}[\"{}<br/><small>{}</small>\"]\n", quoted(&node.id), quoted(&node.program)));
    }
    for edge in &graph.edges {
        let arrow = if edge.demand { "-.->" } else { "-->" };
        text.push_str(&format!("  n{} {arrow}|\"{}\"| n{}\n", edge.from, quoted(&edge.label()), edge.to));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::dataflow::shape;
    use crate::graph::graph;

    #[test]
    fn every_edge_says_what_it_carries() {
        let text = include_str!("../../tests/dataflows/good.yml");
        let drawn = super::draw(&graph(&shape::read(text, Path::new("")).file));
        for line in [
            "  n3[\"trainer<br/><small>difflow-trainer</small>\"]",
            "  n2 -->|\"noised (noised/2)\"| n3",
            "  n3 -.->|\"demand (demand/1)\"| n2",
            "  n3 -->|\"metrics → training (metrics/1)\"| n7",
            "  n8 -->|\"tick\"| n7",
        ] {
            assert!(drawn.lines().any(|found| found == line), "`{line}` not in\n{drawn}");
        }
        assert_eq!(drawn.lines().count(), 1 + 9 + 14);
    }
}
