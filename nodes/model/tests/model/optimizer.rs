//! Muon and AdamW against their formulas, who updates what, and what a checkpoint keeps of them.

use std::collections::BTreeMap;

use difflow_model::{AdamW, Device, Learner, Model, Muon, Objective, ObjectiveOptions, Optimizer, Pattern, StateKind};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use crate::support::{GPT2, LLAMA, QWEN3, model, noised, read};

const LR: f64 = 1e-2;

fn learner(model: Model, optimizer: Optimizer) -> Learner {
    Learner::new(model, ObjectiveOptions::recommended(Objective::Diffusion { shift: true }), optimizer).unwrap()
}

fn muon() -> Optimizer {
    Optimizer { muon: Some(Muon::default()), ..Optimizer::default() }
}

fn step(learner: &mut Learner, n: u64) {
    learner.micro_step(&noised(3, 14, n), &Pattern::Full).unwrap();
    assert!(learner.apply(LR).unwrap().updated);
}

/// A tensor of a file: shape and values.
type Stored = (Vec<usize>, Vec<f64>);

fn tensors(dir: &TempDir, file: &str) -> BTreeMap<String, Stored> {
    let bytes = read(&dir.path().join(file));
    let found = SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &safetensors::tensor::TensorView| -> Vec<f64> {
        view.data().chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    };
    found.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), values(&view)))).collect()
}

fn saved(learner: &Learner) -> TempDir {
    let dir = TempDir::new().unwrap();
    learner.save(dir.path()).unwrap();
    dir
}

/// A matrix in f64, row by row.
#[derive(Clone)]
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn new(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let values = (0..rows * columns).map(|i| value(i / columns, i % columns)).collect();
        Self { rows, columns, values }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }

    fn times(&self, other: &Self) -> Self {
        Self::new(self.rows, other.columns, |i, j| (0..self.columns).map(|k| self.at(i, k) * other.at(k, j)).sum())
    }

    fn transposed(&self) -> Self {
        Self::new(self.columns, self.rows, |i, j| self.at(j, i))
    }

    /// Newton-Schulz as published: X ← aX + b(XXᵀ)X + c(XXᵀ)²X, five times, from a matrix of Frobenius norm 1.
    fn orthogonal(&self) -> Self {
        let norm = self.values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut x = Self::new(self.rows, self.columns, |i, j| self.at(i, j) / norm);
        for _ in 0..5 {
            let once = x.times(&x.transposed()).times(&x);
            let twice = x.times(&x.transposed()).times(&once);
            x = Self::new(x.rows, x.columns, |i, j| {
                3.4445 * x.at(i, j) - 4.7750 * once.at(i, j) + 2.0315 * twice.at(i, j)
            });
        }
        x
    }
}

/// The hidden matrices of a tensor of the files, as ranges of its columns (GPT-2's queries, keys and values stand side by side); `None`
/// for what is no hidden matrix.
fn hidden(name: &str, shape: &[usize]) -> Option<Vec<std::ops::Range<usize>>> {
    let blocks = name.contains("layers.") || name.contains(".h.");
    match shape {
        [_, columns] if blocks && name.contains("c_attn") => {
            let third = columns / 3;
            Some((0..3).map(|i| i * third..(i + 1) * third).collect())
        }
        [_, columns] if blocks => Some(std::iter::once(0..*columns).collect()),
        _ => None,
    }
}

/// Two steps with clipping and decay, everything by hand: a matrix that is updated as part of a stack, a wrong scale, a wrong momentum, a
/// forgotten clip, or an embedding under Muon shows.
#[test]
fn updates_are_those_of_the_published_formulas() {
    let adamw = AdamW { weight_decay: 0.1, clip: Some(0.5), ..AdamW::default() };
    for json in [LLAMA, GPT2, QWEN3] {
        for muon in [None, Some(Muon { momentum: 0.9 })] {
            let mut learner = learner(model(json, true), Optimizer { adamw, muon, ..Optimizer::default() });
            let mut wanted = tensors(&saved(&learner), "model.safetensors");
            let mut kept: BTreeMap<String, [Vec<f64>; 2]> =
                wanted.iter().map(|(name, (_, w))| (name.clone(), [vec![0.0; w.len()], vec![0.0; w.len()]])).collect();
            for n in 1..=2 {
                learner.micro_step(&noised(3, 14, n), &Pattern::Full).unwrap();
                let gradients: BTreeMap<_, _> = learner.gradients().unwrap().into_iter().collect();
                let applied = learner.apply(LR).unwrap();
                assert!(applied.clipped);
                for (name, (shape, weights)) in &mut wanted {
                    let scale = 0.5 / (applied.grad_norm + 1e-6);
                    let g: Vec<f64> = gradients[name].iter().map(|&g| f64::from(g) * scale).collect();
                    let decay = if shape.len() == 2 { 1.0 - LR * 0.1 } else { 1.0 };
                    let [m, v] = kept.get_mut(name).unwrap();
                    let matrices = muon.and(hidden(name, shape));
                    if matrices.is_none() {
                        for i in 0..g.len() {
                            m[i] = 0.9 * m[i] + 0.1 * g[i];
                            v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                            let first = m[i] / (1.0 - 0.9f64.powi(n as i32));
                            let second = v[i] / (1.0 - 0.999f64.powi(n as i32));
                            weights[i] = decay * weights[i] - LR * first / (second.sqrt() + 1e-8);
                        }
                    }
                    for columns in matrices.into_iter().flatten() {
                        let (rows, width) = (shape[0], shape[1]);
                        let place = |i: usize, j: usize| i * width + columns.start + j;
                        let ahead = Matrix::new(rows, columns.len(), |i, j| {
                            let (g, m) = (g[place(i, j)], m[place(i, j)]);
                            g + 0.9 * (0.9 * m + g)
                        });
                        let update = ahead.orthogonal();
                        let rate = LR * 0.2 * (rows.max(columns.len()) as f64).sqrt();
                        for i in 0..rows {
                            for j in 0..columns.len() {
                                let at = place(i, j);
                                m[at] = 0.9 * m[at] + g[at];
                                weights[at] = decay * weights[at] - rate * update.at(i, j);
                            }
                        }
                    }
                }
            }
            let found = tensors(&saved(&learner), "model.safetensors");
            for (name, (_, weights)) in &wanted {
                let gap = weights.iter().zip(&found[name].1).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                assert!(gap < 2e-5, "{json} {muon:?} {name}: {gap}");
            }
        }
    }
}

#[test]
fn muon_has_the_matrices_of_the_blocks_and_adamw_the_rest() {
    for (json, some) in [
        (LLAMA, ["model.layers.1.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight"]),
        (GPT2, ["transformer.h.1.attn.c_attn.weight", "transformer.h.0.mlp.c_fc.weight"]),
    ] {
        for state in [StateKind::Fp32, StateKind::Bf16] {
            let optimizer = Optimizer { state, ..muon() };
            let mut learner = learner(model(json, true), optimizer);
            step(&mut learner, 1);
            let dir = saved(&learner);
            let names = tensors(&dir, "model.safetensors");
            let bytes = read(&dir.path().join("optimizer.safetensors"));
            let kept = SafeTensors::deserialize(&bytes).unwrap();
            let mut wanted: Vec<String> = Vec::new();
            for (name, (shape, _)) in &names {
                match hidden(name, shape) {
                    Some(_) => wanted.push(format!("momentum_buffer.{name}")),
                    None => wanted.extend([format!("exp_avg.{name}"), format!("exp_avg_sq.{name}")]),
                }
            }
            wanted.sort();
            let mut found = kept.names().into_iter().map(|name| name.to_string()).collect::<Vec<_>>();
            found.sort();
            assert_eq!(found, wanted);
            assert!(some.iter().all(|name| found.contains(&format!("momentum_buffer.{name}"))));
            let dtype = if state == StateKind::Fp32 { Dtype::F32 } else { Dtype::BF16 };
            assert!(kept.iter().all(|(_, view)| view.dtype() == dtype));
            // What a plan says.
            let size: usize = kept.iter().map(|(_, view)| view.data().len()).sum();
            let config = learner.model().config();
            assert_eq!(size as u64, optimizer.state_bytes(config, learner.model().parameter_count()));
        }
    }
}

#[test]
fn training_resumes_to_the_same_bytes_with_every_optimizer_and_state() {
    for (json, average) in [(LLAMA, false), (GPT2, true)] {
        for (muon, state) in [
            (None, StateKind::Bf16),
            (Some(Muon::default()), StateKind::Fp32),
            (Some(Muon::default()), StateKind::Bf16),
        ] {
            let begin = |model: Model| {
                let mut learner = learner(model, Optimizer { muon, state, ..Optimizer::default() });
                if average {
                    learner.keep_average(0.9).unwrap();
                }
                learner
            };
            let mut whole = begin(model(json, true));
            (0..3).for_each(|n| step(&mut whole, n));
            let middle = saved(&whole);
            (3..6).for_each(|n| step(&mut whole, n));
            let through = saved(&whole);
            let mut second = begin(Model::load(middle.path(), Device::Cpu).unwrap());
            second.load_optimizer(middle.path()).unwrap();
            (3..6).for_each(|n| step(&mut second, n));
            let resumed = saved(&second);
            for file in ["model.safetensors", "optimizer.safetensors"] {
                let same = read(&through.path().join(file)) == read(&resumed.path().join(file));
                assert!(same, "{json} {muon:?} {state:?} {file}");
            }
        }
    }
}

#[test]
fn the_state_of_another_optimizer_is_refused_by_name() {
    for (before, now, names) in
        [(Optimizer::default(), muon(), ["adamw", "muon"]), (muon(), Optimizer::default(), ["muon", "adamw"])]
    {
        let mut first = learner(model(LLAMA, true), before);
        step(&mut first, 0);
        let dir = saved(&first);
        let mut second = learner(Model::load(dir.path(), Device::Cpu).unwrap(), now);
        let error = second.load_optimizer(dir.path()).unwrap_err().to_string();
        let wanted = format!("is the state of {}, not of {}", names[0], names[1]);
        assert!(error.contains("optimizer.safetensors") && error.contains(&wanted), "{error}");
    }
}
