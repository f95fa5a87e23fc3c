//! Tests of the whole: the direction of dependencies, dataflows run through the real dora command, and the page in a browser.
//!
//! A test takes a real dataflow file of the repository, changes some keys, and runs it with the programs in `bin/` (`make build`)
//! in a folder of its own, so that runs, logs and reports of tests never meet those of people or of each other.

mod bad_proxy;
mod browser;
mod dataflow;
mod disk;
mod http;
mod life;
mod object_server;
mod outcome;
mod parquet_file;
mod processes;
mod random;
mod random_model;
mod safetensors;
mod skip;
mod tiny_run;

pub use bad_proxy::{BadProxy, Fault, Seen};
pub use browser::Browser;
pub use dataflow::Dataflow;
pub use disk::Disk;
pub use http::{Answer, Http, read as read_answer};
pub use life::{Life, all_gone};
pub use object_server::{ObjectServer, SECRET, object_store_env};
pub use outcome::Outcome;
pub use parquet_file::{parquet_rows, write_parquet};
pub use processes::{Process, family};
pub use random::Random;
pub use random_model::write_gpt2;
pub use skip::{allowed_skips, python, real_data, skip};

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout").to_owned()
}

/// A program that `make build` put into `bin/`.
pub fn program(name: &str) -> PathBuf {
    let path = root().join("bin").join(name);
    assert!(path.exists(), "{} is missing; run `make build` first", path.display());
    path
}
