//! What a machine of a cluster is, as its probe sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;

use difflow_model::Device;
use difflow_node_kit::RunKeys;
use difflow_schema::run::{Manifest, RunDir, file_sha256};
use serde::{Deserialize, Serialize};

use crate::doctor::here;
use crate::doctor::network::{Opened, Reached};
use crate::dora;

/// Extensions of the CPU that libtorch or difflow's kernels choose their code by.
const EXTENSIONS: [&str; 9] = ["avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "sve2", "bf16"];

/// What the dataflow file needs on each machine that has ranks; paths are those of its folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Places {
    pub folder: PathBuf,
    /// A folder, or a hub id.
    pub base_model: String,
    /// The corpus' SOURCES.
    pub sources: Option<String>,
    /// Which says where the run's folder is.
    pub run: RunKeys,
}

/// Files by name, each with what tells its content from any other's.
pub type Files = BTreeMap<String, String>;

/// What a machine is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub host: String,
    pub cpu: Cpu,
    /// Of difflow.
    pub version: String,
    pub revision: String,
    /// sha256 of the trainer's program.
    pub trainer: Result<String, String>,
    /// libtorch's version, with its flavour behind a `+`.
    pub libtorch: String,
    pub gpus: Vec<String>,
    /// What dora's program says of its version.
    pub dora: Option<String>,
    /// Where it waited for the others.
    pub opened: Opened,
    /// Which others it reached.
    pub reached: Reached,
    pub files: Option<Found>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    pub model: String,
    pub extensions: Vec<String>,
    pub cores: usize,
}

/// What it has of what a dataflow file needs; an error where the folder of that file is not there.
pub type Found = Result<FoundFiles, String>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoundFiles {
    /// Nothing of one on the hub that is not fetched yet.
    pub base_model: Result<Option<Files>, String>,
    pub corpus: Option<Result<Files, String>>,
    /// The last checkpoint of the run, with the sha256 of its manifest.
    pub checkpoint: Result<Option<(u64, String)>, String>,
    /// Bytes that are free where the run is or will be.
    pub free: Option<u64>,
}

impl Report {
    /// Looks at everything of this machine.
    pub fn of(trainer: &Path, places: Option<&Places>, opened: Opened, reached: Reached) -> Self {
        Self {
            host: host(),
            cpu: cpu(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: difflow_trainer::REVISION.to_owned(),
            trainer: file_sha256(trainer).map(|(sha256, _)| sha256).map_err(|e| format!("{}: {e}", trainer.display())),
            libtorch: libtorch(),
            gpus: gpus(),
            dora: here::version(&dora::program(None)),
            opened,
            reached,
            files: places.map(found),
        }
    }
}

fn host() -> String {
    let name = rustix::system::uname();
    format!("{} ({}, Linux {})", lossy(name.nodename()), lossy(name.machine()), lossy(name.release()))
}

fn lossy(text: &std::ffi::CStr) -> String {
    text.to_string_lossy().into_owned()
}

fn cpu() -> Cpu {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (model, extensions) = cpu_of(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default());
    Cpu { model, extensions, cores }
}

/// Model and extensions of what /proc/cpuinfo says.
fn cpu_of(text: &str) -> (String, Vec<String>) {
    let value = |names: &[&str]| {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        fields.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| names.contains(name)).map(|(_, v)| v)
    };
    // ARM has no name for people, only the number of a part.
    let model = value(&["model name", "CPU part"]).unwrap_or("unknown");
    let flags: Vec<&str> = value(&["flags", "Features"]).unwrap_or_default().split(' ').collect();
    let extensions = EXTENSIONS.iter().filter(|name| flags.contains(name));
    (model.to_owned(), extensions.map(|&name| name.to_owned()).collect())
}

/// The version of the libtorch that is loaded: the wheel and the archive keep it in different places.
fn libtorch() -> String {
    let read = || {
        let folder = here::torch_library()?.parent()?.parent()?.to_owned();
        ["build-version", "version.py"].iter().find_map(|name| {
            let text = std::fs::read_to_string(folder.join(name)).ok()?;
            let named = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
            let version = named.or_else(|| text.lines().next())?;
            Some(version.trim_matches(['\'', '"', ' ']).to_owned())
        })
    };
    read().unwrap_or_else(|| "unknown".to_owned())
}

/// The GPUs that this program can use, by the driver's names.
fn gpus() -> Vec<String> {
    // libtorch's CUDA half takes seconds to load: not where there is no driver (the last of these is WSL's).
    if !["/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists()) {
        return Vec::new();
    }
    let count = (0..).take_while(|number| Device::open(&format!("cuda:{number}")).is_ok()).count();
    let mut names: Vec<String> = std::fs::read_dir("/proc/driver/nvidia/gpus")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|gpu| std::fs::read_to_string(gpu.path().join("information")).ok())
        .filter_map(|text| Some(text.lines().find_map(|line| line.strip_prefix("Model:"))?.trim().to_owned()))
        .collect();
    names.sort();
    // The driver may know more than this program may use.
    names.resize(count, "a GPU".to_owned());
    names
}

fn found(places: &Places) -> Found {
    std::env::set_current_dir(&places.folder).map_err(|e| format!("{}: {e}", places.folder.display()))?;
    let run = places.run.dir();
    Ok(FoundFiles {
        base_model: base_model(&places.base_model),
        corpus: places.sources.as_deref().map(corpus),
        checkpoint: checkpoint(&run),
        free: places.folder.join(run.root()).ancestors().find(|path| path.is_dir()).and_then(here::free),
    })
}

fn base_model(named: &str) -> Result<Option<Files>, String> {
    let folder = if difflow_hub::is_id(named) { difflow_hub::cached_folder(named) } else { Some(named.into()) };
    let Some(folder) = folder else { return Ok(None) };
    let files = difflow_trainer::base_model_files(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let name = |path: &str| Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Some(files.into_iter().map(|(path, sha256)| (name(&path), sha256)).collect()))
}

/// As the corpus tells its files apart: path, size, digest, and of long ones the time of change.
fn corpus(sources: &str) -> Result<Files, String> {
    let files = difflow_corpus::identities(sources).map_err(|problems| problems.to_string())?;
    let named = files.iter().map(|identity| {
        let path = identity[0].as_str().unwrap_or_default();
        (path.to_owned(), identity.to_string())
    });
    Ok(named.collect())
}

fn checkpoint(run: &RunDir) -> Result<Option<(u64, String)>, String> {
    let steps = run.checkpoint_steps().map_err(|e| format!("{}: {e}", run.checkpoints().display()))?;
    let Some(&step) = steps.last() else { return Ok(None) };
    let (_, sha256) = Manifest::read(&run.checkpoint(step)).map_err(|e| e.to_string())?;
    Ok(Some((step, sha256)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_cpu_is_read() {
        let intel =
            "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx2 avx512f fma\n\nprocessor\t: 1\n";
        let wanted = ["avx2", "fma", "avx512f"].map(str::to_owned).to_vec();
        assert_eq!(cpu_of(intel), ("Intel(R) Xeon(R)".to_owned(), wanted));
        let arm = "processor\t: 0\nFeatures\t: fp asimd sve\nCPU part\t: 0xd40\n";
        assert_eq!(cpu_of(arm), ("0xd40".to_owned(), vec!["asimd".to_owned(), "sve".to_owned()]));
        assert_eq!(cpu_of("").0, "unknown");
    }

    #[test]
    fn what_is_loaded_has_a_version() {
        assert!(libtorch().starts_with(|c: char| c.is_ascii_digit()), "{}", libtorch());
    }
}
