//! Batch transforms from plug-ins, one or several in sequence.

use std::mem::zeroed;

use arrow::array::StructArray;
use arrow::datatypes::{DataType, Fields};
use arrow::ffi::FFI_ArrowSchema;
use difflow_plugin_abi::{self as abi, ArrowSchema};
use difflow_schema::Message;
use serde::Deserialize;
use serde_json::Value;

use crate::arrow_export::Lent;
use crate::arrow_import::{Received, difference};
use crate::error::PluginError;
use crate::find::{Found, find};
use crate::instance::Instance;
use crate::library::Kind;
use crate::record::Record;

/// One transform at work on batches of one schema.
#[derive(Debug)]
pub struct BatchTransform {
    instance: Instance,
    process: abi::Process,
    fields: Fields,
}

impl BatchTransform {
    /// An instance of a found component for batches with these fields.
    ///
    /// # Errors
    /// When it cannot be made, cannot work on such batches or would change their schema.
    pub fn of(found: &Found, config: &str, fields: Fields) -> Result<Self, PluginError> {
        let instance = Instance::create(found, Kind::BatchTransform, config)?;
        let table: abi::BatchTransform = instance.table()?;
        let output_schema = table.output_schema.ok_or_else(|| instance.missing("output_schema"))?;
        let process = table.process.ok_or_else(|| instance.missing("process"))?;
        let schema = FFI_ArrowSchema::try_from(DataType::Struct(fields.clone()));
        let schema = schema.map_err(|e| instance.wrong("output_schema", e, "a schema that can cross the boundary"))?;
        let shown = (&raw const schema).cast::<ArrowSchema>();
        // SAFETY: all zero is an empty, released schema.
        let mut out: ArrowSchema = unsafe { zeroed() };
        instance.call("output_schema", |instance, error| {
            // SAFETY: both schemas are valid through the call.
            unsafe { output_schema(instance, shown, &raw mut out, error) }
        })?;
        let problem = match out.release {
            None => Some("no schema".to_owned()),
            Some(release) => {
                // SAFETY: `shown` is whole; the plug-in made the other one, and this is its one release.
                unsafe {
                    let problem = difference(&out, &*shown);
                    release(&raw mut out);
                    problem
                }
            }
        };
        match problem {
            None => Ok(Self { instance, process, fields }),
            Some(problem) => Err(instance.wrong("output_schema", problem, "the schema of its input")),
        }
    }

    /// The component behind it.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The transformed batch.
    ///
    /// # Errors
    /// When the plug-in fails, gives something that does not fit the schema, or does not release its input exactly once.
    pub fn process(&mut self, seq: u64, seed: u64, batch: &StructArray) -> Result<StructArray, PluginError> {
        let mut lent = Lent::new(batch);
        let mut out = Received::new(self.instance.id());
        // SAFETY: both arrays are valid through the call.
        let done = self.instance.call("process", |instance, error| unsafe {
            (self.process)(instance, seq, seed, &raw mut lent.array, out.pointer(), error)
        });
        match lent.releases() {
            1 => {}
            0 => {
                // The plug-in may still hold pointers into it.
                std::mem::forget(lent);
                return Err(self.instance.wrong("process", "an input that it never released", "exactly one release"));
            }
            n => {
                return Err(self.instance.wrong(
                    "process",
                    format!("an input released {n} times"),
                    "exactly one release",
                ));
            }
        }
        done?;
        if out.is_empty() {
            return Err(self.instance.wrong("process", "no batch", "a batch"));
        }
        // SAFETY: the plug-in promised arrays of the schema that it was shown.
        let batch = unsafe { out.import(&self.fields) };
        batch.map_err(|problem| self.instance.wrong("process", problem, "a batch of the input's schema"))
    }
}

/// One entry of the key TRANSFORMS.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    /// Only the component.
    Plain(String),
    /// With its configuration.
    Full(Configured),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configured {
    #[serde(rename = "use")]
    component: String,
    #[serde(default)]
    config: Option<Value>,
}

impl Entry {
    fn parts(&self) -> (&str, String) {
        match self {
            Self::Plain(component) => (component, "{}".into()),
            Self::Full(Configured { component, config }) => {
                (component, config.as_ref().map_or("{}".into(), Value::to_string))
            }
        }
    }
}

/// The transforms of a key, in order.
#[derive(Debug, Default)]
pub struct Transforms(Vec<BatchTransform>);

impl Transforms {
    /// Opens what the text of a key TRANSFORMS lists, for messages `M`: a JSON list of components, each a text or
    /// `{"use": …, "config": …}`. An empty text is no transform.
    ///
    /// # Errors
    /// What is wrong with the text, a component or its configuration.
    pub fn open<M: Message>(text: &str) -> Result<Self, PluginError> {
        let open = |entry: &Entry| {
            let (component, config) = entry.parts();
            BatchTransform::of(&find(Kind::BatchTransform, component)?, &config, M::fields())
        };
        Ok(Self(entries(text)?.iter().map(open).collect::<Result<_, _>>()?))
    }

    /// The records of what such a text lists.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn records(text: &str) -> Result<Vec<Record>, PluginError> {
        let record = |entry: &Entry| {
            let (component, config) = entry.parts();
            Record::new(Kind::BatchTransform, component, &config)
        };
        entries(text)?.iter().map(record).collect()
    }

    /// The message after all transforms.
    ///
    /// # Errors
    /// When one fails, or what comes out is no message `M`.
    pub fn apply<M: Message>(&mut self, seq: u64, seed: u64, message: M) -> Result<M, PluginError> {
        if self.0.is_empty() {
            return Ok(message);
        }
        let last = self.0.len() - 1;
        let wrong = |instance: &Instance, e: &dyn std::fmt::Display| {
            instance.wrong("process", e, format!("a batch {}", M::NAME))
        };
        let mut array = message.to_array().map_err(|e| wrong(&self.0[0].instance, &e))?;
        for transform in &mut self.0 {
            array = transform.process(seq, seed, &array)?;
        }
        M::from_array(&array).map_err(|e| wrong(&self.0[last].instance, &e))
    }
}

fn entries(text: &str) -> Result<Vec<Entry>, PluginError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(text).map_err(|e| PluginError::Config {
        id: "TRANSFORMS".into(),
        pointer: String::new(),
        message: format!(
            r#"{e}; wanted a JSON list such as ["builtin:span-mask", {{"use": "lib.so", "config": {{}}}}]"#
        ),
    })
}
