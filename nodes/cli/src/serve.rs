//! `difflow serve`: text from a checkpoint over HTTP.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use difflow_inference::Opening;
use difflow_server::{Limits, Server, ServerError, Settings};
use eyre::{Result, WrapErr, bail, ensure, eyre};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::arithmetic::Arithmetic;

pub const EXAMPLES: &str = "\
Examples:
  difflow serve --checkpoint runs/default              http://127.0.0.1:8601/ is a page to play on
  difflow serve --checkpoint runs/default --port 8012  where llama.vim looks
  DIFFLOW_TOKEN=… difflow serve --checkpoint runs/default --host 0.0.0.0
  curl http://127.0.0.1:8601/v1/completions -H 'Content-Type: application/json' -d '{\"prompt\": \"A day at [MASK:3..8] .\"}'

docs/SERVING.md lists routes and fields. Ctrl-C or SIGTERM: no new requests, the answers that are being written are still given.
SIGHUP: reads the checkpoint again, such as a run's newest, and serves it when what is being written is done.";

#[derive(Args)]
pub struct Serve {
    /// A checkpoint, a base model, or the folder of a run (its last checkpoint).
    #[arg(long)]
    checkpoint: PathBuf,
    /// A folder with an adapter (PEFT's files) for it. A checkpoint that is one itself needs none.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// tokenizer.json; default: the one beside the weights.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// What the model is called; default: the name of its folder.
    #[arg(long)]
    name: Option<String>,
    /// Address of this machine to listen on. One that others reach (0.0.0.0: every one) needs a token.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes a free one, which is printed.
    #[arg(long, default_value_t = 8601)]
    port: u16,
    /// What a request must bring (`Authorization: Bearer …`); from the environment, so that no list of processes shows it.
    #[arg(long, env = "DIFFLOW_TOKEN", default_value = "", hide_env_values = true)]
    token: String,
    /// Texts of one forward.
    #[arg(long, default_value_t = Limits::default().rows, value_parser = positive())]
    rows: usize,
    /// Texts that wait for their turn; who comes then is told to come again (429).
    #[arg(long, default_value_t = Limits::default().queue, value_parser = positive())]
    queue: usize,
    /// Tokens of a text, with what is given; default: as many as the model was made for.
    #[arg(long, value_parser = positive())]
    max_tokens: Option<usize>,
    /// Bytes of a request.
    #[arg(long, default_value_t = Limits::default().body, value_parser = positive())]
    max_body: usize,
    /// Connections at a time.
    #[arg(long, default_value_t = Limits::default().connections, value_parser = positive())]
    connections: usize,
    /// Seconds that an answer may take.
    #[arg(long, default_value_t = Limits::default().time.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// MiB of keys and values that stay while nothing is written, for texts that begin like texts before them.
    #[arg(long, default_value_t = Limits::default().kept >> 20)]
    prefix_cache: usize,
    #[command(flatten)]
    arithmetic: Arithmetic,
    /// CPU threads of one operation; default: all cores.
    #[arg(long)]
    threads: Option<usize>,
}

fn positive() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

impl Serve {
    /// Serves until somebody asks for the end. Returns the exit code. Errors if the checkpoint cannot be opened, or nothing can listen.
    pub fn run(self) -> Result<u8> {
        let address = difflow_web::address(&self.host, self.port)
            .ok_or_else(|| eyre!("--host: found `{}`; {}", self.host, difflow_web::HOSTS_ALLOWED))?;
        if self.token.is_empty() {
            ensure!(
                address.ip().is_loopback(),
                "--host {}: others can reach this server, so give it a token in DIFFLOW_TOKEN, or leave it at 127.0.0.1",
                self.host
            );
        } else if !difflow_web::is_good_token(&self.token) {
            // The value stays unsaid: messages end up in logs.
            bail!("DIFFLOW_TOKEN: found {} characters; {}", self.token.chars().count(), difflow_web::TOKENS_ALLOWED);
        }
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).wrap_err("cannot wait for signals")?;
        let opening = Opening {
            device: self.arithmetic.device.clone(),
            precision: self.arithmetic.precision(),
            threads: self.threads,
            tokenizer: self.tokenizer.clone(),
            adapter: self.adapter.clone(),
            ..Opening::default()
        };
        let limits = Limits {
            rows: self.rows,
            queue: self.queue,
            body: self.max_body,
            tokens: self.max_tokens,
            time: Duration::from_secs(self.timeout),
            connections: self.connections,
            kept: Limits::kept_mib(self.prefix_cache),
        };
        let name = self.name.clone().unwrap_or_else(|| name(&self.checkpoint));
        let server = Server::open(Settings { address, token: self.token, name, limits }).map_err(|e| match e {
            ServerError::Taken(_) => eyre!("--port: {e}"),
            e => e.into(),
        })?;
        println!("loading {}", self.checkpoint.display());
        server.serve(&self.checkpoint, &opening).wrap_err("--checkpoint")?;
        println!("serving at {}", server.url());
        while signals.forever().next() == Some(SIGHUP) {
            match server.serve(&self.checkpoint, &opening) {
                Ok(()) => println!("serving {} as it is now", self.checkpoint.display()),
                Err(e) => eprintln!("error: {e}; what was served before still is"),
            }
        }
        println!("ending: the answers that are being written are still given; once more ends at once");
        std::thread::spawn(move || {
            while signals.forever().next() == Some(SIGHUP) {}
            std::process::exit(1);
        });
        server.end();
        Ok(0)
    }
}

/// The last part of a path.
fn name(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    whole.file_name().map_or("difflow".to_owned(), |name| name.to_string_lossy().into_owned())
}
