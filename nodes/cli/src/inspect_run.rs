//! `difflow inspect run`: what a run has done, and the proof that it was trained on each batch once and in order.

use std::path::{Path, PathBuf};

use clap::Args;
use difflow_schema::Record;
use difflow_schema::audit::{self, AuditError, Link, Proof};
use difflow_schema::run::{Manifest, RunDir};
use eyre::{Context, Result, bail, ensure};
use serde_json::json;

#[derive(Args)]
pub struct RunArguments {
    /// Name of the run, or its folder.
    run: String,
    /// Folder of all runs.
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// A checkpoint that is as it was written, with the sha256 of its manifest; or what is wrong with it.
type Verified = Result<(Manifest, String), String>;

/// What was found.
#[derive(Debug)]
struct Found {
    /// By step.
    checkpoints: Vec<(u64, Verified)>,
    /// run.json, where there is one that can be read.
    record: Option<Record>,
    proof: Result<Proof, String>,
}

impl RunArguments {
    /// Shows what was found.
    ///
    /// # Errors
    /// When there is no such run, or its records prove nothing.
    pub fn run(self) -> Result<()> {
        // A name among the runs goes first, as in `difflow report`.
        let dir = match RunDir::new(&self.runs, &self.run) {
            inside if inside.root().is_dir() => inside,
            _ => RunDir::new(Path::new(&self.run), ""),
        };
        ensure!(dir.root().is_dir(), "there is no run {}", dir.root().display());
        let found = found(&dir)?;
        if self.json {
            println!("{}", found.as_json())
        } else {
            found.show()
        }
        match found.proof {
            Ok(_) => Ok(()),
            Err(problem) => bail!("{problem}"),
        }
    }
}

fn found(dir: &RunDir) -> Result<Found> {
    let events = audit::read(&dir.audit()).with_context(|| format!("cannot read {}", dir.audit().display()))?;
    let verified = |step: u64| (step, Manifest::verify(&dir.checkpoint(step)).map_err(|e| e.to_string()));
    let checkpoints: Vec<_> = dir.checkpoint_steps()?.into_iter().map(verified).collect();
    let mut good = checkpoints.iter().filter_map(|(step, checkpoint)| Some((*step, checkpoint.as_ref().ok()?)));
    let proof = match good.next_back() {
        None => Err("there is no good checkpoint yet".to_owned()),
        Some((_, (manifest, sha256))) => audit::prove(&events, sha256)
            .map_err(|e: AuditError| e.to_string())
            .and_then(|proof| agrees(manifest, proof.links.last()).map(|()| proof)),
    };
    let record = Record::read(dir).ok().flatten();
    Ok(Found { checkpoints, record, proof })
}

/// The records must say of the newest checkpoint what it says itself.
fn agrees(manifest: &Manifest, link: Option<&Link>) -> Result<(), String> {
    let said = link.map(|link| (link.step, link.next_seq));
    if said == Some((manifest.step, manifest.next_seq)) {
        return Ok(());
    }
    let Manifest { step, next_seq, .. } = manifest;
    Err(format!("the checkpoint of step {step} goes on with batch {next_seq}, its record says otherwise: {said:?}"))
}

impl Found {
    fn show(&self) {
        for (step, checkpoint) in &self.checkpoints {
            match checkpoint {
                Ok((manifest, sha256)) => {
                    let mib = manifest.bytes() as f64 / f64::from(1 << 20);
                    let old = if manifest.format() == 1 { ", of format 1 (an older difflow)" } else { "" };
                    println!("checkpoint {step:<10} good, {mib:.1} MiB, sha256 {}{old}", &sha256[..16]);
                }
                Err(problem) => println!("checkpoint {step:<10} damaged: {problem}"),
            }
        }
        if let Some(record) = self.record.as_ref().filter(|record| !record.revision.is_empty()) {
            let version = |name: &str| record.versions.get(name).map_or("unknown", String::as_str);
            let Record { difflow, revision, device, .. } = record;
            println!("difflow               {difflow}, revision {revision}");
            println!("trained on            {device}, libtorch {}, dora {}", version("libtorch"), version("dora"));
        }
        let Ok(proof) = &self.proof else { return };
        let Some(last) = proof.links.last() else { return };
        println!("trainer processes     {}", proof.processes);
        println!(
            "batches trained on    0..{}: each once, in order, through {} checkpoints",
            last.next_seq,
            proof.links.len()
        );
        if proof.left_behind > 0 {
            println!("batches left behind   {}, in checkpoints that were set aside or damaged", proof.left_behind);
        }
        println!("digest of the batches {}", audit::short(&last.chain));
    }

    fn as_json(&self) -> serde_json::Value {
        let checkpoint = |(step, found): &(u64, Verified)| match found {
            Ok((manifest, sha256)) => {
                json!({"step": step, "sha256": sha256, "bytes": manifest.bytes(), "next_seq": manifest.next_seq,
                       "format": manifest.format()})
            }
            Err(problem) => json!({"step": step, "damaged": problem}),
        };
        let checkpoints: Vec<_> = self.checkpoints.iter().map(checkpoint).collect();
        let proof = self.proof.as_ref().ok();
        json!({
            "checkpoints": checkpoints,
            "revision": self.record.as_ref().map(|record| &record.revision),
            "versions": self.record.as_ref().map(|record| &record.versions),
            "device": self.record.as_ref().map(|record| &record.device),
            "exactly_once": proof.is_some(),
            "problem": self.proof.as_ref().err(),
            "batches": proof.and_then(|proof| proof.links.last()).map(|link| link.next_seq),
            "digest": proof.and_then(|proof| proof.links.last()).map(|link| link.chain.clone()),
            "proof": proof,
        })
    }
}
