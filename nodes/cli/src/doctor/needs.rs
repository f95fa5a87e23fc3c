//! What a dataflow file needs on the machines that its ranks run on.

use std::path::{Path, PathBuf};

use difflow_node_kit::dataflow::Dataflow;
use eyre::Result;

use crate::chosen::Chosen;
use crate::dataflow::yaml::Node;
use crate::dataflow::{Assignment, Level, Settings, absolute, program, shape};
use crate::doctor::probe::Question;
use crate::doctor::report::Places;
use crate::terminal::error;
use crate::validate::{self, EXIT_CONFIG};

const TRAINER: &str = "difflow-trainer";
const CORPUS: &str = "difflow-corpus";
/// The value of RENDEZVOUS with which ranks on one machine find each other.
pub const AUTO: &str = "auto";

/// What a file needs.
#[derive(Debug)]
pub struct Needs {
    pub places: Places,
    /// The program of the ranks, where the file names it by its path.
    trainer: Option<PathBuf>,
    pub rendezvous: String,
    /// The machine of rank 0.
    pub leader: String,
    /// The machine that reads the corpus.
    pub reader: String,
}

impl Needs {
    /// Those of a file whose rank 0 and corpus are on one machine.
    #[cfg(test)]
    pub fn for_tests(places: Places, rendezvous: &str, machine: &str) -> Self {
        let (leader, reader) = (machine.to_owned(), machine.to_owned());
        Self { places, trainer: None, rendezvous: rendezvous.to_owned(), leader, reader }
    }

    /// Reads them off a file, as it is or as `difflow expand --machines` writes it; where that cannot run on these machines, says why on
    /// stderr and returns the exit code. Errors if the file cannot be read.
    pub fn read(file: &Path, set: Vec<Assignment>, machines: &[String]) -> Result<Result<Self, u8>> {
        let tree = match Chosen::of(file, set).read(1, &[])? {
            Ok(tree) => tree,
            Err(code) => return Ok(Err(code)),
        };
        let folder = absolute(file.parent().unwrap_or(Path::new("")))?;
        Ok(Self::of(&tree.text(), &tree.root, &folder, machines).map_err(|problems| {
            for problem in problems {
                eprintln!("{}", error(&format!("{}: {problem}", file.display())));
            }
            EXIT_CONFIG
        }))
    }

    fn of(text: &str, root: &Node, folder: &Path, machines: &[String]) -> Result<Self, Vec<String>> {
        let shape::Reading { mut file, mut findings, .. } = shape::read(text, folder);
        // What dora makes of the values: numbers, and variables of the environment.
        let dataflow = Dataflow::parse(text).map_err(|problem| vec![problem])?;
        file.take_values(&dataflow.shared(), &dataflow.own());
        let settings = validate::settings(&file, false, &mut findings);
        // Without places: they would be those of the text with its modules written out.
        let wrong = findings.iter().filter(|finding| finding.level == Level::Error);
        let mut problems: Vec<String> =
            wrong.map(|finding| format!("{}: found {}; {}", finding.subject, finding.found, finding.allowed)).collect();
        for node in nodes(root) {
            if let Some(machine) = deployed(node, "machine").filter(|machine| !machines.contains(machine)) {
                let id = node.get("id").and_then(Node::text).unwrap_or_default();
                problems.push(format!("{id} runs on {machine}; --cluster has {}", machines.join(", ")));
            }
        }
        let trainer = settings.iter().find_map(|node| match &node.settings {
            Settings::Trainer(config) => Some(config.as_ref().clone()),
            _ => None,
        });
        let sources = settings.iter().find_map(|node| match &node.settings {
            Settings::Corpus(config) => Some(config.sources.clone()),
            _ => None,
        });
        let (Some(trainer), true) = (trainer, problems.is_empty()) else {
            if problems.is_empty() {
                problems.push(format!("there is no {TRAINER} in it: nothing that has ranks"));
            }
            return Err(problems);
        };
        let rank = nodes(root).iter().find(|node| runs(node, TRAINER));
        let folder =
            rank.and_then(|rank| deployed(rank, "working_dir")).map_or_else(|| folder.to_owned(), PathBuf::from);
        let path = rank.and_then(|rank| rank.get("path")?.text()).filter(|path| path.contains('/'));
        let machine = |node: Option<&Node>| {
            let placed = node.and_then(|node| deployed(node, "machine")).or_else(|| machines.first().cloned());
            placed.unwrap_or_default()
        };
        Ok(Self {
            trainer: path.map(|path| folder.join(path)),
            rendezvous: trainer.rendezvous,
            leader: machine(rank),
            reader: machine(nodes(root).iter().find(|node| runs(node, CORPUS))),
            places: Places { folder, base_model: trainer.base_model, sources, run: trainer.run },
        })
    }
}

fn nodes(root: &Node) -> &[Node] {
    root.get("nodes").map_or(&[], Node::items)
}

fn runs(node: &Node, name: &str) -> bool {
    node.get("path").and_then(Node::text).and_then(program).is_some_and(|program| program.ports.program == name)
}

fn deployed(node: &Node, key: &str) -> Option<String> {
    Some(node.get("deploy")?.get(key)?.text()?.to_owned())
}

/// What is asked of each machine. Without a file it is what every run needs; `programs` is the folder of difflow's programs.
pub fn questions(needs: Option<&Needs>, machines: &[String], programs: &Path) -> Vec<Question> {
    let trainer = needs.and_then(|needs| needs.trainer.clone()).unwrap_or_else(|| programs.join(TRAINER));
    // Where rank 0's machine is not asked, nobody waits there.
    let meeting = needs.filter(|needs| needs.rendezvous != AUTO && machines.contains(&needs.leader));
    let question = |machine: &String| Question {
        machine: machine.clone(),
        trainer: trainer.clone(),
        rendezvous: meeting.map(|needs| needs.rendezvous.clone()),
        leads: needs.is_some_and(|needs| needs.leader == *machine),
        places: needs.map(|needs| needs.places.clone()),
    };
    machines.iter().map(question).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dataflow::Tree;

    const FILE: &str = include_str!("../../../../dataflow.yml");

    fn needs(ranks: usize, placed: &[&str], machines: &[&str], set: &[&str]) -> Result<Needs, Vec<String>> {
        let mut tree = Tree::read(FILE, Path::new("")).unwrap_or_else(|finding| panic!("{finding:?}"));
        tree.set(&set.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>()).unwrap();
        let owned = |all: &[&str]| all.iter().map(|&machine| machine.to_owned()).collect::<Vec<_>>();
        tree.expand_ranks(ranks, &owned(placed), Path::new("/there")).unwrap();
        Needs::of(&tree.text(), &tree.root, Path::new("/here"), &owned(machines))
    }

    #[test]
    fn a_file_says_what_it_needs_before_and_after_it_is_placed() {
        let plain = needs(1, &[], &["a", "b"], &["RUN=x", "RENDEZVOUS=h:1"]).unwrap();
        assert_eq!((plain.leader.as_str(), plain.reader.as_str(), plain.rendezvous.as_str()), ("a", "a", "h:1"));
        assert_eq!((plain.places.folder.as_path(), plain.places.run.name.as_str()), (Path::new("/here"), "x"));
        assert_eq!(plain.trainer.unwrap(), Path::new("/here/bin/difflow-trainer"));
        let placed = needs(2, &["b", "a"], &["a", "b"], &[]).unwrap();
        assert_eq!((placed.leader.as_str(), placed.reader.as_str(), placed.rendezvous.as_str()), ("b", "b", AUTO));
        assert_eq!(placed.places.folder, Path::new("/there"));
        assert_eq!(placed.trainer.unwrap(), Path::new("/there/bin/difflow-trainer"));
        assert!(placed.places.sources.unwrap().contains("path"));
    }

    #[test]
    fn what_cannot_run_there_is_refused() {
        let other = needs(2, &["a", "c"], &["a", "b"], &[]).unwrap_err();
        assert_eq!(other, ["trainer-1 runs on c; --cluster has a, b"]);
        let wrong = needs(1, &[], &["a"], &["LEARNING_RATE=fast"]).unwrap_err();
        assert!(wrong.iter().any(|problem| problem.contains("LEARNING_RATE")), "{wrong:?}");
    }

    #[test]
    fn rank_0_waits_only_where_it_is_asked() {
        let needs = needs(1, &[], &["a", "b"], &["RENDEZVOUS=h:1"]).unwrap();
        let of = |machines: &[&str]| {
            let machines: Vec<String> = machines.iter().map(|&machine| machine.to_owned()).collect();
            questions(Some(&needs), &machines, Path::new("/p"))
        };
        let both = of(&["a", "b"]);
        assert_eq!((both[0].leads, both[1].leads, both[1].rendezvous.as_deref()), (true, false, Some("h:1")));
        assert_eq!(of(&["b"])[0].rendezvous, None);
        assert_eq!(questions(None, &["a".to_owned()], Path::new("/p"))[0].trainer, Path::new("/p/difflow-trainer"));
    }
}
