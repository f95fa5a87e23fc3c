//! `/openapi.json`, from the types of the requests.

use difflow_inference::Decoding;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::fields::{Chat, Completion, Detokenize, Infill, Tokenize};

/// What can be asked.
pub fn document() -> Value {
    let with_options = [
        ("/v1/completions", "Continues texts, or fills their gaps.", schema::<Completion>(true)),
        ("/v1/chat/completions", "Answers a conversation.", schema::<Chat>(true)),
        ("/v1/fim/completions", "Fills the gap between a prompt and a suffix.", schema::<Completion>(true)),
        ("/infill", "The same for editors, as llama.cpp has it.", schema::<Infill>(true)),
        ("/tokenize", "Token ids of a text.", schema::<Tokenize>(false)),
        ("/detokenize", "The text of token ids.", schema::<Detokenize>(false)),
    ];
    let answers = json!({
        "200": {"description": "The answer."},
        "400": {"description": "A field is wrong: `error.param` names it."},
        "401": {"description": "The token is missing or wrong."},
        "429": {"description": "Too many texts wait; `Retry-After` says when to come again."},
        "503": {"description": "There is no model yet, or the server is ending."}
    });
    let mut paths = Map::new();
    for (path, summary, schema) in with_options {
        let body = json!({"required": true, "content": {"application/json": {"schema": schema}}});
        paths.insert(path.into(), json!({"post": {"summary": summary, "requestBody": body, "responses": answers}}));
    }
    for (path, summary) in [
        ("/v1/models", "The model that is served."),
        ("/tokenizer_info", "What a client needs of the tokenizer."),
        ("/health", "Whether there is a model."),
        ("/metrics", "Counters for Prometheus."),
        ("/openapi.json", "This."),
        ("/", "A page to play on."),
    ] {
        paths.insert(path.into(), json!({"get": {"summary": summary, "responses": {"200": {"description": summary}}}}));
    }
    let security = json!({"bearer": {"type": "http", "scheme": "bearer"}});
    json!({
        "openapi": "3.1.0",
        "info": {"title": "difflow serve", "version": env!("CARGO_PKG_VERSION"), "license": {"name": "Apache-2.0"}},
        "paths": paths, "components": {"securitySchemes": security}, "security": [{}, {"bearer": []}]
    })
}

/// The fields of a request, with the decoding options by the names that they have in it.
fn schema<T: JsonSchema>(options: bool) -> Value {
    let inlined = |schema: Schema| -> Value { schema.to_value() };
    let generator = || schemars::generate::SchemaSettings::draft2020_12().with(|how| how.inline_subschemas = true);
    let mut own = inlined(generator().into_generator().into_root_schema_for::<T>());
    if options {
        let decoding = inlined(generator().into_generator().into_root_schema_for::<Decoding>());
        for (name, key) in Decoding::keys() {
            let Some(mut field) = decoding["properties"].get(&key).cloned() else { continue };
            // What is not given is as the checkpoint says.
            field.as_object_mut().map(|field| field.remove("default"));
            own["properties"][name] = field;
        }
    }
    own.as_object_mut().map(|own| own.remove("$schema"));
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_and_option_is_described() {
        let document = document();
        let fields =
            &document["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"];
        for name in ["prompt", "suffix", "stream_canvas", "decoder", "steps", "threshold", "temperature", "seed"] {
            let described = fields["properties"][name]["description"].as_str().unwrap_or_default();
            assert!(!described.is_empty(), "{name}: {}", fields["properties"][name]);
        }
        assert!(!document.to_string().contains("$ref"), "what is referred to is not there");
    }
}
