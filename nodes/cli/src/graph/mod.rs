//! `difflow graph`: a dataflow as a picture, with the message on every edge.

mod layout;
mod mermaid;
mod svg;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use difflow_schema::ports::{TICK, rank_of};
use eyre::{Context, Result, eyre};

use crate::dataflow::{File, Names, Source, shape};

pub const EXAMPLES: &str = "\
Examples:
  difflow graph                          dataflow.yml as Mermaid, for Markdown
  difflow graph my.yml --svg graph.svg   as a picture to open in a browser";

#[derive(Args)]
pub struct Arguments {
    /// The dataflow file.
    #[arg(default_value = "dataflow.yml")]
    file: PathBuf,
    /// What to print.
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    format: Format,
    /// Write an SVG file instead of printing.
    #[arg(long, conflicts_with = "format")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Mermaid,
    Svg,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    pub nodes: Vec<Drawn>,
    pub edges: Vec<Edge>,
}

/// A node: its id and its program.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    pub id: String,
    pub program: String,
}

/// An edge between two nodes, by their numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    pub from: usize,
    pub to: usize,
    pub output: String,
    pub input: String,
    /// The message, such as `noised/1`; empty where the sender is no program of difflow.
    pub message: String,
    /// Demand runs against the data.
    pub demand: bool,
}

impl Edge {
    /// The name of the edge with its message.
    pub fn label(&self) -> String {
        let name =
            if self.output == self.input { self.output.clone() } else { format!("{} → {}", self.output, self.input) };
        if self.message.is_empty() { name } else { format!("{name} ({})", self.message) }
    }
}

/// Draws a file.
///
/// # Errors
/// It cannot be read, or has no nodes.
pub fn run(arguments: &Arguments) -> Result<()> {
    let name = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("cannot read {name}"))?;
    let reading = shape::read(&text, arguments.file.parent().unwrap_or(Path::new("")));
    let graph = graph(&reading.file);
    if graph.nodes.is_empty() {
        let names = Names::new(&arguments.file, &reading.files);
        let first = reading.findings.first().map(|finding| finding.to_text(&names)).unwrap_or_default();
        return Err(eyre!("there is no node to draw in {name}\n{first}"));
    }
    let drawn = match (&arguments.svg, arguments.format) {
        (None, Format::Mermaid) => mermaid::draw(&graph),
        _ => svg::draw(&graph),
    };
    match &arguments.svg {
        Some(path) => std::fs::write(path, drawn).with_context(|| format!("cannot write {}", path.display())),
        None => {
            print!("{drawn}");
            Ok(())
        }
    }
}

/// Nodes and edges of a file; an input from a node that is not there is left out, a timer is a node of its own.
pub fn graph(file: &File) -> Graph {
    let program = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let mut nodes: Vec<Drawn> = Vec::new();
    for node in &file.nodes {
        let program = node.path.as_ref().map(|(path, _)| program(path)).unwrap_or_default();
        nodes.push(Drawn { id: node.id.clone(), program });
    }
    let mut edges = Vec::new();
    for (to, node) in file.nodes.iter().enumerate() {
        for input in &node.inputs {
            let (from, output, message) = match &input.source {
                Source::Timer => {
                    let timer = nodes.iter().position(|node| node.id == "timer" && node.program == "dora");
                    let timer = timer.unwrap_or_else(|| {
                        nodes.push(Drawn { id: "timer".into(), program: "dora".into() });
                        nodes.len() - 1
                    });
                    (timer, TICK.to_owned(), String::new())
                }
                Source::Node { id, output } => {
                    let Some(from) = file.nodes.iter().position(|node| node.id == *id) else { continue };
                    let ports = file.nodes[from].program.map(|program| program.ports);
                    let message = ports.and_then(|ports| ports.output(output)).map_or("", |port| port.message);
                    (from, output.clone(), message.to_owned())
                }
                Source::Dora | Source::Unreadable => continue,
            };
            let demand = rank_of("demand", &input.name).is_some();
            edges.push(Edge { from, to, output, input: input.name.clone(), message, demand });
        }
    }
    Graph { nodes, edges }
}
