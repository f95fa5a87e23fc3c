//! Who may come in.
//!
//! Without a token, only this machine can reach it, and the host of a request must be this machine: a web page from
//! another site with a name made to point here (DNS rebinding) gets nothing. With a token, a reader gives it once in
//! the address; a cookie keeps it.

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};
use subtle::ConstantTimeEq;

/// The rule.
#[derive(Debug)]
pub struct Access {
    token: String,
    /// Cookies do not know ports: two pages of one machine may not share a name.
    cookie: String,
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It is answered.
    Enter,
    /// The token is right: keep it in this cookie, and ask again without it.
    Keep(String),
    /// It is refused.
    Refuse(Refusal),
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It was asked under a name that is not this machine's.
    Host,
    /// It has no token, or a wrong one.
    Token,
    /// A web page from elsewhere asks, in somebody's browser.
    Origin,
}

impl Access {
    /// For what is served at a port; an empty token is none.
    pub fn new(port: u16, token: &str) -> Self {
        Self { token: token.to_owned(), cookie: format!("difflow-{port}") }
    }

    /// Whether a token is needed.
    pub fn wants_token(&self) -> bool {
        !self.token.is_empty()
    }

    /// Judges a request.
    pub fn judge(&self, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let named = header(HOST).or_else(|| uri.authority().map(|authority| authority.as_str()));
        // Browsers name the page that asks, but for reading its own.
        if let Some(origin) = headers.get(ORIGIN) {
            let of = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
            if of.is_none() || of != named {
                return Verdict::Refuse(Refusal::Origin);
            }
        }
        if !self.wants_token() {
            return match named {
                Some(host) if is_this_machine(host) => Verdict::Enter,
                _ => Verdict::Refuse(Refusal::Host),
            };
        }
        let given = uri.query().and_then(|query| query.split('&').find_map(|part| part.strip_prefix("token=")));
        if given.is_some_and(|token| self.is_token(token)) {
            return Verdict::Keep(format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie, self.token));
        }
        let bearer = header(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let cookies =
            headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(';'));
        let kept = cookies.filter_map(|cookie| cookie.trim().split_once('=')).find(|(name, _)| *name == self.cookie);
        let key = headers.get("x-api-key").and_then(|value| value.to_str().ok());
        if bearer.or(key).or(kept.map(|(_, token)| token)).is_some_and(|token| self.is_token(token)) {
            return Verdict::Enter;
        }
        Verdict::Refuse(Refusal::Token)
    }

    /// Takes as long for a wrong token as for a right one.
    fn is_token(&self, token: &str) -> bool {
        token.as_bytes().ct_eq(self.token.as_bytes()).into()
    }
}

/// An address, or localhost, with or without a port.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-secret-of-this-test";

    fn judge(token: &str, uri: &str, headers: &[(&str, &str)]) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<axum::http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        Access::new(8600, token).judge(&uri.parse().unwrap(), &map)
    }

    /// A web page that a reader visits can make any name point to 127.0.0.1, and would then read the run.
    #[test]
    fn without_a_token_only_addresses_and_localhost_are_answered() {
        for host in ["localhost:8600", "127.0.0.1:8600", "localhost", "LOCALHOST:1", "[::1]:8600", "[::1]", "10.0.0.4"]
        {
            assert_eq!(judge("", "/", &[("host", host)]), Verdict::Enter, "{host}");
        }
        for host in ["evil.example:8600", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(matches!(judge("", "/", &[("host", host)]), Verdict::Refuse(_)), "{host}");
        }
        assert!(matches!(judge("", "/", &[]), Verdict::Refuse(_)));
    }

    #[test]
    fn a_token_comes_in_the_address_once_and_then_as_a_cookie() {
        let Verdict::Keep(cookie) = judge(TOKEN, &format!("/?token={TOKEN}"), &[]) else { panic!("not let in") };
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let kept = cookie.split(';').next().unwrap();
        assert_eq!(judge(TOKEN, "/events", &[("cookie", &format!("other=1; {kept}"))]), Verdict::Enter);
        assert_eq!(judge(TOKEN, "/events", &[("authorization", &format!("Bearer {TOKEN}"))]), Verdict::Enter);
    }

    /// A page that somebody visits can send requests to this machine; it may not even cost it something.
    #[test]
    fn a_web_page_from_elsewhere_is_refused_with_or_without_a_token() {
        let (host, key) = (("host", "127.0.0.1:8600"), ("x-api-key", TOKEN));
        for token in ["", TOKEN] {
            for origin in ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost:8600", ""] {
                let verdict = judge(token, "/", &[host, key, ("origin", origin)]);
                assert_eq!(verdict, Verdict::Refuse(Refusal::Origin), "{origin}");
            }
            assert_eq!(judge(token, "/", &[host, key, ("origin", "http://127.0.0.1:8600")]), Verdict::Enter);
        }
    }

    #[test]
    fn a_wrong_token_or_none_is_refused_whatever_the_host() {
        let host = ("host", "127.0.0.1:8600");
        for (uri, headers) in [
            ("/", vec![host]),
            ("/?token=", vec![host]),
            ("/?token=a-secret-of-this-tes", vec![host]),
            ("/?other=a-secret-of-this-test", vec![host]),
            ("/", vec![host, ("cookie", "difflow-8600=wrong")]),
            ("/", vec![host, ("cookie", "difflow-1=a-secret-of-this-test")]),
            ("/", vec![host, ("authorization", "Bearer ")]),
        ] {
            assert!(matches!(judge(TOKEN, uri, &headers), Verdict::Refuse(_)), "{uri} {headers:?}");
        }
    }
}
