//! Updates that are recorded once and done again: CUDA graphs.
//!
//! A step of a small model is thousands of operations that take the device less time than it takes the host to name them. Shapes stand still
//! ([`Arithmetic::fixed_shapes`](crate::Arithmetic)), so that most updates are the same operations on other numbers. Micro-steps are only made
//! ready when they are asked for; the update then computes all of it: as it is the first time, recorded the second time that the shapes are
//! seen, and from then on with one call. What changes from update to update is in tensors that the recording reads.

use std::collections::HashMap;

use tch::Tensor;

use crate::batch::MicroBatch;
use crate::cuda::{DeviceMemory, Graph};
use crate::device::Device;
use crate::error::ModelError;
use crate::later::{Later, upload};
use crate::learner::Learner;
use crate::learner::update::{Unread, Update};
use crate::loss::{Divisor, Losses, Values};
use crate::objective::Selection;
use crate::part::{Given, Ready};
use crate::pattern::Pattern;
use crate::step_sums::{StepSums, Sums};
use crate::totals::Totals;

/// Recordings that are kept at most: each takes some megabytes beside the memory that they share.
const MOST: usize = 64;

/// How often the updates of a learner were recorded ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GraphUse {
    /// Recordings that were made.
    pub recorded: usize,
    /// Updates that were done by one of them.
    pub replayed: u64,
    /// Why no more are recorded, where that is so.
    pub stopped: Option<String>,
}

/// The recordings, and the micro-steps of the update that has not begun.
#[derive(Debug)]
pub(super) struct Recorder {
    known: HashMap<Vec<i64>, Known>,
    waiting: Vec<Micro>,
    usage: GraphUse,
}

/// What is known of updates with certain shapes.
#[derive(Debug)]
enum Known {
    /// One was computed.
    Seen,
    Recorded(Box<Recording>),
}

/// Of each part of a micro-batch the numbers of its rows, and what they predict.
type Parts = Vec<(Vec<usize>, Selection)>;

/// A micro-batch whose tensors are on the device.
#[derive(Debug)]
pub(super) struct Micro {
    known: StepSums,
    parts: Parts,
    given: Vec<Given>,
}

impl Micro {
    /// Its losses, where these are their values.
    fn losses(self, values: impl IntoIterator<Item = Values>) -> Losses {
        let parts = self.parts.into_iter().zip(values).map(|((rows, selection), values)| (rows, selection, values));
        Losses::new(self.known, parts)
    }
}

/// What an update computes: the losses of each micro-step's parts, and what is read back.
#[derive(Debug)]
struct Computed {
    values: Vec<Vec<Values>>,
    left: Tensor,
}

#[derive(Debug)]
struct Recording {
    /// `None`, in tests on a CPU: the operations are named again, on the same tensors.
    graph: Option<Graph>,
    given: Vec<Vec<Given>>,
    rates: Tensor,
    computed: Computed,
    /// Tables that the decoder may replace.
    _kept: Vec<Tensor>,
}

impl Learner {
    /// Records updates as CUDA graphs from now on, where they can be: a model of difflow's own without experts, by AdamW on a GPU, without
    /// dropout, alignment and the routers' loss. Says why not elsewhere. The bits of an update are those that it has without.
    pub fn record_updates(&mut self) -> Result<(), String> {
        if self.model.device == Device::Cpu {
            return Err("updates are recorded on a GPU only".to_owned());
        }
        self.start_recording()
    }

    pub(super) fn start_recording(&mut self) -> Result<(), String> {
        let arithmetic = self.arithmetic;
        let reason = if !self.on_device {
            "Muon, and an optimizer state in bf16, are not computed by one operation of the device"
        } else if self.reducer.tells_losses() {
            "several ranks tell each other something in the middle of a step"
        } else if self.model.decoder.own().is_none() {
            "a plug-in's torch model may do something else each time"
        } else if self.model.config.experts.is_some() {
            "the choice of experts is read from the device in the middle of a step"
        } else if self.alignment.is_some() || self.router_weight > 0.0 {
            "a second loss is beside the objective"
        } else if arithmetic.dropout > 0.0 || arithmetic.adapter_dropout > 0.0 {
            "dropout draws anew each time"
        } else if !arithmetic.fixed_shapes {
            "shapes change from step to step"
        } else {
            let (known, waiting, usage) = (HashMap::new(), Vec::new(), GraphUse::default());
            self.recorder = Some(Recorder { known, waiting, usage });
            return Ok(());
        };
        Err(reason.to_owned())
    }

    /// What became of it; `None` where nothing is recorded.
    pub fn graph_use(&self) -> Option<&GraphUse> {
        self.recorder.as_ref().map(|recorder| &recorder.usage)
    }

    /// Makes a micro-step ready, whose computation waits for the update. Returns what is known of it.
    pub(super) fn wait_with(
        &mut self,
        batch: &MicroBatch,
        pattern: &Pattern,
        divisor: Divisor,
    ) -> Result<Sums, ModelError> {
        let (ready, known, _) = self.model.ready(batch, pattern, self.options, self.arithmetic, Some(divisor))?;
        let mut counted = known.counted();
        let mut micro = Micro { known, parts: Vec::new(), given: Vec::new() };
        for Ready { rows, selection, given, .. } in ready {
            counted.count(&selection);
            micro.parts.push((rows, selection));
            micro.given.push(given);
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.waiting.push(micro);
        }
        Ok(counted)
    }

    /// Of an update that there is nothing to learn in.
    pub(super) fn forget_waiting(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.waiting.clear();
        }
    }

    /// Computes what waits, the update included.
    pub(super) fn update_recorded(&mut self, lr: f64, totals: Totals, factor: f64) -> Result<Unread, ModelError> {
        let Some(mut recorder) = self.recorder.take() else {
            return Err(ModelError::Torch("a recorded update without a recorder".to_owned()));
        };
        let micros = std::mem::take(&mut recorder.waiting);
        let done = self.update_by(&mut recorder, micros, lr, factor);
        self.recorder = Some(recorder);
        let (losses, left) = done?;
        let clip = self.optimizer.settings.adamw.clip;
        Ok(Unread(Update::There { totals, losses, clip, left: Later::start(&left)? }))
    }

    fn update_by(
        &mut self,
        recorder: &mut Recorder,
        micros: Vec<Micro>,
        lr: f64,
        factor: f64,
    ) -> Result<(Vec<Losses>, Tensor), ModelError> {
        let rates = upload(&[factor, 1.0 / factor, lr], self.model.device.torch())?;
        let signature: Vec<i64> = micros
            .iter()
            .flat_map(|micro| [vec![-1], micro.given.iter().flat_map(Given::signature).collect()].concat())
            .collect();
        self.optimizer.begin_on_device(self.model.device.torch())?;
        let (parts, given): (Vec<_>, Vec<_>) =
            micros.into_iter().map(|Micro { known, parts, given }| ((known, parts), given)).unzip();
        let again = recorder.known.contains_key(&signature) && recorder.usage.stopped.is_none();
        if again && matches!(recorder.known.get(&signature), Some(Known::Seen)) {
            match self.record(recorder.usage.recorded, &given, &rates, lr) {
                // The new tensors are those that it reads.
                Ok(mut recording) => {
                    recorder.usage.recorded += 1;
                    recording.given = given;
                    self.replay(&mut recording, lr)?;
                    recorder.usage.replayed += 1;
                    let done = recording.done(parts)?;
                    recorder.known.insert(signature, Known::Recorded(Box::new(recording)));
                    return Ok(done);
                }
                Err(reason) => recorder.usage.stopped = Some(reason),
            }
        } else if let Some(Known::Recorded(recording)) = recorder.known.get_mut(&signature) {
            for (kept, new) in recording.given.iter().flatten().zip(given.iter().flatten()) {
                for (kept, new) in kept.tensors().zip(new.tensors()) {
                    kept.shallow_clone().f_copy_(new)?;
                }
            }
            recording.rates.f_copy_(&rates)?;
            self.replay(recording, lr)?;
            recorder.usage.replayed += 1;
            return recording.done(parts);
        }
        recorder.known.entry(signature).or_insert(Known::Seen);
        let Computed { values, left } = self.computed(&given, &rates, lr)?;
        let losses = parts
            .into_iter()
            .zip(values)
            .map(|((known, parts), values)| Micro { known, parts, given: Vec::new() }.losses(values));
        Ok((losses.collect(), left))
    }

    /// All operations of an update: forward and backward of its micro-steps, and the update itself.
    fn computed(&mut self, given: &[Vec<Given>], rates: &Tensor, lr: f64) -> Result<Computed, ModelError> {
        let mut values = Vec::with_capacity(given.len());
        for (number, parts) in given.iter().enumerate() {
            if number > 0 {
                let gradients = self.take_gradients()?;
                self.sums.gradients.push(gradients)?;
            }
            let how = self.arithmetic;
            let losses = parts.iter().map(|given| {
                let rows = self.model.predicting(given, how, true)?;
                self.model.head_losses(&rows, &given.wanted, None, how)
            });
            values.push(losses.collect::<Result<Vec<_>, _>>()?);
        }
        self.add_gradients()?;
        let all: Vec<&Tensor> = values.iter().flatten().filter_map(Values::there).collect();
        let left = self.update_on_device(&all, rates, lr, None)?;
        Ok(Computed { values, left })
    }

    /// Errors say why it is not recorded, and mean nothing else: nothing was computed.
    fn record(&mut self, before: usize, given: &[Vec<Given>], rates: &Tensor, lr: f64) -> Result<Recording, String> {
        if before == MOST {
            return Err(format!("{MOST} different shapes are recorded"));
        }
        let kept = self.model.decoder.own().map(|decoder| decoder.tables()).unwrap_or_default();
        let rates_kept = rates.shallow_clone();
        let (graph, computed) = match self.model.device {
            Device::Cpu => (None, Computed { values: Vec::new(), left: Tensor::new() }),
            Device::Cuda(index) => {
                if before == 0 {
                    room(index, self.model.device)?;
                }
                let recorded = Graph::record(index, before == 0, || self.computed(given, rates, lr));
                // The gradients that were recorded are not there.
                let cleared = self.clear_gradients();
                self.sums.gradients = Default::default();
                let (graph, computed) = recorded.map_err(|e| e.to_string())?;
                cleared.map_err(|e| e.to_string())?;
                (Some(graph), computed)
            }
        };
        Ok(Recording { graph, given: Vec::new(), rates: rates_kept, computed, _kept: kept })
    }

    fn replay(&mut self, recording: &mut Recording, lr: f64) -> Result<(), ModelError> {
        match &recording.graph {
            Some(graph) => graph.replay(),
            None => {
                recording.computed = self.computed(&recording.given, &recording.rates, lr)?;
                Ok(())
            }
        }
    }
}

impl Recording {
    /// The losses of an update with these parts, and what is read back.
    fn done(&self, parts: Vec<(StepSums, Parts)>) -> Result<(Vec<Losses>, Tensor), ModelError> {
        let losses = parts.into_iter().zip(&self.computed.values).map(|((known, parts), values)| {
            Micro { known, parts, given: Vec::new() }.losses(values.iter().map(Values::share))
        });
        Ok((losses.collect(), self.computed.left.shallow_clone()))
    }
}

/// Errors if there is no memory for a second step's activations: those of recorded steps, which stay, beside those of steps that are not.
fn room(index: usize, device: Device) -> Result<(), String> {
    let memory = DeviceMemory::of(index).map_err(|e| e.to_string())?;
    let peak = device.peak_memory().map_err(|e| e.to_string())?.unwrap_or(0);
    let step = peak.saturating_sub(memory.taken);
    // What this process has kept without using it is given back when a recording begins; it had room for one step.
    let (unused, wanted) = (memory.unused + step, 2 * step + memory.all / 50);
    if unused >= wanted {
        return Ok(());
    }
    let mib = |bytes: u64| bytes >> 20;
    Err(format!(
        "a step takes {} MiB beside what stays, and recorded ones as much again; {} MiB are unused",
        mib(step),
        mib(unused)
    ))
}

#[cfg(test)]
#[path = "recorded_tests.rs"]
mod tests;
