//! Forwards over a cache that are recorded as CUDA graphs: of one token, or of a few, the device computes less long than the host takes to name
//! the operations.

use std::collections::HashMap;

use tch::Tensor;

use crate::cuda::Graph;
use crate::error::ModelError;
use crate::later::upload;
use crate::padded::{Numbers, Sizes};

/// Recordings of one cache at most.
const MOST: usize = 64;

/// The recordings of a cache, by the sizes of the forwards.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    /// Whether there are to be any.
    wanted: bool,
    /// In tests on a CPU: operations are named again, on the same tensors.
    again: bool,
    known: HashMap<Sizes, Known>,
    recorded: usize,
}

#[derive(Debug)]
enum Known {
    /// Computed once.
    Seen,
    Recorded(Recording),
}

#[derive(Debug)]
struct Recording {
    graph: Option<Graph>,
    numbers: Tensor,
    states: Tensor,
    /// What it reads beside, which others may replace.
    _kept: Vec<Tensor>,
}

impl Replays {
    /// None yet; `wanted`: on a CUDA device, where shapes stand still.
    pub fn new(wanted: bool) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// For tests on a CPU.
    #[cfg(test)]
    pub fn again() -> Self {
        Self { wanted: true, again: true, ..Self::default() }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.recorded
    }

    /// Whether shapes are to stand still.
    pub fn fixed_shapes(&self) -> bool {
        self.wanted
    }

    /// Of a cache that has other tensors from now on.
    pub fn forget(&mut self) {
        self.known.clear();
        self.recorded = 0;
    }

    /// What `forward` makes of the numbers, perhaps by doing again what it did before. `kept` are tensors that it reads beside them.
    pub fn states(
        &mut self,
        Numbers { sizes, values }: &Numbers,
        device: tch::Device,
        kept: impl FnOnce() -> Vec<Tensor>,
        forward: impl Fn(&Tensor) -> Result<Tensor, ModelError>,
    ) -> Result<Tensor, ModelError> {
        let numbers = upload(values, device)?;
        let index = match device {
            tch::Device::Cuda(index) if self.wanted => Some(index),
            _ if self.again => None,
            _ => return forward(&numbers),
        };
        if let Some(Known::Recorded(recording)) = self.known.get_mut(sizes) {
            recording.numbers.f_copy_(&numbers)?;
            return recording.replay(&forward);
        }
        if self.known.insert(sizes.clone(), Known::Seen).is_none() || self.recorded == MOST {
            return forward(&numbers);
        }
        let (graph, states) = match index {
            None => (None, Tensor::new()),
            Some(index) => match Graph::record(index, false, || forward(&numbers)) {
                Ok((graph, states)) => (Some(graph), states),
                Err(_) => {
                    // What one cannot record, nobody can: it is computed as it was the first time.
                    self.wanted = false;
                    return forward(&numbers);
                }
            },
        };
        let mut recording = Recording { graph, numbers, states, _kept: kept() };
        let states = recording.replay(&forward)?;
        self.recorded += 1;
        self.known.insert(sizes.clone(), Known::Recorded(recording));
        Ok(states)
    }
}

impl Recording {
    fn replay(&mut self, forward: &impl Fn(&Tensor) -> Result<Tensor, ModelError>) -> Result<Tensor, ModelError> {
        match &self.graph {
            Some(graph) => {
                graph.replay()?;
                // The next time the same memory is written.
                let mut copy = self.states.f_empty_like()?;
                copy.f_copy_(&self.states)?;
                Ok(copy)
            }
            None => forward(&self.numbers),
        }
    }
}
