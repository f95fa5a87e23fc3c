//! The server's keys.

use std::time::Duration;

use difflow_inference::Compute;
use difflow_node_kit::{Problem, RunKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::{Limits, Settings};

/// What the server's `env:` block may hold. How texts are written where a request does not say it, the checkpoint says.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Address of this machine that the server listens on. Others than this machine itself reach it only on one that is not a loopback
    /// address (0.0.0.0: on every one), and such a server needs TOKEN.
    #[schemars(extend("x-may-change" = true))]
    pub host: String,
    /// Port of the server; 0 lets the system choose a free one, which is printed.
    #[schemars(extend("x-may-change" = true))]
    pub port: u16,
    /// What a request must bring, as `Authorization: Bearer …`; empty: nothing, on a loopback address. Letters, digits, - and _, at
    /// least 16, the first a letter. Take it from the environment (`$NAME`), so that it stands in no file.
    #[schemars(extend("x-may-change" = true, "x-secret" = true))]
    pub token: String,
    /// Texts of one forward.
    #[schemars(range(min = 1), extend("x-may-change" = true))]
    pub rows: usize,
    /// Texts that wait for their turn; who comes then is told to come again.
    #[schemars(range(min = 1), extend("x-may-change" = true))]
    pub queue: usize,
    /// Seconds that an answer may take.
    #[schemars(range(min = 1), extend("x-may-change" = true))]
    pub answer_seconds: u64,
    /// MiB of keys and values that stay while nothing is written, for texts that begin like texts before them.
    #[schemars(extend("x-may-change" = true))]
    pub prefix_cache: usize,
    #[serde(flatten)]
    pub compute: Compute,
}

impl Default for Config {
    fn default() -> Self {
        let Limits { rows, queue, time, kept, .. } = Limits::default();
        let (host, port, token) = ("127.0.0.1".into(), 8601, String::new());
        let (run, compute) = (RunKeys::default(), Compute::default());
        let (answer_seconds, prefix_cache) = (time.as_secs(), kept >> 20);
        Self { run, host, port, token, rows, queue, answer_seconds, prefix_cache, compute }
    }
}

impl Config {
    /// As settings; `None` when HOST is no address.
    pub fn settings(&self) -> Option<Settings> {
        let address = difflow_web::address(&self.host, self.port)?;
        let time = Duration::from_secs(self.answer_seconds);
        let kept = Limits::kept_mib(self.prefix_cache);
        let limits = Limits { rows: self.rows, queue: self.queue, time, kept, ..Limits::default() };
        Some(Settings { address, token: self.token.clone(), name: self.run.name.clone(), limits })
    }
}

impl difflow_node_kit::Config for Config {
    fn run(&self) -> &RunKeys {
        &self.run
    }

    fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let token = &self.token;
        if !token.is_empty() && !difflow_web::is_good_token(token) {
            // The value stays unsaid: messages end up in logs.
            let found = format!("{} characters", token.chars().count());
            problems.push(Problem::new("TOKEN", &found, difflow_web::TOKENS_ALLOWED));
        }
        match self.settings() {
            None => problems.push(Problem::new("HOST", &self.host, difflow_web::HOSTS_ALLOWED)),
            Some(settings) if !settings.address.ip().is_loopback() && token.is_empty() => {
                let allowed = "others can reach this server, so give it a TOKEN, or leave HOST at 127.0.0.1";
                problems.push(Problem::new("HOST", &self.host, allowed));
            }
            Some(_) => {}
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use difflow_node_kit::Config as _;

    use super::*;

    #[test]
    fn a_server_that_others_can_reach_needs_a_token_that_holds() {
        let problems = |host: &str, token: &str| {
            let config = Config { host: host.into(), token: token.into(), ..Config::default() };
            config.validate().iter().map(Problem::to_string).collect::<Vec<_>>()
        };
        let token = "a-long-enough-token_1";
        for (host, token) in [("127.0.0.1", ""), ("::1", token), ("0.0.0.0", token), ("localhost", "")] {
            assert!(problems(host, token).is_empty(), "{host}");
        }
        assert!(problems("0.0.0.0", "")[0].contains("TOKEN"));
        assert!(problems("a.machine", "")[0].contains("HOST"));
        let weak = problems("0.0.0.0", "1234567890123456");
        assert!(weak.len() == 1 && !weak[0].contains("1234567890123456"), "{weak:?}");
    }
}
