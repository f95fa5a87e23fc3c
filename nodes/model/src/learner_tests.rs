#![allow(clippy::unwrap_used)]

use std::sync::{Barrier, Mutex};

use super::*;
use crate::host::{values, values_mut};
use crate::optimizer::Muon;
use crate::small::{LLAMA, model};

/// The divisor, the totals and the gradients of one of two processes.
type Told = (f64, Totals, Vec<Vec<f32>>);

/// Two threads that tell each other everything, and add in the order of their numbers.
#[derive(Debug)]
struct Pair {
    number: usize,
    barrier: Arc<Barrier>,
    told: Arc<Mutex<[Told; 2]>>,
}

impl Reducer for Pair {
    fn number(&self, own: u64) -> u64 {
        2 * own + self.number as u64
    }

    fn divisor(&mut self, own: f64) -> Result<f64, ModelError> {
        self.told.lock().unwrap()[self.number].0 = own;
        self.barrier.wait();
        Ok(self.told.lock().unwrap()[0].0)
    }

    fn add(&mut self, totals: &[Totals], parameters: &mut [Parameter]) -> Result<Totals, ModelError> {
        let totals = Totals::sum(totals.iter().copied());
        let own = parameters.iter().map(|p| values(&p.tensor.grad()).unwrap().to_vec()).collect();
        {
            let told = &mut self.told.lock().unwrap()[self.number];
            (told.1, told.2) = (totals, own);
        }
        self.barrier.wait();
        let told = self.told.lock().unwrap();
        for (place, parameter) in parameters.iter_mut().enumerate() {
            let mut gradient = parameter.tensor.grad();
            let parts = told[0].2[place].iter().zip(&told[1].2[place]);
            // SAFETY: nothing else reads or writes the gradient meanwhile.
            let sums = unsafe { values_mut(&mut gradient) }.unwrap();
            sums.iter_mut().zip(parts).for_each(|(sum, (a, b))| *sum = a + b);
        }
        let sum = Totals::sum([told[0].1, told[1].1]);
        drop(told);
        self.barrier.wait();
        Ok(sum)
    }
}

fn learner(reducer: Box<dyn Reducer>, normaliser: Normaliser, optimizer: Optimizer) -> Learner {
    let mut model = model(LLAMA);
    model.add_mask_token(7).unwrap();
    let options =
        ObjectiveOptions { normaliser, ..ObjectiveOptions::recommended(Objective::Diffusion { shift: true }) };
    Learner::joined(model, options, optimizer, |_| Ok(reducer)).unwrap()
}

/// Micro-batches of different sizes: a wrong divisor or a wrong share of one process would show.
fn batch(number: usize) -> MicroBatch {
    let (rows, length) = (2 + number % 2, 14);
    let hash = |i: usize| ((i + 100 * number) as u32).wrapping_mul(2_654_435_761) >> 12;
    let mut batch = MicroBatch::clean(rows, length, (0..rows * length).map(|i| hash(i) % 37).collect());
    batch.masked = (0..rows * length).map(|i| batch.maskable[i] && hash(i + 991) % 3 > 0).collect();
    batch.weights = (0..rows).map(|row| 1.5 + row as f64).collect();
    batch
}

fn weights(learner: &Learner) -> Vec<Vec<f32>> {
    learner.model().parameters.iter().map(|parameter| copied(&parameter.tensor).unwrap()).collect()
}

/// The second of two processes, as far as a micro-step goes.
#[derive(Debug)]
struct Second;

impl Reducer for Second {
    fn number(&self, own: u64) -> u64 {
        2 * own + 1
    }

    fn divisor(&mut self, own: f64) -> Result<f64, ModelError> {
        Ok(own)
    }

    fn add(&mut self, totals: &[Totals], _: &mut [Parameter]) -> Result<Totals, ModelError> {
        Ok(Totals::sum(totals.iter().copied()))
    }
}

/// Two processes with the same draws would drop the same places twice, and the number of processes would change the weights.
#[test]
fn dropout_is_drawn_by_the_number_in_the_global_batch() {
    let start = |reducer| {
        let mut learner = learner(reducer, Normaliser::MaskableTokens, Optimizer::default());
        learner.set_dropout(0.5, 3).unwrap();
        learner
    };
    let mut alone = start(Box::new(Alone));
    let [first, second] = [(); 2].map(|()| alone.micro_step(&batch(0), &Pattern::Full).unwrap());
    assert_ne!(first, second, "nothing was dropped");
    assert_eq!(start(Box::new(Second)).micro_step(&batch(0), &Pattern::Full).unwrap(), second);
}

/// The seam that several ranks will use: two processes with a micro-batch each make the bytes of one process with both.
#[test]
fn two_processes_that_add_up_are_one_process_with_both_batches() {
    crate::set_num_threads(1);
    let muon = Optimizer { muon: Some(Muon::default()), ..Optimizer::default() };
    for (normaliser, optimizer) in [
        (Normaliser::MaskableTokens, Optimizer::default()),
        (Normaliser::MaskedTokens, Optimizer::default()),
        (Normaliser::MaskableTokens, muon),
    ] {
        let mut alone = learner(Box::new(Alone), normaliser, optimizer);
        let mut applied = Vec::new();
        for step in 0..3 {
            for number in [2 * step, 2 * step + 1] {
                alone.micro_step(&batch(number), &Pattern::Full).unwrap();
            }
            applied.push(alone.apply(1e-2).unwrap());
        }
        let (barrier, told) = (Arc::new(Barrier::new(2)), Arc::new(Mutex::new(Default::default())));
        let one = |number: usize| {
            let pair = Pair { number, barrier: barrier.clone(), told: told.clone() };
            let mut learner = learner(Box::new(pair), normaliser, optimizer);
            let mut applied = Vec::new();
            for step in 0..3 {
                learner.micro_step(&batch(2 * step + number), &Pattern::Full).unwrap();
                applied.push(learner.apply(1e-2).unwrap());
            }
            (weights(&learner), applied)
        };
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(|| one(1));
            [one(0), other.join().unwrap()]
        });
        for (found, told) in both {
            assert_eq!(told, applied, "{normaliser:?} {optimizer:?}");
            assert!(found == weights(&alone), "{normaliser:?} {optimizer:?}: other weights");
        }
    }
}
