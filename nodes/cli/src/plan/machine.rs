//! What other machines were measured to do, for a plan of a run that is to happen there.

use std::path::Path;

use difflow_trainer::config::PrecisionKind;
use eyre::{Context, Result, eyre};
use serde::Deserialize;

use crate::plan::hardware::Hardware;

/// As [`Machine::measured`]: docs/RESULTS.md, "On a GPU".
const H100: [(f64, f64); 4] = [(124.4e6, 356e12), (354.8e6, 447e12), (1100.0e6, 433e12), (6738.4e6, 460e12)];
/// A model may be so much smaller or larger than those that were measured.
const FACTOR: f64 = 3.0;
/// Dense bf16 peaks in operations a second by a part of the device's name, as scripts/gpu.sh's program has them.
const PEAKS: [(&str, f64); 5] =
    [("H100", 989e12), ("H200", 989e12), ("A100", 312e12), ("L40S", 362e12), ("4090", 165e12)];

/// What `scripts/gpu.sh` brings back, as far as it is read here.
#[derive(Deserialize)]
struct Measured {
    device: String,
    training: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    variant: String,
    parameters: f64,
    share_of_peak: serde_json::Value,
}

/// A machine that was measured.
pub struct Machine {
    name: String,
    /// Operations a second of training in bf16 by the number of the model's parameters.
    measured: Vec<(f64, f64)>,
    /// Of several such machines, where that is known.
    pub hardware: Option<Hardware>,
}

impl Machine {
    /// `h100`, `h100x8` (so many in a machine), or the JSON file of `scripts/gpu.sh`.
    ///
    /// # Errors
    /// It is none of them.
    pub fn open(name: &str) -> Result<Self> {
        let gpus = match name.strip_prefix("h100") {
            Some("") => Some(1),
            Some(number) => number.strip_prefix('x').and_then(|number| number.parse().ok()).filter(|gpus| *gpus > 0),
            None => None,
        };
        let (measured, hardware) = match gpus {
            Some(gpus) => (H100.to_vec(), Some(Hardware::h100(gpus))),
            None => (read(Path::new(name))?, None),
        };
        Ok(Self { name: name.to_owned(), measured, hardware })
    }

    /// Operations a second that a model with so many parameters trains with.
    ///
    /// # Errors
    /// In another precision than bf16, or when nothing near the model's size was measured.
    pub fn flops_per_second(&self, parameters: u64, precision: PrecisionKind) -> Result<f64> {
        let name = &self.name;
        if precision != PrecisionKind::Bf16 {
            return Err(eyre!("--machine {name}: it was measured with PRECISION: bf16; use --flops-per-second"));
        }
        let distance = |size: f64| (size / parameters as f64).ln().abs();
        let nearest = self.measured.iter().min_by(|a, b| distance(a.0).total_cmp(&distance(b.0)));
        match nearest {
            Some(&(size, rate)) if distance(size) <= FACTOR.ln() => Ok(rate),
            Some(&(size, _)) => Err(eyre!(
                "--machine {name}: nothing near {parameters} parameters was measured (the nearest: {size:.3e}); use --flops-per-second"
            )),
            None => Err(eyre!("--machine {name}: it has no share of a GPU's peak; it was not measured on a GPU")),
        }
    }
}

fn read(file: &Path) -> Result<Vec<(f64, f64)>> {
    let name = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|e| eyre!("--machine: found `{name}`, wanted h100, h100x8 or the JSON file of scripts/gpu.sh: {e}"))?;
    let measured: Measured =
        serde_json::from_str(&text).with_context(|| format!("--machine: {name} is not a file of scripts/gpu.sh"))?;
    let Some((_, peak)) = PEAKS.iter().find(|(part, _)| measured.device.contains(part)) else { return Ok(Vec::new()) };
    let variants = ["full attention", "full attention, CUDA graphs"];
    let whole = measured.training.iter().filter(|row| variants.contains(&row.variant.as_str()));
    let rates = whole.filter_map(|row| Some((row.parameters, row.share_of_peak.as_f64()? * peak)));
    let mut rates: Vec<(f64, f64)> = rates.collect();
    // Of two of a size the faster one counts: updates are recorded where that is possible.
    rates.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(rates)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rate(name: &str, parameters: u64) -> Result<f64> {
        Machine::open(name)?.flops_per_second(parameters, PrecisionKind::Bf16)
    }

    #[test]
    fn a_machine_is_known_near_the_sizes_that_were_measured() {
        assert!((rate("h100", 350_000_000).unwrap() - 447e12).abs() < 1e6);
        assert!((rate("h100", 7_000_000_000).unwrap() - 460e12).abs() < 1e6);
        let error = rate("h100", 900_000).unwrap_err().to_string();
        assert!(error.contains("1.244e8") && error.contains("--flops-per-second"), "{error}");
        let error = Machine::open("h100").unwrap().flops_per_second(350_000_000, PrecisionKind::Fp32).unwrap_err();
        assert!(error.to_string().contains("bf16"), "{error}");
        for name in ["h1000", "h100x0", "h100x", "h100x8x"] {
            let error = rate(name, 1).unwrap_err().to_string();
            assert!(error.contains("h100") && error.contains("scripts/gpu.sh"), "{error}");
        }
        let gpus = |name| Machine::open(name).unwrap().hardware.unwrap().links.ranks_per_machine;
        assert_eq!((gpus("h100"), gpus("h100x8")), (1, 8));
    }

    #[test]
    fn the_file_of_a_gpu_is_read_and_one_of_a_cpu_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gpu.json");
        let row = |variant: &str, parameters: f64, share: serde_json::Value| serde_json::json!({"variant": variant, "parameters": parameters, "share_of_peak": share, "tokens_per_s": 1.0});
        let write = |device: &str, share: serde_json::Value| {
            let rows = [
                row("full attention", 1e8, 0.3.into()),
                row("full attention, CUDA graphs", 1e8, share),
                row("annealed, half open", 1e8, 0.9.into()),
            ];
            std::fs::write(&file, serde_json::json!({"device": device, "training": rows}).to_string()).unwrap();
        };
        write("NVIDIA A100-SXM4-80GB", 0.5.into());
        let name = file.to_str().unwrap();
        assert!((rate(name, 150_000_000).unwrap() - 156e12).abs() < 1.0);
        write("cpu", "needs a GPU".into());
        assert!(rate(name, 150_000_000).unwrap_err().to_string().contains("not measured on a GPU"));
        std::fs::write(&file, "{").unwrap();
        assert!(rate(name, 1).unwrap_err().to_string().contains("gpu.json"));
    }
}
