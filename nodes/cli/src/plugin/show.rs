//! `difflow plugin show`.

use std::path::PathBuf;

use difflow_plugin_host::{AnnealingSchedule, Found, Kind, ModelRecipe, NoiseSchedule, PluginError, TorchModel, find};
use eyre::{Context, Report, Result, bail};
use serde_json::Value;

use crate::plugin::picture::png;
use crate::plugin::plot::{Curve, svg, terminal};
use crate::plugin::table::table;

/// Points of a curve.
const POINTS: usize = 200;

/// Where the plot goes besides the terminal.
#[derive(Debug, Default)]
pub struct Files {
    pub svg: Option<PathBuf>,
    pub png: Option<PathBuf>,
}

impl Files {
    /// For one more component of the same name: `plot.svg` becomes `plot-annealing-schedule.svg`.
    fn of(&self, kind: Kind) -> Self {
        let of = |path: &PathBuf| {
            let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
            let (stem, end) = (text(path.file_stem()), text(path.extension()));
            path.with_file_name(format!("{stem}-{}.{end}", kind.name().replace(' ', "-")))
        };
        Self { svg: self.svg.as_ref().map(of), png: self.png.as_ref().map(of) }
    }
}

/// Shows every component that the value names: a built-in name may stand for several kinds.
pub fn run(value: &str, config: &str, steps: u64, files: Files) -> Result<u8> {
    let mut problems = Vec::new();
    let mut shown = 0;
    for kind in Kind::ALL {
        match find(kind, value) {
            Ok(found) => {
                if shown > 0 {
                    println!();
                }
                let more = (shown > 0).then(|| files.of(kind));
                shown += 1;
                show(&found, config, steps, more.as_ref().unwrap_or(&files))?;
            }
            Err(error) => problems.push(error),
        }
    }
    if shown == 0 {
        // The kind that it is not of says less than what is wrong with it.
        let better = problems.iter().position(|error| !matches!(error, PluginError::Kind { .. })).unwrap_or(0);
        bail!("{}", problems.swap_remove(better));
    }
    Ok(0)
}

fn show(found: &Found, config: &str, steps: u64, files: &Files) -> Result<()> {
    let c = &found.component;
    let sha256 = found.library.sha256.as_deref().unwrap_or("that of this program");
    println!("{}: {}\n{}\n", c.name, c.kind.name(), c.description);
    for (key, text) in [
        ("id", c.id.as_str()),
        ("version", &c.version),
        ("vendor", &c.vendor),
        ("license", &c.license),
        ("library", &found.library.name()),
        ("sha256", sha256),
    ] {
        println!("  {key:<8} {text}");
    }
    println!("\n{}", options(&c.config_schema));
    let curves = match c.kind {
        Kind::NoiseSchedule => noise(&NoiseSchedule::of(found, config)?)?,
        Kind::AnnealingSchedule => vec![annealing(found, config, steps)?],
        Kind::ModelRecipe => {
            println!("\n{:#}", Value::Object(ModelRecipe::of(found, config)?.json));
            Vec::new()
        }
        Kind::TorchModel => {
            println!("\nlibtorch {}", TorchModel::built_against(found)?);
            Vec::new()
        }
        Kind::BatchTransform => Vec::new(),
    };
    for curve in &curves {
        println!("\n{}", terminal(curve));
    }
    if curves.is_empty() {
        return Ok(());
    }
    let svg =
        files.svg.as_ref().map(|file| Ok::<_, Report>((file, svg(&c.name, &curves)?.into_bytes()))).transpose()?;
    let png = files.png.as_ref().map(|file| Ok::<_, Report>((file, png(&c.name, &curves)?))).transpose()?;
    for (file, drawn) in svg.into_iter().chain(png) {
        std::fs::write(file, drawn).with_context(|| format!("cannot write {}", file.display()))?;
        println!("\nwritten: {}", file.display());
    }
    Ok(())
}

/// The options of a JSON Schema as a table.
fn options(schema: &str) -> String {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let Some(properties) = schema["properties"].as_object().filter(|all| !all.is_empty()) else {
        return "no options".into();
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows: Vec<Vec<String>> = properties
        .iter()
        .map(|(name, option)| {
            let bounds: Vec<String> =
                [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")]
                    .iter()
                    .filter_map(|(key, sign)| Some(format!("{sign} {}", option.get(*key)?)))
                    .collect();
            let default = option.get("default").map(Value::to_string).unwrap_or_default();
            vec![name.clone(), text(&option["type"]), default, bounds.join(", "), text(&option["description"])]
        })
        .collect();
    table(&["option", "type", "default", "range", "what it does"], &rows)
}

fn noise(schedule: &NoiseSchedule) -> Result<Vec<Curve>, PluginError> {
    let t: Vec<f64> = (0..=POINTS).map(|i| i as f64 / POINTS as f64).collect();
    let alpha = schedule.alpha(&t)?;
    // Near 0 the weight grows without bound and would hide the rest.
    let from = POINTS / 20;
    let weight = schedule.weight(&t[from..])?;
    let zip = |t: &[f64], values: Vec<f64>| t.iter().copied().zip(values).collect();
    Ok(vec![
        Curve { name: "α(t)".into(), x: "t".into(), points: zip(&t, alpha) },
        Curve { name: format!("w(t) from t = {}", t[from]), x: "t".into(), points: zip(&t[from..], weight) },
    ])
}

fn annealing(found: &Found, config: &str, steps: u64) -> Result<Curve, PluginError> {
    let schedule = AnnealingSchedule::with_steps(found, config, steps)?;
    let stride = (steps / POINTS as u64).max(1) as usize;
    let points = (0..=steps).step_by(stride).map(|step| Ok((step as f64, schedule.attn_mask_ratio(step)?)));
    Ok(Curve { name: "attn_mask_ratio".into(), x: "step".into(), points: points.collect::<Result<_, PluginError>>()? })
}
