//! `difflow plugin new`: a project that builds, passes the check and runs, outside this repository.

use std::fs;
use std::path::{Path, PathBuf};

use difflow_plugin_host::Kind;
use eyre::{Context, Result, bail};

use crate::home;
use crate::plugin::{KindName, Language};

const HEADER: &str = include_str!("../../../../plugins/include/difflow_plugin.h");

/// Writes the project NAME.
pub fn run(name: &str, kind: KindName, language: Language, sdk: Option<PathBuf>) -> Result<u8> {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !plain {
        bail!("`{name}` cannot name a plug-in; allowed: lower-case letters, digits and -, a letter first");
    }
    let dir = Path::new(name);
    if dir.exists() {
        bail!("{name} is already there; choose another name or move it away");
    }
    let files = match language {
        Language::Rust => rust(name, kind, &plugins_folder(sdk)?),
        Language::C => c(name, kind)?,
    };
    for (path, text) in &files {
        let path = dir.join(path);
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!(
        "{name}/ is made, a project for one {}. README.md there says how to build, check and use it.",
        Kind::from(kind).name()
    );
    Ok(0)
}

/// Returns the folder `plugins` with the SDK: the given one, else difflow's own. Errors if it has no SDK.
fn plugins_folder(given: Option<PathBuf>) -> Result<PathBuf> {
    let found = match given {
        Some(given) => given,
        None => home::find("plugins")?,
    };
    if !found.join("sdk/Cargo.toml").is_file() {
        bail!("the SDK is not in {}; name difflow's folder `plugins` with --sdk", found.join("sdk").display());
    }
    found.canonicalize().with_context(|| found.display().to_string())
}

/// Whose `env:` takes the plug-in, and the line to put there.
fn usage(kind: KindName, library: &str) -> (&'static str, String) {
    let all = "dataflow itself, where all nodes see it";
    match kind {
        KindName::NoiseSchedule => ("node `noiser`", format!("NOISE_SCHEDULE: {library}")),
        KindName::AnnealingSchedule => ("node `trainer`", format!("ANNEALING_SCHEDULE: {library}")),
        KindName::BatchTransform => ("node `noiser`", format!("TRANSFORMS: '[\"{library}\"]'")),
        KindName::ModelRecipe => (all, format!("MODEL_RECIPE: {library}")),
        KindName::TorchModel => (all, format!("TORCH_MODEL: {library}")),
    }
}

fn readme(name: &str, kind: KindName, build: &str, library: &str) -> String {
    let (place, line) = usage(kind, &format!("PATH/TO/{name}/{library}"));
    let needs = match kind {
        KindName::TorchModel => {
            " (`LIBTORCH` must name the libtorch of your difflow: `. bin/env.sh` in a checkout sets it, and of an installation it is the folder `torch` in site-packages; the first build compiles tch, which takes minutes)"
        }
        _ => "",
    };
    include_str!("templates/README.md")
        .replace("{{name}}", name)
        .replace("{{kind}}", Kind::from(kind).name())
        .replace("{{build}}", build)
        .replace("{{needs}}", needs)
        .replace("{{library}}", library)
        .replace("{{place}}", place)
        .replace("{{line}}", &line)
}

fn rust(name: &str, kind: KindName, plugins: &Path) -> Vec<(&'static str, String)> {
    let source = match kind {
        KindName::NoiseSchedule => include_str!("templates/noise.rs.txt"),
        KindName::AnnealingSchedule => include_str!("templates/annealing.rs.txt"),
        KindName::BatchTransform => include_str!("templates/transform.rs.txt"),
        KindName::ModelRecipe => include_str!("templates/recipe.rs.txt"),
        KindName::TorchModel => include_str!("templates/torch.rs.txt"),
    };
    let torch = if kind == KindName::TorchModel { include_str!("templates/torch.toml.txt") } else { "" };
    let plugins = plugins.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let manifest = include_str!("templates/Cargo.toml.txt").replace("{{name}}", name).replace("{{torch}}", torch);
    let library = format!("target/release/lib{}.so", name.replace('-', "_"));
    vec![
        ("Cargo.toml", manifest.replace("{{plugins}}", &plugins)),
        ("src/lib.rs", source.replace("{{name}}", name)),
        ("README.md", readme(name, kind, "cargo build --release", &library)),
        (".gitignore", "/target/\n".into()),
    ]
}

fn c(name: &str, kind: KindName) -> Result<Vec<(&'static str, String)>> {
    let (functions, macro_name) = match kind {
        KindName::NoiseSchedule => (include_str!("templates/noise.c.txt"), "DIFFLOW_NOISE_SCHEDULE_V1"),
        KindName::AnnealingSchedule => (include_str!("templates/annealing.c.txt"), "DIFFLOW_ANNEALING_SCHEDULE_V1"),
        KindName::ModelRecipe => (include_str!("templates/recipe.c.txt"), "DIFFLOW_MODEL_RECIPE_V1"),
        KindName::BatchTransform | KindName::TorchModel => {
            bail!("{} is not offered in C; use --lang rust", Kind::from(kind).name())
        }
    };
    let source = include_str!("templates/plugin.c.txt")
        .replace("{{functions}}", functions)
        .replace("{{kind}}", macro_name)
        .replace("{{name}}", name);
    let library = format!("{name}.so");
    Ok(vec![
        ("plugin.c", source),
        ("difflow_plugin.h", HEADER.into()),
        ("Makefile", include_str!("templates/Makefile.txt").replace("{{name}}", name)),
        ("README.md", readme(name, kind, "make", &library)),
        (".gitignore", "*.so\n".into()),
    ])
}
