//! What went wrong with an object, in words of ours: what a server answers may repeat the credentials that it was asked with.

use std::error::Error;
use std::io;
use std::iter::successors;

use crate::FileProblem;

/// Characters of a server's own message that are shown, at most.
const SHOWN: usize = 200;

/// Of an object that is not what it was.
pub const CHANGED: &str = "it was changed while it was read";
/// Of a web server that can only send whole files.
const NO_PARTS: &str =
    "the server cannot send a part of a file, so it cannot be read as it is wanted: copy it to this machine";

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Of what was asked for: it does not exist, or may not be read.
    Asked,
    /// Of somebody who changed it while it was read.
    Changed,
    /// Of the server, or of the way to it.
    Server,
}

/// An object that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {found}; {allowed}")]
pub struct RemoteError {
    /// Which one.
    pub url: String,
    /// What was found.
    pub found: String,
    /// What to do.
    pub allowed: String,
    pub fault: Fault,
}

impl RemoteError {
    /// What became of the object at `url`, or of its bucket.
    pub fn new(url: impl ToString, found: impl ToString, fault: Fault) -> Self {
        let allowed = match fault {
            Fault::Asked => "check the address, and the credentials and region in the environment (docs/DATA.md)",
            Fault::Changed => "this run began with another version of it: put that back, or choose another RUN",
            Fault::Server => {
                "look after the server and the way to it, and start again: a run goes on from its last checkpoint"
            }
        };
        Self { url: url.to_string(), found: found.to_string(), allowed: allowed.to_owned(), fault }
    }

    /// From what the client says.
    pub fn of(url: impl ToString, error: &object_store::Error) -> Self {
        use object_store::Error as Client;
        if let Some(own) = Self::within(error) {
            return own.clone();
        }
        let text = error.to_string();
        let status = Status::in_text(&text);
        let (fault, found) = match (error, &status) {
            (Client::Precondition { .. }, _) => (Fault::Changed, CHANGED.to_owned()),
            // 408 and 429 say "later", and so does everything from 500.
            (Client::Generic { .. }, Some(status)) if status.code >= 500 || [408, 429].contains(&status.code) => {
                (Fault::Server, status.words())
            }
            (_, Some(status)) => (Fault::Asked, status.words()),
            (_, None) if text.contains("non-partial response") => (Fault::Asked, NO_PARTS.to_owned()),
            // Another size than it had, of a server that does not know If-Match.
            (_, None) if ["Wanted range starting", "Requested "].iter().any(|words| text.contains(words)) => {
                (Fault::Changed, CHANGED.to_owned())
            }
            (Client::JoinError { .. }, None) => (Fault::Server, innermost(error)),
            (_, None) if text.contains("HTTP error: ") => (Fault::Server, innermost(error)),
            (_, None) => (Fault::Asked, innermost(error)),
        };
        let tries = text.split_once("after ").and_then(|(_, rest)| rest.split_once(" retries"));
        let tries = tries.and_then(|(retries, _)| retries.parse::<u64>().ok()).map(|retries| retries + 1);
        let found = match tries.filter(|_| fault == Fault::Server) {
            Some(tries) => format!("{found}, tried {tries} times"),
            None => found,
        };
        Self::new(url, found, fault)
    }

    /// The one that is the reason for another error.
    pub fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        successors(Some(error), |&error| error.source()).find_map(|error| {
            // Its own source leaves out what it was made of.
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            error.downcast_ref().or_else(|| Self::within(inner?))
        })
    }

    /// As the client's own, which DataFusion hands on.
    pub fn wrapped(self) -> object_store::Error {
        object_store::Error::Generic { store: "corpus", source: Box::new(self) }
    }
}

impl From<RemoteError> for FileProblem {
    fn from(error: RemoteError) -> Self {
        let found = format!("{}: {}", error.url, error.found);
        Self { found, allowed: error.allowed, unreachable: error.fault == Fault::Server }
    }
}

/// The last reason of all.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let last = successors(Some(error), |&error| error.source()).last();
    cut(&last.map_or_else(String::new, |last| last.to_string()))
}

fn cut(text: &str) -> String {
    let mut lines = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = lines.char_indices().nth(SHOWN) {
        lines.truncate(at);
        lines.push('…');
    }
    lines
}

/// An answer with a status that is no success.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    code: u16,
    /// As `404 Not Found`.
    line: String,
    /// What S3 and GCS say in XML.
    reason: Option<String>,
}

impl Status {
    /// The client only gives it as text. Of the answer's body nothing is taken but code and message: that to a wrong signature has the
    /// whole request in it, with the session's token.
    fn in_text(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("status code: ")?;
        let line = rest.split([':', '<', '\n']).next()?.trim();
        let code = line.split_whitespace().next()?.parse().ok()?;
        let tag = |name: &str| {
            let (_, inside) = rest.split_once(&format!("<{name}>"))?;
            Some(inside.split_once(&format!("</{name}>"))?.0.to_owned())
        };
        let reason = [tag("Code"), tag("Message")].into_iter().flatten().collect::<Vec<_>>().join(": ");
        Some(Self { code, line: line.to_owned(), reason: (!reason.is_empty()).then(|| cut(&reason)) })
    }

    fn words(&self) -> String {
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("the server answered {}{reason}", self.line)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use datafusion::error::DataFusionError;

    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    /// The answer to a wrong signature repeats the request.
    #[test]
    fn of_an_answer_only_code_and_message_are_shown() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><Message>The signature does not match.</Message>\
                    <StringToSign>x-amz-security-token:HIDDEN</StringToSign></Error>";
        let text = format!(
            "Error performing GET http://h/b in 4ms - Server returned non-2xx status code: 403 Forbidden: {body}"
        );
        let error = RemoteError::of("s3://b/a", &generic(&text));
        assert_eq!(error.fault, Fault::Asked);
        let said = error.to_string();
        let wanted =
            "s3://b/a: the server answered 403 Forbidden (SignatureDoesNotMatch: The signature does not match.); ";
        assert!(said.starts_with(wanted) && !said.contains("HIDDEN"), "{said}");
    }

    #[test]
    fn a_server_that_cannot_now_is_told_from_a_wrong_address() {
        for (text, fault) in [
            ("Server returned non-2xx status code: 503 Service Unavailable: ", Fault::Server),
            ("Server returned non-2xx status code: 429 Too Many Requests: ", Fault::Server),
            ("Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>", Fault::Asked),
            ("HTTP error: operation timed out", Fault::Server),
            ("Content-Length Header missing from response", Fault::Asked),
            ("Received non-partial response when range requested", Fault::Asked),
            ("Requested 0..9, got 0..5", Fault::Changed),
        ] {
            assert_eq!(RemoteError::of("u", &generic(text)).fault, fault, "{text}");
        }
        let tried =
            RemoteError::of("u", &generic("in 3s, after 2 retries, max_retries: 2 - status code: 503 Slow Down: "));
        assert_eq!(tried.found, "the server answered 503 Slow Down, tried 3 times");
    }

    /// Readers of files wrap an error many times over.
    #[test]
    fn the_reason_is_found_inside_other_errors() {
        let error = RemoteError::new("u", "gone", Fault::Changed);
        let from_reader = io::Error::other(DataFusionError::External(Box::new(io::Error::other(error.clone()))));
        let wrapped = DataFusionError::ObjectStore(Box::new(error.clone().wrapped())).context("reading");
        let nested = io::Error::other(io::Error::other(error.clone()));
        for outer in [&from_reader as &(dyn Error + 'static), &wrapped, &nested] {
            assert_eq!(RemoteError::within(outer), Some(&error), "{outer:?}");
        }
        assert_eq!(RemoteError::within(&io::Error::other("else")), None);
    }
}
