//! Annealing schedules from plug-ins, with every answer checked.

use difflow_plugin_abi as abi;
use serde_json::{Map, Value};

use crate::error::PluginError;
use crate::find::{Found, find};
use crate::instance::Instance;
use crate::library::Kind;

/// How attention goes from causal to full.
#[derive(Debug)]
pub struct AnnealingSchedule {
    instance: Instance,
    attn_mask_ratio: abi::AttnMaskRatio,
    attn_mask: Option<abi::AttnMask>,
}

impl AnnealingSchedule {
    /// Finds an annealing schedule and makes an instance. A component whose options have `anneal_steps` gets it from `anneal_steps`
    /// unless the configuration sets it.
    ///
    /// # Errors
    /// What is wrong with value or configuration.
    pub fn open(value: &str, config: &str, anneal_steps: u64) -> Result<Self, PluginError> {
        let found = find(Kind::AnnealingSchedule, value)?;
        // Another instance is looked at: one that remembers what it was asked is handed out as new.
        let looked_at = Self::with_steps(&found, config, anneal_steps)?;
        for step in [0, 1, anneal_steps / 2, anneal_steps] {
            looked_at.attn_mask_ratio(step)?;
        }
        Self::with_steps(&found, config, anneal_steps)
    }

    /// An instance of a found component, with `anneal_steps` as [`open`](Self::open) gives it, not looked at yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn with_steps(found: &Found, config: &str, anneal_steps: u64) -> Result<Self, PluginError> {
        Self::of(found, &with_steps(config, &found.component.config_schema, anneal_steps))
    }

    /// An instance of a found component, not looked at yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn of(found: &Found, config: &str) -> Result<Self, PluginError> {
        let instance = Instance::create(found, Kind::AnnealingSchedule, config)?;
        let table: abi::AnnealingSchedule = instance.table()?;
        let attn_mask_ratio = table.attn_mask_ratio.ok_or_else(|| instance.missing("attn_mask_ratio"))?;
        Ok(Self { instance, attn_mask_ratio, attn_mask: table.attn_mask })
    }

    /// The component behind it.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The same, for its state.
    pub fn instance_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }

    /// Whether it gives whole patterns.
    pub fn gives_patterns(&self) -> bool {
        self.attn_mask.is_some()
    }

    /// 0 is causal, 1 full.
    ///
    /// # Errors
    /// When the plug-in fails or gives something outside [0, 1].
    pub fn attn_mask_ratio(&self, step: u64) -> Result<f64, PluginError> {
        let mut ratio = f64::NAN;
        // SAFETY: one number to write to.
        self.instance.call("attn_mask_ratio", |instance, error| unsafe {
            (self.attn_mask_ratio)(instance, step, &raw mut ratio, error)
        })?;
        if (0.0..=1.0).contains(&ratio) {
            return Ok(ratio);
        }
        Err(self.instance.wrong("attn_mask_ratio", format!("{ratio} at step {step}"), "a number in [0, 1]"))
    }

    /// The whole pattern of one forward, `[length · length]`, row i the query; `None` when the schedule leaves it to the host.
    ///
    /// # Errors
    /// When the plug-in fails, gives something else than 0 and 1, or hides a position from a later one.
    pub fn attn_mask(&self, step: u64, seed: u64, length: usize) -> Result<Option<Vec<bool>>, PluginError> {
        let Some(attn_mask) = self.attn_mask else { return Ok(None) };
        let seq_len = u32::try_from(length).unwrap_or(u32::MAX);
        let mut open = vec![u8::MAX; length * length];
        // SAFETY: as many bytes as said.
        self.instance.call("attn_mask", |instance, error| unsafe {
            attn_mask(instance, step, seed, seq_len, open.as_mut_ptr(), error)
        })?;
        if let Some(at) = open.iter().position(|&value| value > 1) {
            let found = format!("{} for position {} at step {step}", open[at], at / length);
            return Err(self.instance.wrong("attn_mask", found, "0 or 1 for every pair"));
        }
        let hidden = (0..length).find_map(|i| (0..=i).find(|&j| open[i * length + j] == 0).map(|j| (i, j)));
        if let Some((i, j)) = hidden {
            let found = format!("a pattern that hides position {j} from position {i} at step {step}");
            return Err(self.instance.wrong("attn_mask", found, "the causal part (j ≤ i) always open"));
        }
        Ok(Some(open.into_iter().map(|value| value == 1).collect()))
    }
}

/// The configuration with `anneal_steps`, where the component has such an option and the configuration does not set it.
fn with_steps(config: &str, schema: &str, anneal_steps: u64) -> String {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let text = if config.trim().is_empty() { "{}" } else { config };
    let Ok(mut object) = serde_json::from_str::<Map<String, Value>>(text) else { return text.to_owned() };
    if schema["properties"].get("anneal_steps").is_none() || object.contains_key("anneal_steps") {
        return text.to_owned();
    }
    object.insert("anneal_steps".into(), anneal_steps.into());
    Value::Object(object).to_string()
}
