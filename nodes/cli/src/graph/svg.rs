//! The graph as an SVG document.

use crate::graph::layout::places;
use crate::graph::{Edge, Graph};

/// Column and row, or x and y.
type Place = (usize, usize);

/// A box, and the room between two of them.
const BOX: (usize, usize) = (150, 54);
const ROOM: (usize, usize) = (190, 70);
const MARGIN: usize = 30;
/// Above the first row: where edges over several columns go.
const TOP: usize = 130;
/// Between edges of the same two nodes.
const BESIDE: usize = 13;

/// A document of its own.
pub fn draw(graph: &Graph) -> String {
    let places = places(graph);
    let corner = |node: usize| {
        let (column, row) = places[node];
        (MARGIN + column * (BOX.0 + ROOM.0), TOP + row * (BOX.1 + ROOM.1))
    };
    let columns = places.iter().map(|place| place.0).max().unwrap_or(0) + 1;
    let rows = places.iter().map(|place| place.1).max().unwrap_or(0) + 1;
    let width = 2 * MARGIN + columns * BOX.0 + (columns - 1) * ROOM.0;
    let height = TOP + rows * BOX.1 + (rows - 1) * ROOM.1 + TOP;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\">\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto-start-reverse\"><path d=\"M0 0L8 4L0 8z\" fill=\"#456\"/></marker></defs>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (number, edge) in graph.edges.iter().enumerate() {
        let same = |other: &&Edge| (other.from, other.to) == (edge.from, edge.to);
        let beside = BESIDE * graph.edges[..number].iter().filter(same).count();
        text.push_str(&curve(edge, (places[edge.from], places[edge.to]), (corner(edge.from), corner(edge.to)), beside));
    }
    for (number, node) in graph.nodes.iter().enumerate() {
        let (x, y) = corner(number);
        let middle = x + BOX.0 / 2;
        text.push_str(&format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"#eef4fb\" stroke=\"#1f5fbf\"/>\n\
             <text x=\"{middle}\" y=\"{}\" font-size=\"15\" text-anchor=\"middle\">{}</text>\n\
             <text x=\"{middle}\" y=\"{}\" font-size=\"11\" text-anchor=\"middle\" fill=\"#567\">{}</text>\n",
            BOX.0,
            BOX.1,
            y + 24,
            escaped(&node.id),
            y + 42,
            escaped(&node.program)
        ));
    }
    text.push_str("</svg>\n");
    text
}

/// An edge with its label. Data leaves on the right and comes in on the left; demand goes back below; what passes over a column goes around it,
/// above the first row and below the others.
fn curve(edge: &Edge, (from, to): (Place, Place), (start, end): (Place, Place), beside: usize) -> String {
    let at = |share: usize| BOX.1 * share / 4;
    let (x1, y1, x2, y2) = if edge.demand {
        (start.0, start.1 + at(3), end.0 + BOX.0, end.1 + at(3))
    } else {
        (start.0 + BOX.0, start.1 + at(1) + beside, end.0, end.1 + at(1) + beside)
    };
    let (bend, over) = (ROOM.0 / 2, to.0.abs_diff(from.0).saturating_sub(1));
    let (b1, b2) =
        if edge.demand { (x1.saturating_sub(bend), x2 + bend) } else { (x1 + bend, x2.saturating_sub(bend)) };
    let lift = if over == 0 { 0 } else { 60 + 25 * over };
    let (c1, c2) =
        if from.1 == 0 { (y1.saturating_sub(lift), y2.saturating_sub(lift)) } else { (y1 + lift, y2 + lift) };
    let dashes = if edge.demand { " stroke-dasharray=\"5 4\"" } else { "" };
    // The middle of a cubic curve: an eighth of each end and three eighths of each handle.
    let middle = |ends: usize, handles: usize| (ends + 3 * handles) / 8;
    let (x, y) = (middle(x1 + x2, b1 + b2), middle(y1 + y2, c1 + c2));
    let y = if edge.demand { y + 14 } else { y.saturating_sub(4) };
    format!(
        "<path d=\"M{x1} {y1}C{b1} {c1} {b2} {c2} {x2} {y2}\" fill=\"none\" stroke=\"#456\"{dashes} marker-end=\"url(#a)\"/>\n\
         <text x=\"{x}\" y=\"{y}\" font-size=\"11\" text-anchor=\"middle\" fill=\"#234\" stroke=\"#fff\" stroke-width=\"3\" paint-order=\"stroke\">{}</text>\n",
        escaped(&edge.label())
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::dataflow::shape;
    use crate::graph::graph;

    #[test]
    fn every_node_and_every_edge_is_drawn() {
        let text = include_str!("../../tests/dataflows/good.yml").replace("id: evaluator", "id: <e&v>");
        let drawn = super::draw(&graph(&shape::read(&text, Path::new("")).file));
        assert_eq!(drawn.matches("<rect ").count(), 1 + 9);
        assert_eq!(drawn.matches("marker-end").count(), 13, "the edge from a node that is not there is left out");
        assert!(drawn.contains("&lt;e&amp;v&gt;") && drawn.contains("noised (noised/2)"));
        assert_eq!(drawn.matches("<text").count(), drawn.matches("</text>").count());
    }
}
