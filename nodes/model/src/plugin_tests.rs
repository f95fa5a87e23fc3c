//! What every torch model of a plug-in must do, as named tests of `difflow plugin check`. They are here and not with
//! those of the other kinds because they run computations.

use std::collections::BTreeSet;

use difflow_plugin_host::conformance::{Stop, Test};
use difflow_plugin_host::{Found, PluginError, TorchModel};
use tch::{Kind, Tensor};

use crate::attention::additive;
use crate::device::Device;
use crate::error::ModelError;
use crate::foreign::Foreign;
use crate::loader::libtorch;

/// On a small model with random weights, which every plug-in can make.
pub const TESTS: &[Test] = &[
    Test { name: "libtorch", what: "it is built against this difflow's libtorch", run: own_libtorch },
    Test {
        name: "weights",
        what: "a small model with random weights can be made, the same one for the same seed",
        run: load,
    },
    Test { name: "parameters", what: "parameters are fp32, contiguous and always in the same order", run: parameters },
    Test { name: "forward", what: "logits are finite and of shape [B, L, V]", run: forward },
    Test { name: "gradient", what: "every trained parameter gets a finite gradient", run: gradient },
    Test { name: "bias", what: "a causal bias hides the future and a full one does not", run: bias },
    Test { name: "save-load", what: "saved and loaded it gives the same logits", run: save_load },
    Test { name: "vocabulary", what: "it takes one more token", run: vocabulary },
];

/// Tokens of the texts that it reads.
const LENGTH: i64 = 7;

impl From<ModelError> for Stop {
    fn from(error: ModelError) -> Self {
        Self::Fail(error.to_string())
    }
}

/// An instance and its kind-specific functions.
fn open(found: &Found) -> Result<TorchModel, PluginError> {
    TorchModel::of(found, "{}", &libtorch())
}

fn make(found: &Found) -> Result<Foreign, Stop> {
    let mut model = open(found)?;
    model.load(None, "cpu", "f32", 7)?;
    Ok(Foreign::new(model, Device::Cpu, Kind::Float))
}

fn fail<T>(message: String) -> Result<T, Stop> {
    Err(Stop::Fail(message))
}

/// Two rows of the first two tokens; the last token of the first row is `last`.
fn ids(last: i64) -> Result<Tensor, ModelError> {
    let mut ids: Vec<i64> = (0..2 * LENGTH).map(|i| i % 2).collect();
    ids[LENGTH as usize - 1] = last;
    Ok(Tensor::f_from_slice(&ids)?.f_view((2, LENGTH))?)
}

/// Logits of the ids under full or causal attention.
fn logits(model: &Foreign, ids: &Tensor, full: bool) -> Result<Tensor, ModelError> {
    let square = Tensor::f_ones([1, 1, LENGTH, LENGTH], (Kind::Bool, tch::Device::Cpu))?;
    let visible = if full { square } else { square.f_tril(0)? };
    model.forward(ids, &additive(&visible, Kind::Float)?, false)
}

fn distance(a: &Tensor, b: &Tensor) -> Result<f64, ModelError> {
    Ok(a.f_sub(b)?.f_abs()?.f_max()?.f_double_value(&[])?)
}

fn own_libtorch(found: &Found) -> Result<(), Stop> {
    open(found)?;
    Ok(())
}

fn load(found: &Found) -> Result<(), Stop> {
    tch::no_grad(|| {
        let (first, second) = (make(found)?, make(found)?);
        let gap = distance(&logits(&first, &ids(0)?, true)?, &logits(&second, &ids(0)?, true)?)?;
        if gap == 0.0 { Ok(()) } else { fail(format!("two models of one seed differ by {gap} in their logits")) }
    })
}

fn parameters(found: &Found) -> Result<(), Stop> {
    let model = make(found)?;
    let names = || -> Result<Vec<String>, ModelError> {
        Ok(model.parameters()?.iter().map(|parameter| parameter.leaf.parts[0].name.clone()).collect())
    };
    let (first, second) = (names()?, names()?);
    match () {
        () if first.is_empty() => fail("no parameter is trained".into()),
        () if first != second => fail("two calls gave them in two orders".into()),
        () => Ok(()),
    }
}

fn forward(found: &Found) -> Result<(), Stop> {
    tch::no_grad(|| {
        let logits = logits(&make(found)?, &ids(0)?, true)?;
        let finite = logits.f_isfinite().and_then(|finite| finite.f_all()).map_err(ModelError::from)?;
        let finite = finite.f_int64_value(&[]).map_err(ModelError::from)?;
        if finite == 1 { Ok(()) } else { fail("a logit is NaN or infinite".into()) }
    })
}

fn gradient(found: &Found) -> Result<(), Stop> {
    let model = make(found)?;
    let parameters = model.parameters()?;
    let slopes = || -> Result<BTreeSet<String>, ModelError> {
        for parameter in &parameters {
            let _ = parameter.tensor.f_set_requires_grad(true)?;
        }
        let bias = Tensor::f_zeros([1, 1, LENGTH, LENGTH], (Kind::Float, tch::Device::Cpu))?;
        let logits = model.forward(&ids(0)?, &bias, true)?.f_flatten(0, 1)?;
        let target = ids(1)?.f_flatten(0, 1)?;
        let loss = logits.f_cross_entropy_loss(&target, None::<Tensor>, tch::Reduction::Mean, -100, 0.0)?;
        loss.f_backward()?;
        let mut without = BTreeSet::new();
        for parameter in &parameters {
            let grad = parameter.tensor.f_grad()?;
            if !grad.defined() || grad.f_isfinite()?.f_all()?.f_int64_value(&[])? != 1 {
                without.insert(parameter.leaf.parts[0].name.clone());
            }
        }
        Ok(without)
    };
    let without = slopes()?;
    match without.first() {
        None => Ok(()),
        Some(first) => fail(format!("{} trained parameter(s) without a finite gradient: `{first}`", without.len())),
    }
}

fn bias(found: &Found) -> Result<(), Stop> {
    tch::no_grad(|| {
        let model = make(found)?;
        // Of the first row, without its last position.
        let gap = |full: bool| -> Result<f64, ModelError> {
            let early = |last: i64| -> Result<Tensor, ModelError> {
                Ok(logits(&model, &ids(last)?, full)?.f_get(0)?.f_narrow(0, 0, LENGTH - 1)?)
            };
            distance(&early(0)?, &early(1)?)
        };
        let (causal, full) = (gap(false)?, gap(true)?);
        match () {
            () if causal > 1e-5 => fail(format!(
                "under a causal bias the last token changes earlier logits by {causal}: is attn_bias added in every attention?"
            )),
            () if full == 0.0 => fail("under a full bias the last token changes no earlier logit".into()),
            () => Ok(()),
        }
    })
}

fn save_load(found: &Found) -> Result<(), Stop> {
    tch::no_grad(|| {
        let dir = tempfile::tempdir().map_err(|e| Stop::Fail(format!("no temporary folder: {e}")))?;
        let first = make(found)?;
        first.plugin().save(dir.path())?;
        if !dir.path().join("config.json").is_file() {
            return fail("save wrote no config.json".into());
        }
        let mut second = open(found)?;
        second.load(Some(dir.path()), "cpu", "f32", 8)?;
        let second = Foreign::new(second, Device::Cpu, Kind::Float);
        let gap = distance(&logits(&first, &ids(0)?, true)?, &logits(&second, &ids(0)?, true)?)?;
        if gap == 0.0 {
            Ok(())
        } else {
            fail(format!("what is loaded differs from what was saved by {gap} in its logits"))
        }
    })
}

fn vocabulary(found: &Found) -> Result<(), Stop> {
    tch::no_grad(|| {
        let model = make(found)?;
        let before = logits(&model, &ids(0)?, true)?;
        let size = before.size()[2];
        if let Err(error) = model.set_vocab_size(size as usize + 1) {
            return Err(Stop::Skip(error.to_string()));
        }
        let after = logits(&model, &ids(0)?, true)?;
        if after.size()[2] != size + 1 {
            return fail(format!("logits for {} tokens after set_vocab_size({})", after.size()[2], size + 1));
        }
        let rows = |rows: i64| -> Result<usize, ModelError> {
            Ok(model.parameters()?.iter().filter(|parameter| parameter.leaf.parts[0].shape[0] == rows).count())
        };
        if rows(size + 1)? == 0 {
            return fail(format!("no parameter has {} rows, one for each token", size + 1));
        }
        let old = after.f_narrow(2, 0, size).map_err(ModelError::from)?;
        let gap = distance(&before, &old)?;
        if gap < 1e-5 { Ok(()) } else { fail(format!("the logits of the tokens before changed by {gap}")) }
    })
}
