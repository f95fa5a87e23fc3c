//! What the upstream nodes report about the data: see [`difflow_schema::Facts`].

use difflow_schema::Facts;
use eyre::{Context, Result};

use crate::Received;

/// The facts that came last; parsed again only if they change.
#[derive(Debug, Default)]
pub struct Upstream {
    text: Option<String>,
    facts: Facts,
}

impl Upstream {
    /// Takes in the facts of a message. Returns true if they differ from the last ones, or are the first. Errors if
    /// they cannot be read.
    pub fn hear(&mut self, message: &Received) -> Result<bool> {
        self.hear_text(message.facts.as_deref(), &message.input)
    }

    fn hear_text(&mut self, text: Option<&str>, input: &str) -> Result<bool> {
        let Some(text) = text.filter(|&text| self.text.as_deref() != Some(text)) else { return Ok(false) };
        self.facts = serde_json::from_str(text).with_context(|| format!("the metadata of input `{input}`: {text}"))?;
        self.text = Some(text.to_owned());
        Ok(true)
    }

    /// Returns true if any facts came.
    pub fn heard(&self) -> bool {
        self.text.is_some()
    }

    /// Returns the facts that came last; empty ones before that.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_read() {
        let mut upstream = Upstream::default();
        assert!(!upstream.hear_text(None, "noised").unwrap() && !upstream.heard());
        assert!(upstream.hear_text(Some(r#"{"accumulation": 3}"#), "noised").unwrap());
        assert!(!upstream.hear_text(Some(r#"{"accumulation": 3}"#), "noised").unwrap());
        assert!(!upstream.hear_text(None, "noised").unwrap());
        assert_eq!(upstream.facts().accumulation, Some(3));
        let error = upstream.hear_text(Some("{"), "noised").unwrap_err().to_string();
        assert!(error.contains("noised"), "{error}");
        assert!(upstream.hear_text(Some(r#"{"corpus": "a", "later": 1}"#), "noised").unwrap());
    }
}
