//! Positions of the nodes: one column further right for every node that data passes on its way.

use crate::graph::Graph;

/// Column and row of each node.
pub fn places(graph: &Graph) -> Vec<(usize, usize)> {
    let mut columns = vec![0; graph.nodes.len()];
    // As often as there are nodes: enough for any graph without circles, and an end for one with.
    for _ in 0..graph.nodes.len() {
        for edge in graph.edges.iter().filter(|edge| !edge.demand) {
            let after = columns[edge.from] + 1;
            if after < graph.nodes.len() {
                columns[edge.to] = columns[edge.to].max(after);
            }
        }
    }
    let mut used = vec![0; graph.nodes.len() + 1];
    columns
        .into_iter()
        .map(|column| {
            let row = used[column];
            used[column] += 1;
            (column, row)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Drawn, Edge};

    fn graph(edges: &[(usize, usize)]) -> Graph {
        let node = |id: usize| Drawn { id: id.to_string(), program: String::new() };
        let edge = |&(from, to): &(usize, usize)| {
            let name = String::from("x");
            Edge { from, to, output: name.clone(), input: name, message: String::new(), demand: false }
        };
        Graph { nodes: (0..4).map(node).collect(), edges: edges.iter().map(edge).collect() }
    }

    #[test]
    fn data_flows_to_the_right_and_no_two_nodes_share_a_place() {
        assert_eq!(places(&graph(&[(0, 1), (1, 2), (1, 3)])), [(0, 0), (1, 0), (2, 0), (2, 1)]);
    }

    #[test]
    fn a_circle_has_places_too() {
        let found = places(&graph(&[(0, 1), (1, 0), (1, 2)]));
        let different: std::collections::BTreeSet<_> = found.iter().collect();
        assert!(different.len() == 4 && found.iter().all(|(column, _)| *column < 4), "{found:?}");
    }
}
