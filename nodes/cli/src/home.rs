//! Where difflow's own files are. An installation has the same folders as a checkout: `bin/` with the programs and, beside
//! it, `dataflow.yml`, `nodes/`, `data/`, `plugins/` and `docs/`.

use std::path::{Path, PathBuf};

use eyre::{Context, Result, bail};

/// Returns the path of `wanted`, such as `plugins/sdk`, in the installation or checkout that this program belongs to, else in
/// the checkout that it was built in. Errors if neither has it.
pub fn find(wanted: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.parent()?.join(wanted)));
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(wanted);
    let tried: Vec<PathBuf> = own.into_iter().chain([built]).collect();
    match tried.iter().find(|path| path.exists()) {
        Some(found) => found.canonicalize().with_context(|| found.display().to_string()),
        None => {
            let places: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
            bail!("{wanted} of difflow is not there; looked for {}", places.join(" and "))
        }
    }
}

/// Returns the folder that this program lies in, with the other programs. Errors if the kernel does not tell.
pub fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe().and_then(|own| own.canonicalize()).context("cannot find this program")?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_owned())
}
