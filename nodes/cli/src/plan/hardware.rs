//! What a run in several processes depends on beside what each computes: links, and memory. A few constants, each with where it is from.

use eyre::{Result, eyre};

use difflow_model::simulated::links::{Link, Links, Way};

/// The machines that ranks are on.
#[derive(Debug, Clone)]
pub struct Hardware {
    pub links: Links,
    /// Bytes of memory of one rank's device, where that is known.
    pub memory: Option<f64>,
    /// Of memory, read or written.
    pub bytes_per_second: f64,
    /// Where the numbers are from, for people.
    pub sources: Vec<String>,
}

/// Of what a data sheet says of an H100's memory, a copy or an update reaches so much. Assumed.
const MEMORY_SHARE: f64 = 0.8;

impl Hardware {
    /// Machines of so many H100s, each with an adapter of its own for InfiniBand, as in NVIDIA's DGX H100. NVLink's data sheet has 450 GB/s in
    /// each direction, of which NCCL's all-gather is said to reach three quarters or more (NVIDIA/nccl, issue 1218: 340 GB/s); an adapter's has
    /// 400 Gb/s, of which 46 to 48 GB/s are to be expected (NVIDIA/nccl-tests, issue 290).
    pub fn h100(per_machine: u64) -> Self {
        let links = Links {
            ranks_per_machine: per_machine,
            inside: Link { bytes_per_second: 340e9, message: 1e-6 },
            between: Link { bytes_per_second: 46e9, message: 3e-6 },
            begin: 20e-6,
            hop: HOP,
            way: Way::Ring,
        };
        let sources = vec![
            "inside a machine 340 GB/s a GPU and direction (data sheet of NVLink: 450; NCCL is said to reach 340: NVIDIA/nccl issue 1218)".to_owned(),
            "between machines 46 GB/s a GPU and direction (data sheet of its InfiniBand adapter: 50; 46 to be expected: NVIDIA/nccl-tests issue 290)".to_owned(),
            "an exchange 20 µs, a message 1 µs inside a machine and 3 µs between them (assumed); a few numbers 50 µs a rank (measured, Gloo)"
                .to_owned(),
            "memory 80 GB and 3.35 TB/s (data sheet), of which 0.8 are reached (assumed)".to_owned(),
        ];
        Self { links, memory: Some(80e9), bytes_per_second: MEMORY_SHARE * 3.35e12, sources }
    }

    /// Ranks on the processor of one machine, which exchange by its loopback interface: 100 MB took two ranks of one thread 46 to 69 ms by all-to-all
    /// (of which each sends half), and 35 to 49 ms from one to the other; 4 bytes 100 µs there and back.
    pub fn processor() -> Self {
        let loopback = Link { bytes_per_second: 2.2e9, message: HOP };
        let links = Links {
            ranks_per_machine: u64::MAX,
            inside: loopback,
            between: loopback,
            begin: HOP,
            hop: HOP,
            way: Way::Tree,
        };
        let sources = vec![
            "from rank to rank 2.2 GB/s, sent or received, and 50 µs a message (Gloo, loopback, two cores: measured 1.5 to 2.9 GB/s)"
                .to_owned(),
            "memory 10 GB/s a rank (assumed)".to_owned(),
            "the machine has a core for every thread of every rank (assumed)".to_owned(),
        ];
        Self { links, memory: None, bytes_per_second: 10e9, sources }
    }

    /// Takes what was said of the links instead: bytes a second of a rank inside a machine, between machines, and how many ranks a machine has.
    ///
    /// # Errors
    /// That are no numbers above 0.
    pub fn with_links(mut self, text: &str) -> Result<Self> {
        let wrong = || {
            eyre!(
                "--links: found `{text}`, wanted bytes a second of a rank inside a machine, or INSIDE,BETWEEN or INSIDE,BETWEEN,RANKS, as in 340e9,46e9,8"
            )
        };
        let numbers: Vec<f64> =
            text.split(',').map(|part| part.trim().parse().map_err(|_| wrong())).collect::<Result<_>>()?;
        let (inside, between, ranks) = match numbers[..] {
            [inside] => (inside, inside, None),
            [inside, between] => (inside, between, None),
            [inside, between, ranks] => (inside, between, Some(ranks)),
            _ => return Err(wrong()),
        };
        if !numbers.iter().all(|number| *number > 0.0) || ranks.is_some_and(|ranks| ranks.fract() != 0.0) {
            return Err(wrong());
        }
        self.links.inside.bytes_per_second = inside;
        self.links.between.bytes_per_second = between;
        if let Some(ranks) = ranks {
            self.links.ranks_per_machine = ranks as u64;
        }
        let said = format!("inside a machine {inside:.2e} bytes/s, between machines {between:.2e} (--links)");
        // What was known of them.
        self.sources.retain(|source| !source.contains("GB/s a GPU") && !source.contains("from rank to rank"));
        self.sources.insert(0, said);
        Ok(self)
    }
}

/// Seconds that a few numbers take to the next rank, by Gloo: measured on one machine.
const HOP: f64 = 50e-6;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn links_that_are_said_take_the_place_of_those_that_are_known() {
        let own = Hardware::h100(8).with_links("1e9, 5e8,4").unwrap();
        let Links { ranks_per_machine, inside, between, .. } = own.links;
        assert_eq!((ranks_per_machine, inside.bytes_per_second, between.bytes_per_second), (4, 1e9, 5e8));
        assert!(own.sources[0].contains("--links") && !own.sources.iter().any(|source| source.contains("NVLink")));
        let one = Hardware::processor().with_links("2e9").unwrap().links;
        assert_eq!((one.inside.bytes_per_second, one.between.bytes_per_second), (2e9, 2e9));
        for wrong in ["", "fast", "1e9,", "1e9,0", "1e9,1e9,1.5", "1,1,1,1", "-1"] {
            let error = Hardware::h100(8).with_links(wrong).unwrap_err().to_string();
            assert!(error.contains("--links") && error.contains("340e9,46e9,8"), "{wrong}: {error}");
        }
    }
}
