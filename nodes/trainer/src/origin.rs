//! Where a checkpoint comes from: this node's keys, and what came with the batches.

use difflow_schema::{Component, Facts, Origin};
use eyre::{Context, Result};

use crate::config::Config;

/// The origin of checkpoints of this run. Returns `None` where the batches do not say what they were made with, because programs that
/// are not difflow's made them.
///
/// # Errors
/// When the current folder is gone.
pub fn of(config: &Config, facts: &Facts) -> Result<Option<Origin>> {
    let (Some(noise_schedule), Some(tokenizer)) = (&facts.noise_schedule, &facts.tokenizer) else { return Ok(None) };
    let component = |name: &String, options: &String| {
        (!name.is_empty()).then(|| Component { name: name.clone(), config: options.clone() })
    };
    let base_model = std::path::absolute(&config.base_model).with_context(|| config.base_model.clone())?;
    Ok(Some(Origin {
        base_model,
        model_recipe: component(&config.model_recipe, &config.model_recipe_config),
        torch_model: component(&config.torch_model, &config.torch_model_config),
        noise_schedule: noise_schedule.clone(),
        blocks: facts.blocks.as_ref().map(|blocks| blocks.sizes.clone()),
        tokenizer_sha256: tokenizer.sha256.clone(),
        bos: tokenizer.bos,
        eos: tokenizer.eos,
        sequence_length: tokenizer.sequence_length,
        steps: config.steps,
        length_entropy: tokenizer.length_entropy,
        canvas: tokenizer.canvas,
        examples: tokenizer.examples.clone(),
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use difflow_schema::TokenizerFacts;

    use super::*;

    #[test]
    fn an_origin_holds_what_the_keys_and_the_batches_say() {
        let config = Config { steps: 9, model_recipe: "a.b".into(), ..Config::default() };
        let tokenizer = TokenizerFacts {
            path: "/t.json".into(),
            sha256: "ab".into(),
            bos: 3,
            eos: 4,
            sequence_length: 64,
            length_entropy: Some(1.5),
            canvas: Some(48),
            examples: None,
        };
        let noise_schedule = Some(Component { name: "cosine".into(), config: "{}".into() });
        let facts = Facts { tokenizer: Some(tokenizer), noise_schedule, ..Facts::default() };
        let origin = of(&config, &facts).unwrap().unwrap();
        assert!(origin.base_model.is_absolute() && origin.base_model.ends_with("data/tiny/model"));
        assert_eq!((origin.bos, origin.eos, origin.sequence_length, origin.steps), (3, 4, 64, 9));
        assert_eq!((origin.length_entropy, origin.canvas, origin.torch_model), (Some(1.5), Some(48), None));
        assert_eq!(origin.model_recipe.unwrap().name, "a.b");
        assert_eq!(of(&config, &Facts::default()).unwrap(), None);
    }
}
