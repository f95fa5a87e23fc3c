//! The server as a node: each published checkpoint is served from when it came.

use std::path::Path;

use difflow_node_kit::{Inbox, Node, Problem, Problems};
use difflow_schema::Checkpoint;
use difflow_schema::run::RunDir;
use eyre::{Context, Result};

use crate::config::Config;
use crate::server::{Server, ServerError};

/// Serves the newest published checkpoint until the run ends.
///
/// # Errors
/// See README.md, "Shutdown and failure modes".
pub fn run(config: Config, mut node: Node) -> Result<()> {
    let device = |e: difflow_inference::ModelError| Problem::new("DEVICE", &config.compute.device, e.to_string());
    config.compute.check().map_err(|e| Problems::from(device(e)))?;
    let Some(settings) = config.settings() else {
        return Err(Problems::from(Problem::new("HOST", &config.host, difflow_web::HOSTS_ALLOWED)).into());
    };
    let server = Server::open(settings).map_err(|e| match e {
        ServerError::Taken(_) => Problems::from(Problem::new("PORT", config.port, e.to_string())).into(),
        e => eyre::Report::from(e),
    })?;
    println!("serving at {}", server.url());
    let dir = config.run.dir();
    // The last checkpoint of an earlier start is better than none.
    if let Some(last) = last_good(&dir)? {
        serve(&server, &config, &last)?;
    }
    let mut inbox = Inbox::default();
    while let Some(checkpoint) = inbox.next(&mut node)? {
        // One that came meanwhile is newer.
        inbox.check(&mut node).or_else(|e| if e.is::<difflow_node_kit::Stopped>() { Ok(()) } else { Err(e) })?;
        if inbox.left() || inbox.waits() {
            continue;
        }
        serve(&server, &config, &checkpoint)?;
    }
    server.end();
    Ok(())
}

/// Serves a checkpoint; one that is gone or damaged is passed over.
fn serve(server: &Server, config: &Config, checkpoint: &Checkpoint) -> Result<()> {
    let Checkpoint { step, path, .. } = checkpoint;
    let path = Path::new(path);
    match server.serve(path, &config.compute.opening()) {
        Ok(()) => println!("serving the checkpoint of step {step}"),
        Err(_) if !path.exists() => eprintln!("step {step}: it was pruned before its turn; it is passed over"),
        Err(e) => match Checkpoint::verified(path) {
            Ok(_) => return Err(e).with_context(|| format!("checkpoint of step {step}")),
            Err(damage) => eprintln!("warning: checkpoint of step {step} is passed over: {damage}"),
        },
    }
    Ok(())
}

/// The last checkpoint of a run that is whole.
fn last_good(dir: &RunDir) -> Result<Option<Checkpoint>> {
    let steps = dir.checkpoint_steps()?.into_iter().rev();
    Ok(steps.map(|step| dir.checkpoint(step)).find_map(|folder| Checkpoint::verified(&folder).ok()))
}
