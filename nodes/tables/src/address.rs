//! Where a source is that is not on this machine: `s3://bucket/key`, `gs://bucket/key`, `https://host/path`.

use std::fmt;

use crate::FileProblem;

/// What is spoken there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Any web server.
    Https,
    /// The same without encryption.
    Http,
}

impl Scheme {
    const ALL: [(Self, &str); 4] = [(Self::S3, "s3"), (Self::Gs, "gs"), (Self::Https, "https"), (Self::Http, "http")];

    /// Whether a web server answers, which cannot list what it has.
    pub fn is_web(self) -> bool {
        matches!(self, Self::Https | Self::Http)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(scheme, _)| scheme == self);
        f.write_str(named.map_or("", |(_, name)| name))
    }
}

/// An address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub scheme: Scheme,
    /// The bucket, or the host with its port.
    pub authority: String,
    /// What stands behind that and its slash: a key, a prefix or a pattern.
    pub path: String,
}

impl Address {
    /// Reads an address; `None` for a path of this machine.
    ///
    /// # Errors
    /// Another scheme, no bucket or host, and what may hold a secret, which a run would write down: a name before an `@`, or a query of a
    /// web address. The message does not repeat that.
    pub fn parse(given: &str) -> Option<Result<Self, FileProblem>> {
        let (scheme, rest) = given.split_once("://")?;
        let simple =
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        simple.then(|| Self::of(scheme, rest))
    }

    fn of(name: &str, rest: &str) -> Result<Self, FileProblem> {
        let lower = name.to_ascii_lowercase();
        let Some(&(scheme, _)) = Scheme::ALL.iter().find(|(_, known)| *known == lower) else {
            let found = format!("an address that begins with `{name}://`");
            return Err(FileProblem::new(found, "allowed: a path, or an address with s3://, gs:// or https://"));
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let wrong = |what: &str, allowed: &str| {
            let shown = authority.rsplit('@').next().unwrap_or_default();
            let path = path.split(['?', '#']).next().unwrap_or_default();
            Err(FileProblem::new(format!("`{scheme}://{shown}/{path}` {what}"), allowed))
        };
        if authority.contains('@') {
            return wrong(
                "with a name or password before the host",
                "a run writes its configuration down: leave it out; credentials come from the environment (docs/DATA.md)",
            );
        }
        if authority.is_empty() || authority.contains(['*', '?', '[', '#', ' ', '\\']) {
            return wrong("names no bucket or host", "wanted: s3://bucket/key, gs://bucket/key or https://host/path");
        }
        if scheme.is_web() {
            if path.contains(['?', '#']) {
                return wrong(
                    "with a query behind it",
                    "it may hold a secret, and a run writes its configuration down: give an address without one, or s3:// or gs:// \
                     with credentials from the environment",
                );
            }
            if path.is_empty() || path.ends_with('/') || path.contains(['*', '[']) {
                return wrong("is no single file", "a web server cannot list its files: make a source for each");
            }
        }
        Ok(Self { scheme, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// The address of the bucket or host alone.
    pub fn root(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.root(), self.path)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_bucket_and_a_key() {
        let address = Address::parse("S3://my.bucket/a b/*.parquet").unwrap().unwrap();
        let wanted = Address { scheme: Scheme::S3, authority: "my.bucket".into(), path: "a b/*.parquet".into() };
        assert_eq!((&address, address.to_string().as_str()), (&wanted, "s3://my.bucket/a b/*.parquet"));
        assert_eq!(Address::parse("https://h:8/x.csv").unwrap().unwrap().root(), "https://h:8");
        for path in ["data/a.jsonl", "/a://b", "C:/a", "a b://c"] {
            assert!(Address::parse(path).is_none(), "{path}");
        }
    }

    /// Whatever stands in SOURCES is in run.json and in the message.
    #[test]
    fn what_may_hold_a_secret_is_refused_and_not_repeated() {
        for (given, part) in [
            ("hdfs://a/b", "hdfs://"),
            ("s3:///b", "names no bucket"),
            ("s3://KEY:HIDDEN@bucket/a.jsonl", "credentials come from the environment"),
            ("https://HIDDEN@host/a.jsonl", "`https://host/a.jsonl`"),
            ("https://host/a.jsonl?X-Amz-Signature=HIDDEN", "an address without one"),
            ("https://host/a.jsonl#HIDDEN", "an address without one"),
            ("https://host/folder/", "a source for each"),
            ("https://host/*.parquet", "a source for each"),
            ("https://host", "a source for each"),
        ] {
            let text = Address::parse(given).unwrap().unwrap_err().to_string();
            assert!(text.contains(part) && !text.contains("HIDDEN"), "{given}: {text}");
        }
    }
}
