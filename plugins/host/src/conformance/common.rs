//! Tests for every kind.

use serde_json::{Map, Value, json};

use super::{Stop, Test, ensure};
use crate::error::PluginError;
use crate::find::Found;
use crate::instance::Instance;

pub const TESTS: &[Test] = &[
    Test { name: "metadata", what: "name, version, vendor, license and description are there", run: metadata },
    Test { name: "schema", what: "the configuration schema is a JSON Schema with described options", run: schema },
    Test { name: "defaults", what: "an empty configuration makes an instance", run: defaults },
    Test { name: "bad-config", what: "a wrong configuration is refused with a JSON Pointer", run: bad_config },
    Test { name: "lifecycle", what: "1000 create and destroy without growing memory", run: lifecycle },
    Test { name: "state", what: "saved state comes back the same", run: state },
];

const CYCLES: usize = 1000;
/// Heap bytes that may stay after all cycles: a leak of one byte an instance shows.
const GROWTH: i64 = CYCLES as i64 - 1;

pub fn make(found: &Found, config: &str) -> Result<Instance, PluginError> {
    Instance::create(found, found.component.kind, config)
}

fn metadata(found: &Found) -> Result<(), Stop> {
    let c = &found.component;
    let fields = [
        ("name", &c.name),
        ("version", &c.version),
        ("vendor", &c.vendor),
        ("license", &c.license),
        ("description", &c.description),
    ];
    let empty: Vec<&str> = fields.iter().filter(|(_, text)| text.trim().is_empty()).map(|(name, _)| *name).collect();
    ensure(empty.is_empty(), || format!("empty: {}", empty.join(", ")))
}

fn options(found: &Found) -> Result<Map<String, Value>, Stop> {
    let schema: Value = serde_json::from_str(&found.component.config_schema)
        .map_err(|e| Stop::Fail(format!("config_schema is not JSON: {e}")))?;
    match schema.get("properties") {
        None if schema.is_object() => Ok(Map::new()),
        Some(Value::Object(properties)) => Ok(properties.clone()),
        _ => Err(Stop::Fail("config_schema is not an object with an object `properties`".into())),
    }
}

fn schema(found: &Found) -> Result<(), Stop> {
    for (name, option) in options(found)? {
        for key in ["type", "description"] {
            let there = option.get(key).is_some_and(|value| value.as_str().is_none_or(|text| !text.trim().is_empty()));
            ensure(there, || format!("option `{name}` has no `{key}`"))?;
        }
    }
    Ok(())
}

fn defaults(found: &Found) -> Result<(), Stop> {
    make(found, "{}")?;
    Ok(())
}

fn bad_config(found: &Found) -> Result<(), Stop> {
    let mut cases = vec![("not JSON at all".to_owned(), "{".to_owned(), None)];
    let options = options(found)?;
    let schema: Value = serde_json::from_str(&found.component.config_schema).unwrap_or_default();
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        cases.push((
            "an unknown option".into(),
            json!({"no-such-option": 1}).to_string(),
            Some("/no-such-option".into()),
        ));
    }
    for name in options.keys() {
        // No option of any type takes a list of lists.
        let case = (format!("`{name}` of a wrong type"), json!({name: [[]]}).to_string(), Some(format!("/{name}")));
        cases.push(case);
    }
    for (what, config, wanted) in cases {
        match make(found, &config) {
            Ok(_) => return Err(Stop::Fail(format!("{what} is accepted"))),
            Err(PluginError::Config { pointer, .. }) => {
                let right = wanted.as_ref().is_none_or(|wanted| *wanted == pointer);
                ensure(right, || {
                    format!("{what} is refused at `{pointer}`, wanted `{}`", wanted.clone().unwrap_or_default())
                })?;
            }
            Err(other) => return Err(Stop::Fail(format!("{what} is not refused as a wrong configuration: {other}"))),
        }
    }
    Ok(())
}

fn lifecycle(found: &Found) -> Result<(), Stop> {
    // The first ones may fill caches.
    let cycle = |times: usize| (0..times).try_for_each(|_| make(found, "{}").map(drop));
    cycle(CYCLES / 10)?;
    let before = heap();
    cycle(CYCLES)?;
    let grown = heap() - before;
    ensure(grown <= GROWTH, || format!("{grown} bytes of heap stay after {CYCLES} create and destroy"))
}

/// Bytes allocated from the C library's heap.
fn heap() -> i64 {
    // SAFETY: reads counters.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as i64
}

fn state(found: &Found) -> Result<(), Stop> {
    let mut first = make(found, "{}")?;
    let Some(bytes) = first.save_state()? else {
        return Err(Stop::Skip("it has no state".into()));
    };
    let mut second = make(found, "{}")?;
    second.load_state(&bytes)?;
    let again = second.save_state()?;
    ensure(again.as_ref() == Some(&bytes), || "state that was loaded is saved differently".into())
}
