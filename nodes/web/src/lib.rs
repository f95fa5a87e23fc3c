//! Shared by what difflow serves over HTTP, the page of a run and the server: who may come in, how connections are bounded, and what
//! pages look like.

mod access;
mod page;
mod serve;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};

pub use access::{Access, Refusal, Verdict};
pub use page::Page;
pub use serve::{Limits, Peer, serve};

/// Nothing from elsewhere, nothing inline, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Tells browsers to be strict; a policy that an answer has is kept.
pub fn be_strict(headers: &mut HeaderMap) {
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// The shortest token of what others can reach.
const TOKEN: usize = 16;
/// What is wrong with a token, for messages.
pub const TOKENS_ALLOWED: &str = "allowed: at least 16 letters, digits, - and _, the first a letter";
/// The same of a host.
pub const HOSTS_ALLOWED: &str = "allowed: an address of this machine, such as 127.0.0.1 (this machine only) or 0.0.0.0";

/// Whether a token can be used: dora turns what looks like a number into one, so it may not begin like one.
pub fn is_good_token(token: &str) -> bool {
    let letters = token.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    letters && token.len() >= TOKEN && token.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Where to listen; `None` when `host` is no address and not localhost.
pub fn address(host: &str, port: u16) -> Option<SocketAddr> {
    let host = match host {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        host => host.parse::<IpAddr>().ok(),
    };
    host.map(|host| SocketAddr::new(host, port))
}
