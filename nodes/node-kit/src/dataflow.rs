//! A dataflow file as dora reads it, for checking one without starting it: the values that nodes would get, dora's
//! own rules, and its strict types on difflow's edges.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::datatypes::DataType;
use difflow_schema::ports::{self, Kind, PORTS, Ports, TICK};
use dora_core::config::InputMapping;
use dora_core::descriptor::validate::{check_dataflow_static, check_type_annotations_full};
use dora_core::descriptor::{Descriptor, DescriptorExt, Node};
use dora_core::types::{FieldDef, TypeDef, TypeRegistry};
use serde_json::Value;

/// Keys and values of an `env:` block, as a node would get them.
pub type Environment = BTreeMap<String, String>;

/// A parsed dataflow file.
#[derive(Debug, Clone)]
pub struct Dataflow(Descriptor);

/// The keys that dora knows, by their place in a dataflow file.
#[derive(Debug, Clone)]
pub struct KnownKeys {
    /// At the top.
    pub dataflow: Vec<String>,
    /// Of a node.
    pub node: Vec<String>,
    /// Of an input that is written as a mapping.
    pub input: Vec<String>,
}

/// Returns the ports of the program at `path`, or `None` if it is not one of difflow's.
pub fn ports_of(path: &str) -> Option<&'static Ports> {
    let name = Path::new(path).file_name()?.to_str()?;
    PORTS.iter().find(|ports| ports.program == name)
}

/// Returns the keys that dora accepts, taken from its own schema where it has them.
pub fn known_keys() -> KnownKeys {
    let schema = schemars::schema_for!(Descriptor);
    let names = |properties: Option<&Value>, unlisted: &[&str]| {
        let listed = properties.and_then(Value::as_object).into_iter().flat_map(|all| all.keys().cloned());
        let mut names: Vec<String> = listed.chain(unlisted.iter().map(|&name| name.to_owned())).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    KnownKeys {
        // dora leaves these out of its schema, but reads them.
        dataflow: names(schema.get("properties"), &["deploy", "debug"]),
        node: names(schema.as_value().pointer("/$defs/Node/properties"), &["deploy"]),
        input: ["source", "queue_size", "input_timeout", "queue_policy"].map(str::to_owned).to_vec(),
    }
}

impl From<Descriptor> for Dataflow {
    fn from(descriptor: Descriptor) -> Self {
        Self(descriptor)
    }
}

impl Dataflow {
    /// Reads the text of a dataflow file. Errors with dora's message, which has `line L column C` if dora knows the
    /// place.
    pub fn parse(text: &str) -> Result<Self, String> {
        Descriptor::parse(text.as_bytes().to_vec())
            .map(Self)
            .map_err(|e| format!("{:#}", e).replace("failed to parse given descriptor: ", ""))
    }

    /// Returns the dataflow's own `env:`, without the keys of single nodes.
    pub fn shared(&self) -> Environment {
        let all = self.0.env.iter().flatten().filter(|(key, _)| !key.contains('.'));
        all.map(|(key, value)| (key.clone(), value.to_string())).collect()
    }

    /// Returns the `env:` of each node, by id. `NODE.KEY` in the dataflow's `env:` is a key of that node and overrides
    /// the node's own, which may be set in a module. dora calls a node of a module `MODULE.NODE`; here its own name is
    /// enough.
    pub fn own(&self) -> BTreeMap<String, Environment> {
        let of_one = |id: &str| {
            let own_name = id.rsplit('.').next().unwrap_or(id).to_owned();
            let id = id.to_owned();
            self.0.env.iter().flatten().filter_map(move |(name, value)| {
                let (node, key) = name.rsplit_once('.')?;
                (node == own_name || node == id).then(|| (key.to_owned(), value.to_string()))
            })
        };
        let nodes = self.0.nodes.iter();
        nodes
            .map(|node| {
                let own = node.env.iter().flatten().map(|(key, value)| (key.clone(), value.to_string()));
                let id = node.id.to_string();
                let all = own.chain(of_one(&id)).collect();
                (id, all)
            })
            .collect()
    }

    /// Returns the ids of the nodes that run the program of node `id` and get their `input` from the node that it gets its own from, in
    /// the order of the file: what one node has several outputs for.
    pub fn alike(&self, id: &str, input: &str) -> Vec<String> {
        let from = |node: &Node| {
            let program = ports_of(node.path.as_deref()?)?.program;
            match &node.inputs.iter().find(|(name, _)| name.as_str() == input)?.1.mapping {
                InputMapping::User(user) => Some((program, user.source.to_string())),
                _ => None,
            }
        };
        let own = self.0.nodes.iter().find(|node| node.id.to_string() == id).and_then(from);
        let same = self.0.nodes.iter().filter(|node| own.is_some() && from(node) == own);
        same.map(|node| node.id.to_string()).collect()
    }

    /// Checks dora's own rules that need no file: wiring, times, log keys. Errors with dora's message about the first
    /// that is broken.
    pub fn check(&self) -> Result<(), String> {
        check_dataflow_static(&self.0).map_err(|e| format!("{e:#}"))
    }

    /// Returns what dora's strict type check finds, by node. Ports of difflow's programs have the types of their
    /// messages even if the file does not give them; `input_types` and `output_types` of the file, and types in
    /// `folder/types`, take precedence. Errors if dora cannot read a file in `folder/types`.
    pub fn type_problems(&self, folder: &Path) -> Result<Vec<(String, String)>, String> {
        let mut registry = TypeRegistry::new();
        for kind in ports::kinds() {
            registry.add_user_type(&kind.urn(), type_definition(&kind))?;
        }
        registry.load_from_dir(&folder.join("types"))?;
        let mut annotated = self.0.clone();
        for node in &mut annotated.nodes {
            let Some(ports) = node.path.as_deref().and_then(ports_of) else { continue };
            for name in node.inputs.keys() {
                let urn = ports.input(name).and_then(|port| urn(port.message));
                if let Some(urn) = urn {
                    node.input_types.entry(name.clone()).or_insert(urn);
                }
            }
            for name in &node.outputs {
                let urn = ports.output(name).and_then(|port| urn(port.message));
                if let Some(urn) = urn {
                    node.output_types.entry(name.clone()).or_insert(urn);
                }
            }
        }
        let result = check_type_annotations_full(&annotated, &registry, true);
        Ok(result.warnings.into_iter().map(|warning| (warning.node_id, warning.message)).collect())
    }
}

fn urn(message: &str) -> Option<String> {
    if message == TICK { None } else { ports::kind(message).map(|kind| kind.urn()) }
}

fn type_definition(kind: &Kind) -> TypeDef {
    let fields = kind.fields.iter().map(|field| FieldDef {
        name: field.name().clone(),
        r#type: type_name(field.data_type()),
        nullable: field.is_nullable(),
    });
    TypeDef {
        arrow: "Struct".into(),
        description: Some(kind.what.into()),
        params: Vec::new(),
        fields: fields.collect(),
        metadata: Vec::new(),
    }
}

/// Returns an Arrow type in dora's grammar.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => format!("List<{}>", type_name(item.data_type())),
        plain => plain.to_string(),
    }
}

/// Returns the file `types/difflow/v1.yml`: difflow's messages for `dora validate --strict-types`.
pub fn types_file() -> String {
    let mut text = String::from(
        "# The messages on difflow's edges, for `dora validate --strict-types`. Made by `difflow docs`; a test compares.\ntypes:\n",
    );
    for kind in ports::kinds() {
        text.push_str(&format!(
            "  {}:\n    arrow: Struct\n    description: {}\n    fields:\n",
            kind.type_name,
            Value::from(kind.what)
        ));
        for field in kind.fields.iter() {
            let (name, kind) = (field.name(), type_name(field.data_type()));
            text.push_str(&format!(
                "      - {{ name: {name}, type: \"{kind}\", nullable: {} }}\n",
                field.is_nullable()
            ));
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FILE: &str = "
env: { SEED: 1, RUN: 1.10 }
nodes:
  - id: noiser
    path: bin/difflow-noiser
    inputs: { sequences: tokenizer/sequences, demand: trainer/demand }
    outputs: [noised, demand]
    env: { MIN_T: 0.01, PRESET: parity }
  - id: trainer
    path: bin/difflow-trainer
    inputs: { noised: noiser/noised }
    outputs: [demand, metrics]
  - id: tokenizer
    path: bin/difflow-tokenizer
    inputs: { documents: corpus/documents, demand: noiser/demand }
    outputs: [sequences, demand]
  - id: corpus
    path: bin/difflow-corpus
    inputs: { demand: tokenizer/demand }
    outputs: [documents]
";

    #[test]
    fn values_are_those_that_nodes_get() {
        let dataflow = Dataflow::parse(FILE).unwrap();
        assert_eq!(dataflow.shared()["RUN"], "1.1");
        assert_eq!(dataflow.own()["noiser"]["MIN_T"], "0.01");
        dataflow.check().unwrap();
    }

    #[test]
    fn a_key_of_one_node_goes_before_all_others() {
        let text = FILE.replace("SEED: 1", "SEED: 1, noiser.MIN_T: 0.5, trainer.STEPS: 7");
        let dataflow = Dataflow::parse(&text.replace("id: trainer", "id: adapt.trainer")).unwrap();
        assert_eq!(dataflow.shared().into_keys().collect::<Vec<_>>(), ["RUN", "SEED"]);
        let own = dataflow.own();
        assert_eq!((own["noiser"]["MIN_T"].as_str(), own["noiser"]["PRESET"].as_str()), ("0.5", "parity"));
        assert_eq!(own["adapt.trainer"]["STEPS"], "7");
        assert!(own["corpus"].is_empty());
    }

    #[test]
    fn trainers_of_one_noiser_are_found_in_their_order() {
        let more = "
  - { id: other, path: bin/difflow-trainer, inputs: { noised: elsewhere/noised }, outputs: [demand] }
  - { id: trainer-1, path: bin/difflow-trainer, inputs: { noised: { source: noiser/noised-1 } }, outputs: [demand] }
";
        let dataflow = Dataflow::parse(&format!("{}{more}", FILE.trim_end())).unwrap();
        assert_eq!(dataflow.alike("trainer-1", "noised"), ["trainer", "trainer-1"]);
        assert_eq!(dataflow.alike("other", "noised"), ["other"]);
        assert!(dataflow.alike("nobody", "noised").is_empty());
    }

    #[test]
    fn difflows_edges_have_types_without_anyone_writing_them() {
        let good = Dataflow::parse(FILE).unwrap();
        assert_eq!(good.type_problems(Path::new("nowhere")).unwrap(), []);
        let bad = Dataflow::parse(&FILE.replace("noised: noiser/noised", "noised: trainer/metrics")).unwrap();
        let problems = bad.type_problems(Path::new("nowhere")).unwrap();
        assert!(
            problems.iter().any(|(node, text)| node == "trainer" && text.contains("difflow/v1/Noised")),
            "{problems:?}"
        );
    }

    #[test]
    fn the_types_file_is_one_that_dora_reads() {
        let folder = std::env::temp_dir().join(format!("difflow-types-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("difflow")).unwrap();
        std::fs::write(folder.join("difflow/v1.yml"), types_file()).unwrap();
        let mut registry = TypeRegistry::new();
        assert_eq!(registry.load_from_dir(&folder).unwrap(), ports::kinds().len());
        for kind in ports::kinds() {
            let schema = registry.resolve(&kind.urn()).unwrap().to_arrow_schema_with_registry(&registry);
            assert_eq!(schema.unwrap().fields().len(), kind.fields.len(), "{}", kind.name);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn doras_keys_are_known() {
        let keys = known_keys();
        for (all, some) in
            [(&keys.dataflow, "exit_when_nodes_finish"), (&keys.node, "finish_grace_secs"), (&keys.node, "env")]
        {
            assert!(all.iter().any(|key| key == some), "{some} not in {all:?}");
        }
    }
}
