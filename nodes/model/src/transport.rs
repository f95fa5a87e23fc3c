//! How ranks exchange what is on their GPUs: from device to device by NCCL, which wants a device for each of them; otherwise through the memory
//! of the host.

use crate::device::Device;
use crate::error::ModelError;
use crate::group::Group;
use crate::nccl::nccl;

/// How ranks are to exchange what is on their GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// By NCCL where each has a GPU of its own, and difflow's NCCL library; otherwise through host memory.
    #[default]
    Auto,
    /// By NCCL.
    Nccl,
    /// Through host memory, by Gloo.
    Host,
}

/// How they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Nccl,
    /// Through host memory; why.
    Host(String),
}

/// What a rank tells of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Cpu,
    /// A GPU, by what tells it from all others.
    Gpu([u8; 16]),
    /// A GPU without NCCL; why.
    NoNccl(String),
}

/// Bytes of what is told, with the [`Transport`] that the rank wants.
const TOLD: usize = 512;

impl Told {
    fn of(device: Device) -> Self {
        let Device::Cuda(index) = device else { return Self::Cpu };
        nccl().and_then(|nccl| nccl.identity(index)).map_or_else(Self::NoNccl, Self::Gpu)
    }

    fn told(&self, transport: Transport) -> Vec<u8> {
        let (kind, content): (u8, &[u8]) = match self {
            Self::Cpu => (0, &[]),
            Self::Gpu(uuid) => (1, uuid),
            Self::NoNccl(why) => (2, why.as_bytes()),
        };
        let mut bytes = [&[transport as u8, kind], content].concat();
        bytes.resize(TOLD, 0);
        bytes
    }

    fn heard(bytes: &[u8]) -> Self {
        let content = &bytes[2..];
        match bytes[1] {
            0 => Self::Cpu,
            1 => Self::Gpu(std::array::from_fn(|at| content[at])),
            _ => Self::NoNccl(
                String::from_utf8_lossy(content).trim_end_matches(['\0', char::REPLACEMENT_CHARACTER]).into(),
            ),
        }
    }
}

/// Why NCCL cannot be used.
fn obstacle(all: &[Told]) -> Option<String> {
    for (rank, told) in all.iter().enumerate() {
        match told {
            Told::Cpu => return Some(format!("rank {rank} computes on the CPU")),
            Told::NoNccl(why) => return Some(format!("rank {rank} has no NCCL: {why}")),
            Told::Gpu(_) => {
                if let Some(other) = all[..rank].iter().position(|other| other == told) {
                    return Some(format!("ranks {other} and {rank} have the same GPU, and NCCL wants one for each"));
                }
            }
        }
    }
    None
}

impl Group {
    /// Agrees with the others how what is on `device`, on which this rank computes, is exchanged from now on. All ranks call it, once, after
    /// they have met.
    ///
    /// # Errors
    /// Where NCCL is asked for and cannot be used, or does not start; or the ranks do not want the same.
    pub fn connect(&mut self, device: Device, transport: Transport) -> Result<Route, ModelError> {
        let bytes = self.gather_bytes(&Told::of(device).told(transport))?;
        if let Some(rank) = bytes.chunks(TOLD).position(|told| told[0] != bytes[0]) {
            let wanted = "one for all ranks";
            return Err(ModelError::input(
                "how GPUs are connected",
                format!("another in rank {rank} than in rank 0"),
                wanted,
            ));
        }
        let all: Vec<Told> = bytes.chunks(TOLD).map(Told::heard).collect();
        match (transport, obstacle(&all)) {
            (Transport::Host, _) => return Ok(Route::Host("this was asked for".to_owned())),
            (Transport::Auto, Some(why)) => return Ok(Route::Host(why)),
            (Transport::Nccl, Some(why)) => {
                return Err(ModelError::input(
                    "NCCL between the ranks",
                    why,
                    "a GPU for each of them, and difflow's library for NCCL",
                ));
            }
            (Transport::Auto | Transport::Nccl, None) => {}
        }
        if let (Device::Cuda(index), Ok(nccl)) = (device, nccl()) {
            self.add_device(index, nccl.open)?;
            self.check(device)?;
        }
        Ok(Route::Nccl)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nccl_is_used_where_each_rank_has_a_gpu_of_its_own_and_the_library() {
        let gpu = |number: u8| Told::Gpu([number; 16]);
        let missing = Told::NoNccl("no libdifflow_nccl.so".to_owned());
        for (all, why) in [
            (vec![gpu(1)], None),
            (vec![gpu(1), gpu(2), gpu(0)], None),
            (vec![gpu(1), gpu(2), gpu(1)], Some("ranks 0 and 2 have the same GPU")),
            (vec![gpu(1), Told::Cpu], Some("rank 1 computes on the CPU")),
            (vec![gpu(1), missing], Some("rank 1 has no NCCL: no libdifflow_nccl.so")),
        ] {
            let heard: Vec<Told> = all.iter().map(|told| Told::heard(&told.told(Transport::Auto))).collect();
            assert_eq!(heard, all);
            match (obstacle(&heard), why) {
                (None, None) => {}
                (Some(found), Some(why)) => assert!(found.starts_with(why), "{found}"),
                (found, _) => panic!("{all:?}: {found:?}"),
            }
        }
    }
}
