//! The monitor's keys.

use std::net::{Ipv4Addr, SocketAddr};

use difflow_node_kit::{Problem, RunKeys};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the monitor's `env:` block may hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
pub struct Config {
    #[serde(flatten)]
    pub run: RunKeys,
    /// Seconds between two progress lines.
    #[schemars(range(min = 1), extend("x-may-change" = true))]
    pub progress_seconds: u64,
    /// Whether the run is shown on a live page, whose address is printed when the run starts.
    #[schemars(extend("x-may-change" = true))]
    pub page: bool,
    /// Address of this machine that the page listens on. Others than this machine itself reach it only on one that is not a
    /// loopback address (0.0.0.0: on every one), and such a page needs PAGE_TOKEN.
    #[schemars(extend("x-may-change" = true))]
    pub page_host: String,
    /// Port of the page; 0 lets the system choose a free one. When the port is taken the run goes on without its page.
    #[schemars(extend("x-may-change" = true))]
    pub page_port: u16,
    /// What a reader must add to the page's address once, as `?token=…`; empty: nothing, on a loopback address. Letters, digits,
    /// - and _, at least 16, the first a letter. Take it from the environment (`$NAME`), so that it stands in no file.
    #[schemars(extend("x-may-change" = true, "x-secret" = true))]
    pub page_token: String,
    /// Whether the metrics are also written for TensorBoard, into the folder `tensorboard` of the run.
    #[schemars(extend("x-may-change" = true))]
    pub tensorboard: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            run: RunKeys::default(),
            progress_seconds: 5,
            page: true,
            page_host: Ipv4Addr::LOCALHOST.to_string(),
            page_port: 8600,
            page_token: String::new(),
            tensorboard: true,
        }
    }
}

impl Config {
    /// Where the page listens; `None` when PAGE_HOST is no address.
    pub fn page_address(&self) -> Option<SocketAddr> {
        difflow_web::address(&self.page_host, self.page_port)
    }

    fn page_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let token = &self.page_token;
        // The value stays unsaid: messages end up in logs.
        let found = format!("{} characters", token.chars().count());
        if !token.is_empty() && !difflow_web::is_good_token(token) {
            problems.push(Problem::new("PAGE_TOKEN", &found, difflow_web::TOKENS_ALLOWED));
        }
        match self.page_address() {
            None => {
                problems.push(Problem::new("PAGE_HOST", &self.page_host, difflow_web::HOSTS_ALLOWED));
            }
            Some(address) if !address.ip().is_loopback() && token.is_empty() => {
                let allowed = "others can reach this page, so give it a PAGE_TOKEN, or leave PAGE_HOST at 127.0.0.1";
                problems.push(Problem::new("PAGE_HOST", &self.page_host, allowed));
            }
            Some(_) => {}
        }
        problems
    }
}

impl difflow_node_kit::Config for Config {
    fn run(&self) -> &RunKeys {
        &self.run
    }

    fn gone(key: &str) -> Option<&'static str> {
        (key == "TOKENIZER").then_some("the trainer says with its previews which one it is")
    }

    fn validate(&self) -> Vec<Problem> {
        if self.page { self.page_problems() } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use difflow_node_kit::Config as _;

    use super::*;

    fn problems(host: &str, token: &str) -> Vec<String> {
        let config = Config { page_host: host.into(), page_token: token.into(), ..Config::default() };
        config.validate().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn a_page_that_others_can_reach_needs_a_token() {
        let token = "a-long-enough-token_1";
        for (host, token) in [("127.0.0.1", ""), ("localhost", ""), ("::1", token), ("0.0.0.0", token)] {
            assert!(problems(host, token).is_empty(), "{host} {token}: {:?}", problems(host, token));
        }
        for host in ["0.0.0.0", "192.168.1.4", "::"] {
            assert!(problems(host, "")[0].contains("PAGE_TOKEN"), "{host}");
        }
        let off = Config { page: false, page_host: "0.0.0.0".into(), ..Config::default() };
        assert!(off.validate().is_empty());
    }

    /// A weak token, or one that dora rewrites on its way, would lock the reader out or let others in; it may not be printed.
    #[test]
    fn a_token_that_does_not_hold_is_refused_unsaid() {
        for token in ["short", "1234567890123456", "with spaces in it 1", "ümlautümlautümlaut"] {
            let found = problems("127.0.0.1", token);
            assert!(found.len() == 1 && !found[0].contains(token), "{found:?}");
        }
        assert_eq!(problems("a.machine", "short").len(), 2);
    }
}
