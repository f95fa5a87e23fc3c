//! Whether machines reach each other where ranks will: at RENDEZVOUS, where rank 0 waits, and at ports that the kernel chooses, where every
//! rank waits for the exchanges of all others. It is really tried: each listens, and each connects.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;
use std::{io, thread};

use difflow_model::own_address;
use serde::{Deserialize, Serialize};

/// How long a machine may take to be reached.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest word by which a machine is known again.
const WORD: u64 = 256;

/// Where a machine waits for the others, or why it cannot. Nothing where ranks do not meet at an address.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Of the machine of rank 0: RENDEZVOUS.
    pub meeting: Option<Result<SocketAddr, String>>,
    pub exchange: Option<Result<SocketAddr, String>>,
}

/// What came of connecting, by machine.
pub type Reached = BTreeMap<String, Result<(), String>>;

fn text(e: &io::Error) -> String {
    e.to_string()
}

/// The address that RENDEZVOUS means on this machine.
fn resolve(rendezvous: &str) -> Result<SocketAddr, String> {
    let mut addresses = rendezvous.to_socket_addrs().map_err(|e| format!("RENDEZVOUS {rendezvous}: {e}"))?;
    addresses.next().ok_or_else(|| format!("RENDEZVOUS {rendezvous}: no such host"))
}

/// Waits at the addresses at which a rank of this machine would, until the process ends, and answers everybody with `word`.
pub fn open(rendezvous: &str, leads: bool, word: &str) -> Opened {
    let address = match resolve(rendezvous) {
        Ok(address) => address,
        Err(why) => return Opened { meeting: leads.then(|| Err(why.clone())), exchange: Some(Err(why)) },
    };
    let own = || {
        let own = own_address(address)?.parse().map_err(io::Error::other)?;
        listen(SocketAddr::new(own, 0), word)
    };
    let meeting = leads.then(|| listen(address, word).map_err(|e| format!("cannot wait at {address}: {e}")));
    Opened { meeting, exchange: Some(own().map_err(|e| format!("no way to {address}: {e}"))) }
}

fn listen(address: SocketAddr, word: &str) -> io::Result<SocketAddr> {
    let (listener, word) = (TcpListener::bind(address)?, word.to_owned());
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Who went away meanwhile has said why.
            _ = stream.write_all(word.as_bytes());
        }
    });
    Ok(address)
}

/// Connects to RENDEZVOUS, unless this machine waits there itself, and to the exchanges of all others.
pub fn reach(rendezvous: &str, own: &str, all: &BTreeMap<String, Opened>, word: impl Fn(&str) -> String) -> Reached {
    let mut reached = Reached::new();
    for (machine, opened) in all.iter().filter(|(machine, _)| *machine != own) {
        let mut tried = Vec::new();
        // Where this machine finds the name, which may be elsewhere than where the other waits.
        if let Some(Ok(_)) = &opened.meeting {
            tried.push(resolve(rendezvous));
        }
        if let Some(Ok(address)) = &opened.exchange {
            tried.push(Ok(*address));
        }
        let tried: Vec<_> = tried.into_iter().map(|address| connect(address?, &word(machine))).collect();
        if !tried.is_empty() {
            reached.insert(machine.clone(), tried.into_iter().collect());
        }
    }
    reached
}

fn connect(address: SocketAddr, word: &str) -> Result<(), String> {
    let ask = || {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut found = Vec::new();
        stream.take(WORD).read_to_end(&mut found)?;
        Ok(found)
    };
    match ask() {
        Ok(found) if found == word.as_bytes() => Ok(()),
        Ok(_) => Err(format!("{address} is another program or machine")),
        Err(e) => Err(format!("{address}: {}", text(&e))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn word(machine: &str) -> String {
        format!("word of {machine}")
    }

    /// A program that listens there already would otherwise be taken for rank 0.
    #[test]
    fn who_answers_must_be_the_machine_that_was_asked_for() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let first = open(&free, true, &word("a"));
        assert_eq!(first.meeting, Some(Ok(free.parse().unwrap())));
        let all = BTreeMap::from([("a".to_owned(), first), ("b".to_owned(), open(&free, false, &word("b")))]);
        assert_eq!(reach(&free, "b", &all, word), Reached::from([("a".to_owned(), Ok(()))]));
        assert_eq!(reach(&free, "a", &all, word), Reached::from([("b".to_owned(), Ok(()))]));
        let other = reach(&free, "b", &all, |_| "another".to_owned()).remove("a").unwrap();
        assert!(other.unwrap_err().contains("another program"));
        let taken = open(&free, true, "").meeting.unwrap().unwrap_err();
        assert!(taken.contains(&format!("cannot wait at {free}")), "{taken}");
    }
}
