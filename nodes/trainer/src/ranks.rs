//! Several trainers that train one model: the trainer nodes of a dataflow that get their batches from one noiser, in the order of the file.
//! Rank 0 has the run; the others compute.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use difflow_model::{Device, Exchanged, Group, Meeting, ModelError, Patience, Place, Route, Sharding};
use difflow_node_kit::{Event, Node, Problem, Problems, Share, record};
use difflow_schema::Noised;
use difflow_schema::run::{Manifest, RunDir, bytes_sha256, write_atomically};
use eyre::{Context, Result, bail, ensure, eyre};
use serde::{Deserialize, Serialize};

use crate::config::{Config, TransportKind};
use crate::lineage::Trained;
use crate::record::Made;
use crate::save::{Good, Position};

/// The value of RENDEZVOUS with which ranks on one machine find each other.
const AUTO: &str = "auto";
/// How often a rank looks for the others.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes in which rank 0 says where training begins.
const BEGIN: usize = 512;

/// Why no further step is taken. Of several reasons the last of these counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The sender of the batches ended before the data did: another node failed, or refused its configuration.
    Gone = 1,
    /// The data ended.
    NoData,
    /// A person asked for it.
    Stop,
}

/// This process among the ranks.
pub struct Ranks {
    place: Place,
    /// None for a single one.
    group: Option<Arc<Group>>,
    /// On which this one computes.
    device: Device,
    accumulation: u64,
    /// Which micro-batches of a step each has.
    sharding: Sharding,
}

/// What the exchanges between two steps took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    /// Seconds of the rank that they took least and most of.
    pub least: f64,
    pub most: f64,
    /// Bytes that all ranks sent.
    pub bytes: f64,
}

/// What all ranks do next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreed {
    pub end: Option<End>,
    /// Of several ranks, since they agreed last.
    pub traffic: Option<Traffic>,
}

/// Where rank 0 waits for the others, in the run's folder.
#[derive(Serialize, Deserialize)]
struct Announced {
    /// dora's name for the start of the dataflow: an older one's is passed over.
    start: String,
    address: SocketAddr,
}

/// Where training begins, for everybody.
#[derive(Serialize, Deserialize)]
struct Begin {
    step: u64,
    tokens_seen: u64,
    next_seq: u64,
    /// sha256 of the manifest of the checkpoint that it begins with.
    sha256: Option<String>,
}

/// Which of the ranks a node is. Errors if dora does not give the dataflow file.
pub fn place(node: &Node) -> Result<Place> {
    let (ids, own) = (node.alike("noised")?, node.id());
    Ok(Place { rank: ids.iter().position(|id| *id == own).unwrap_or(0), size: ids.len().max(1) })
}

impl Ranks {
    /// Meets the others, where there are any. Returns `None` when the run ends before all are there.
    ///
    /// # Errors
    /// [`Problems`] where so many ranks cannot train this; otherwise when they do not meet.
    pub fn join(config: &Config, node: &mut Node, dir: &RunDir, place: Place) -> Result<Option<Self>> {
        let (accumulation, sharding) = (config.accumulation, Sharding::from(config.sharding));
        if place.size == 1 {
            let device = Device::open(&config.device)?;
            return Ok(Some(Self { place, group: None, device, accumulation, sharding }));
        }
        check(config, place.size as u64)?;
        let began = Instant::now();
        let patience = Patience {
            join: Duration::from_secs_f64(config.join_timeout),
            exchange: Duration::from_secs_f64(config.group_timeout),
        };
        let Some(meeting) = meeting(config, node, dir, place, patience.join)? else { return Ok(None) };
        let (sender, opened) = mpsc::channel();
        config.device_settings().set()?;
        let (name, asked, transport) = (node.id(), config.device.clone(), config.transport);
        let open = move || {
            let mut group = Group::open(meeting, place, &name, patience)?;
            let device = device(&asked, group.before_here())?;
            let route = group.connect(device, transport.into()).map_err(|e| not_so(e, transport))?;
            Ok::<_, eyre::Report>((group, device, route))
        };
        // On a thread of its own, so that the end of the run is heard meanwhile.
        thread::spawn(move || _ = sender.send(open()));
        let (group, device, route) = loop {
            match opened.recv_timeout(LOOK) {
                Ok(opened) => break opened?,
                Err(RecvTimeoutError::Timeout) if over(node)? => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the thread that joins the ranks panicked"),
            }
        };
        let Place { rank, size } = place;
        if rank == 0 {
            _ = fs::remove_file(dir.ranks());
            println!("{size} ranks after {:.1} s", began.elapsed().as_secs_f64());
            match route {
                _ if device == Device::Cpu => {}
                Route::Nccl => println!("they exchange from GPU to GPU, by NCCL"),
                Route::Host(why) => println!("they exchange through host memory: {why}"),
            }
        }
        Ok(Some(Self { place, group: Some(Arc::new(group)), device, accumulation, sharding }))
    }

    /// Whether this one has the run: its lock, its files, its metrics.
    pub fn leads(&self) -> bool {
        self.place.rank == 0
    }

    /// On which this one computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The others, where there are any.
    pub fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref()
    }

    /// How many micro-batches of a step are this one's.
    pub fn micro_batches(&self) -> u64 {
        self.accumulation / self.place.size as u64
    }

    /// The micro-batches of a step that are this one's: those in a row, or every so many-th, as their gradients are added.
    pub fn share(&self) -> Share {
        let (rank, size) = (self.place.rank as u64, self.place.size as u64);
        if self.sharding.takes_turns() {
            return Share { of: size, first: rank, count: 1 };
        }
        let count = self.micro_batches();
        Share { of: self.accumulation, first: rank * count, count }
    }

    /// Makes sure that all train the same, and returns the checkpoint that rank 0 begins with.
    ///
    /// # Errors
    /// [`Problems`] with the key that is not the same; otherwise where this one does not see the checkpoint.
    pub fn begin(&self, config: &Config, made: &Made, dir: &RunDir, good: Option<Good>) -> Result<Option<Good>> {
        let Some(group) = &self.group else { return Ok(good) };
        same_keys(group, config, made)?;
        group.take_exchanged();
        let begin = good.map(|Good { position: Position { step, tokens_seen, next_seq }, sha256 }| Begin {
            step,
            tokens_seen,
            next_seq,
            sha256: Some(sha256),
        });
        let begin = begin.unwrap_or(Begin { step: 0, tokens_seen: 0, next_seq: 0, sha256: None });
        let mut text = serde_json::to_vec(&begin)?;
        text.resize(BEGIN, b' ');
        let Begin { step, tokens_seen, next_seq, sha256 } = serde_json::from_slice(&group.bytes_of(0, &text)?)?;
        let Some(sha256) = sha256 else { return Ok(None) };
        let path = dir.checkpoint(step);
        let (_, found) = Manifest::read(&path)?;
        ensure!(
            found == sha256,
            "{} is another checkpoint than that of rank 0; all ranks need one run folder, or copies of it",
            path.display()
        );
        Ok(Some(Good { position: Position { step, tokens_seen, next_seq }, sha256 }))
    }

    /// Tells the others whether this one takes the next step, or why it does not. Returns what all do.
    ///
    /// # Errors
    /// When another one is lost.
    pub fn agree(&self, own: Option<End>) -> Result<Agreed> {
        let Some(group) = &self.group else { return Ok(Agreed { end: own, traffic: None }) };
        let Exchanged { seconds, bytes } = group.take_exchanged();
        let told = group.gather(&[own.map_or(0.0, |end| f64::from(end as u8)), seconds, bytes as f64])?;
        let of = |number: usize| told.iter().copied().skip(number).step_by(3);
        let all = [End::Gone, End::NoData, End::Stop];
        let end = all.into_iter().rev().find(|end| of(0).any(|told| told == f64::from(*end as u8)));
        let (least, most) = (of(1).fold(f64::INFINITY, f64::min), of(1).fold(0.0, f64::max));
        Ok(Agreed { end, traffic: Some(Traffic { least, most, bytes: of(2).sum() }) })
    }

    /// Counts the step's batches from `first` on, of which `own` are this one's: each rank goes on with the digest of the one before it.
    ///
    /// # Errors
    /// When another batch is due, or another rank is lost.
    pub fn count(&self, trained: &mut Trained, first: u64, own: &[Noised]) -> Result<()> {
        let (Share { of, count, .. }, size) = (self.share(), self.place.size as u64);
        let mut own = own.iter();
        for turn in 0..self.accumulation / count {
            let (rank, begin) = (turn % size, first + turn / size * of + turn % size * count);
            if rank == self.place.rank as u64 {
                for (seq, batch) in (begin..begin + count).zip(own.by_ref()) {
                    trained.count(seq, batch)?;
                }
            }
            if let Some(group) = &self.group {
                let chain = String::from_utf8(group.bytes_of(rank as usize, trained.chain().as_bytes())?)?;
                trained.counted(begin + count, chain);
            }
        }
        Ok(())
    }
}

/// Whether so many ranks can train this.
fn check(config: &Config, ranks: u64) -> Result<(), Problems> {
    let allowed = config.allowed_ranks();
    let mut problems = Vec::new();
    if !allowed.contains(&ranks) {
        let numbers: Vec<String> = allowed.iter().map(u64::to_string).collect();
        let found = format!("{} on {ranks} ranks", config.accumulation);
        problems.push(Problem::new("ACCUMULATION", found, format!("allowed ranks: {}", numbers.join(", "))));
    }
    if let Err(e) = Device::open(&config.device) {
        problems.push(Problem::new("DEVICE", &config.device, e.to_string()));
    }
    problems.extend(config.unshared());
    Problems(problems).into_result()
}

/// The device of a rank with so many before it on its machine.
fn device(asked: &str, before: usize) -> Result<Device> {
    let device = Device::open(asked)?;
    if device == Device::Cpu || !["auto", "cuda"].contains(&asked) {
        return Ok(device);
    }
    Device::open(&format!("cuda:{before}")).map_err(|e| {
        let allowed = format!(
            "{e}; a GPU for each of the {} ranks so far on this machine, or `cuda:N` for one that all share",
            before + 1
        );
        Problems::from(Problem::new("DEVICE", asked, allowed)).into()
    })
}

/// A transport that is asked for and cannot be used is a matter of configuration.
fn not_so(e: ModelError, asked: TransportKind) -> eyre::Report {
    let refused = matches!(e, ModelError::Input { .. }).then(|| serde_json::to_value(asked).ok()).flatten();
    match refused.as_ref().and_then(|asked| asked.as_str()) {
        Some(asked) => Problems::from(Problem::new("TRANSPORT", asked, format!("{e}; or allowed: auto, host"))).into(),
        None => e.into(),
    }
}

/// Where the ranks meet. Returns `None` when the run ends before that is known.
fn meeting(config: &Config, node: &mut Node, dir: &RunDir, place: Place, wait: Duration) -> Result<Option<Meeting>> {
    let wrong = |e: &dyn std::fmt::Display| {
        let allowed = format!("{e}; allowed: auto, or HOST:PORT of the machine of rank 0");
        Problems::from(Problem::new("RENDEZVOUS", &config.rendezvous, allowed))
    };
    if config.rendezvous != AUTO {
        let mut addresses = config.rendezvous.to_socket_addrs().map_err(|e| wrong(&e))?;
        let address = addresses.next().ok_or_else(|| wrong(&"no such host"))?;
        if place.rank > 0 {
            return Ok(Some(Meeting::Connect(address)));
        }
        return Ok(Some(Meeting::Listen(TcpListener::bind(address).map_err(|e| wrong(&e))?)));
    }
    let (path, start) = (dir.ranks(), node.start());
    if place.rank == 0 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port on this machine")?;
        let announced = Announced { start, address: listener.local_addr()? };
        write_atomically(&path, &serde_json::to_vec(&announced)?).with_context(|| path.display().to_string())?;
        return Ok(Some(Meeting::Listen(listener)));
    }
    let began = Instant::now();
    while began.elapsed() < wait {
        match fs::read(&path) {
            Ok(text) => {
                let announced: Announced = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
                // A rank 0 that was restarted announces another port.
                if announced.start == start && TcpStream::connect_timeout(&announced.address, LOOK).is_ok() {
                    return Ok(Some(Meeting::Connect(announced.address)));
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        }
        if over(node)? {
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
    let seconds = wait.as_secs_f64();
    Err(eyre!(
        "rank 0 has not announced itself in {} for {seconds} s (JOIN_TIMEOUT); where ranks are on several machines, set RENDEZVOUS",
        path.display()
    ))
}

/// Whether the run ended. What comes in meanwhile was not asked for; it comes again.
fn over(node: &mut Node) -> Result<bool> {
    loop {
        match node.next(Some(Duration::ZERO))? {
            Event::Timeout => return Ok(false),
            Event::Closed(_) | Event::Failed { .. } | Event::Stop { .. } => return Ok(true),
            Event::Message(_) | Event::Tick => {}
        }
    }
}

/// Compares the keys that decide the weights, and the files of the base model.
fn same_keys(group: &Group, config: &Config, made: &Made) -> Result<()> {
    let keys = record::deciding(config);
    let mut values: Vec<(&str, String)> =
        keys.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value.to_string())).collect();
    let mut files: Vec<&str> = made.inputs.values().map(String::as_str).collect();
    files.sort_unstable();
    values.push(("BASE_MODEL", files.join(" ")));
    // It decides no weights, but who tells what to whom.
    values.push(("SHARDING", serde_json::to_string(&config.sharding)?));
    values.push(("REDUCTION", serde_json::to_string(&config.reduction)?));
    let digests: Vec<u8> = values.iter().flat_map(|(_, value)| bytes_sha256(value.as_bytes()).into_bytes()).collect();
    let all = group.gather_bytes(&digests)?;
    let digest = digests.len() / values.len();
    for (rank, other) in all.chunks(digests.len()).enumerate() {
        let differs = other.chunks(digest).zip(all.chunks(digest)).position(|(own, first)| own != first);
        if let Some((key, value)) = differs.and_then(|at| values.get(at)) {
            let own = group.place().rank;
            let allowed = format!("rank {rank} has another one than rank 0; wanted: one value for all ranks");
            return Err(Problems::from(Problem::new(*key, format!("{value} in rank {own}"), allowed)).into());
        }
    }
    Ok(())
}
