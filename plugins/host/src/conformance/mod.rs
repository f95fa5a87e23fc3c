//! What every plug-in must do, as named tests: `difflow plugin check` runs each in its own process, because a plug-in
//! may crash.

mod annealing;
mod common;
mod noise;
mod recipe;
mod transform;

use crate::error::PluginError;
use crate::find::Found;
use crate::library::Kind;

/// Why a test did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It does not apply to this component.
    Skip(String),
    /// What was found and what is wanted.
    Fail(String),
}

impl From<PluginError> for Stop {
    fn from(error: PluginError) -> Self {
        Self::Fail(error.to_string())
    }
}

/// One property of a component.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Short, for the table and for `--json`.
    pub name: &'static str,
    /// What it looks at.
    pub what: &'static str,
    /// Runs it.
    pub run: fn(&Found) -> Result<(), Stop>,
}

/// The tests of a kind, in the order in which they make sense.
pub fn tests(kind: Kind) -> Vec<Test> {
    let of_kind = match kind {
        Kind::NoiseSchedule => noise::TESTS,
        Kind::AnnealingSchedule => annealing::TESTS,
        Kind::BatchTransform => transform::TESTS,
        Kind::ModelRecipe => recipe::TESTS,
        // Those of torch models need libtorch: the model crate has them.
        Kind::TorchModel => &[],
    };
    common::TESTS.iter().chain(of_kind).copied().collect()
}

/// Fails with a message unless it holds.
fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Fail(message())) }
}

/// Runs `work` on eight threads at once and compares what they give.
fn on_eight_threads<T: PartialEq + Send>(work: impl Fn() -> Result<T, PluginError> + Sync) -> Result<(), Stop> {
    let alone = work()?;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(&work)).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    for result in results {
        let result = result.map_err(|_| Stop::Fail("a thread panicked in the host".into()))?;
        ensure(result? == alone, || "a thread got other numbers than a call alone".into())?;
    }
    Ok(())
}
