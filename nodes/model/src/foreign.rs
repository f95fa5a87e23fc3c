//! The forward of a plug-in's torch model: tensors cross the boundary as handles of the one libtorch that both sides
//! share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use difflow_plugin_host::TorchModel;
use tch::{Kind, Tensor};

use crate::attention::{Attention, Kernel, Target, additive};
use crate::cache::{Active, Cache, Storage, Text};
use crate::device::Device;
use crate::error::ModelError;
use crate::parameter::{Init, Leaf, Parameter};

/// A plug-in's model.
#[derive(Debug)]
pub(crate) struct Foreign {
    // A forward may change the instance (buffers, random numbers), and is asked for through a shared model.
    plugin: Mutex<TorchModel>,
    device: Device,
    /// Of its matrix products and attention.
    kind: Kind,
}

impl Foreign {
    /// Takes a plug-in whose weights are loaded.
    pub fn new(plugin: TorchModel, device: Device, kind: Kind) -> Self {
        Self { plugin: Mutex::new(plugin), device, kind }
    }

    pub fn target(&self) -> Target {
        Target {
            kind: self.kind,
            device: self.device.torch(),
            fused: false,
            documents: false,
            explicit: false,
            fixed_shapes: false,
        }
    }

    /// The parameters that are trained, sharing memory with the plug-in.
    pub fn parameters(&self) -> Result<Vec<Parameter>, ModelError> {
        let mut all: Vec<Parameter> = Vec::new();
        self.plugin().parameters(&mut |name, handle, trainable| {
            // SAFETY: a live tensor of the libtorch that was compared when the plug-in was opened.
            let tensor = unsafe { Tensor::clone_from_ptr(handle.cast_mut().cast()) };
            let (size, device) = (tensor.size(), self.device.torch());
            if all.iter().any(|other| other.leaf.parts[0].name == name) {
                return Err(format!("parameter `{name}` twice"));
            }
            if size.is_empty() || tensor.kind() != Kind::Float || !tensor.is_contiguous() || tensor.device() != device {
                let (kind, on) = (tensor.kind(), tensor.device());
                return Err(format!(
                    "parameter `{name}` as {kind:?} {size:?} on {on:?}, contiguous: {}",
                    tensor.is_contiguous()
                ));
            }
            if !trainable {
                return Ok(());
            }
            if !tensor.f_is_leaf().unwrap_or(false) {
                return Err(format!("parameter `{name}` as the result of a computation; detach it"));
            }
            let leaf = Leaf::new(Init::Zero, [(name.to_owned(), size)]);
            all.push(Parameter { leaf, tensor, source: None, stored: vec![Kind::Float], trainable: true });
            Ok(())
        })?;
        Ok(all)
    }

    /// Logits `[B, L, V]` (fp32).
    pub fn forward(&self, ids: &Tensor, bias: &Tensor, train: bool) -> Result<Tensor, ModelError> {
        let mut plugin = self.plugin();
        // SAFETY: both are live tensors, and the plug-in is of this libtorch.
        let out = unsafe { plugin.forward(ids.as_ptr().cast(), bias.as_ptr().cast(), train) }?;
        // SAFETY: the header says that it is a new at::Tensor which is ours now.
        let logits = unsafe { Tensor::from_ptr(out.cast()) };
        let (found, wanted) = (logits.size(), ids.size());
        if found.len() != 3 || found[..2] != wanted[..] {
            let wanted = format!("[{}, {}, V]", wanted[0], wanted[1]);
            return Err(ModelError::input(
                format!("logits of {}", plugin.instance().id()),
                format!("{found:?}"),
                wanted,
            ));
        }
        Ok(logits.f_to_kind(Kind::Float)?)
    }

    /// Logits `[B·L, V]` of token ids `[B, L]` under an attention pattern.
    pub fn whole(&self, ids: &Tensor, attention: &Attention, train: bool) -> Result<Tensor, ModelError> {
        let length = ids.size2()?.1;
        if attention.index.is_some() {
            return Err(ModelError::input("position ids of a plug-in's torch model", "given ones", "0, 1, 2, …"));
        }
        let square = || Tensor::f_ones([1, 1, length, length], (Kind::Bool, self.device.torch()));
        let bias = match &attention.layer(0)?.kernel {
            Kernel::Bias(bias) => bias.shallow_clone(),
            Kernel::Causal => additive(&square()?.f_tril(0)?, self.kind)?,
            Kernel::Full => additive(&square()?, self.kind)?,
            Kernel::Documents(_) | Kernel::Fused(_) => {
                return Err(ModelError::Torch("a CPU kernel's plan reached a plug-in".to_owned()));
            }
        };
        Ok(self.forward(ids, &bias, train)?.f_flatten(0, 1)?)
    }

    /// Logits `[W, V]` of the wanted places. A plug-in keeps no keys and values, so every lane is read again from its beginning; what was
    /// not given anew is as it was given last.
    pub fn partial(&self, active: &Active, cache: &mut Cache) -> Result<Tensor, ModelError> {
        let Storage::Texts(texts) = &mut cache.storage else {
            return Err(ModelError::Torch("a plug-in's model was given a KV cache".to_owned()));
        };
        for (place, &token) in active.places.iter().zip(&active.tokens) {
            texts[place.lane].set(place.position, token, place.seen.clone());
        }
        let lanes: Vec<&Text> = active.lanes.iter().map(|lane| &texts[active.places[lane.places.start].lane]).collect();
        let length = lanes.iter().map(|text| text.tokens.len()).max().unwrap_or(0);
        let (mut ids, mut visible) = (Vec::new(), vec![false; lanes.len() * length * length]);
        for (text, square) in lanes.iter().zip(visible.chunks_mut((length * length).max(1))) {
            ids.extend((0..length).map(|at| text.tokens.get(at).copied().unwrap_or(0)));
            for (at, row) in square.chunks_mut(length).enumerate() {
                // Padding sees itself: a row that sees nothing is not a number.
                row[at] = true;
                if let Some(seen) = text.seen.get(at) {
                    row[seen.start..seen.end.min(length)].fill(true);
                }
            }
        }
        let mut wanted = Vec::with_capacity(active.wanted.len());
        for (number, lane) in active.lanes.iter().enumerate() {
            let places =
                active.wanted[lane.queries.clone()].iter().map(|&place| active.places[place as usize].position);
            wanted.extend(places.map(|position| (number * length + position) as i64));
        }
        let (rows, side, device) = (lanes.len() as i64, length as i64, self.device.torch());
        let ids = Tensor::f_from_slice(&ids)?.f_view((rows, side))?.f_to_device(device)?;
        let visible = Tensor::f_from_slice(&visible)?.f_view((rows, 1, side, side))?.f_to_device(device)?;
        let logits = self.forward(&ids, &additive(&visible, self.kind)?, false)?.f_flatten(0, 1)?;
        Ok(logits.f_index_select(0, &Tensor::f_from_slice(&wanted)?.f_to_device(device)?)?)
    }

    /// The plug-in, for as long as nothing else may be asked of it.
    pub fn plugin(&self) -> MutexGuard<'_, TorchModel> {
        self.plugin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plug-in's state, where it has any.
    pub fn state(&self) -> Result<Option<Vec<u8>>, ModelError> {
        Ok(self.plugin().instance_mut().save_state()?)
    }

    /// Makes the vocabulary larger. The parameters are to be asked for again.
    pub fn set_vocab_size(&self, size: usize) -> Result<(), ModelError> {
        Ok(self.plugin().set_vocab_size(size as u64)?)
    }
}
