//! `difflow serve`: the program on a port of this machine, asked by clients of all kinds.
#![allow(clippy::unwrap_used)]

#[path = "serve/served.rs"]
mod served;

#[path = "serve/browser.rs"]
mod browser;
#[path = "serve/clients.rs"]
mod clients;
#[path = "serve/hostile.rs"]
mod hostile;
#[path = "serve/kept.rs"]
mod kept;
#[path = "serve/requests.rs"]
mod requests;
