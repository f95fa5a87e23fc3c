//! A real model against an independent implementation's logits and greedy continuation.

use difflow_model::{Device, Generation, Model, Pattern, Prompt, Sampling};
use difflow_tests::real_data;

use crate::support::read;

#[test]
fn stories260k_gives_the_reference_logits_and_greedy_text() {
    let Some(data) = real_data("stories260K against golden.json") else { return };
    let dir = data.join("models/stories260K");
    let model = Model::load(&dir, Device::Cpu).unwrap();
    assert_eq!(model.parameter_count(), 260_032);
    let golden: serde_json::Value = serde_json::from_slice(&read(&dir.join("golden.json"))).unwrap();
    let cases = golden.as_array().unwrap();
    assert!(cases.len() >= 3, "{cases:?}");
    for case in cases {
        let ids = |key: &str| -> Vec<u32> {
            case[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let prompt = ids("prompt_ids");
        let logits = model.logits(&prompt, &Pattern::Causal).unwrap();
        let last = &logits[(prompt.len() - 1) * 512..];
        let first = case["last_logits_first8"].as_array().unwrap();
        assert_eq!(first.len(), 8);
        for (found, wanted) in last.iter().zip(first) {
            assert!((f64::from(*found) - wanted.as_f64().unwrap()).abs() < 1e-4, "{found} {wanted}");
        }
        let wanted = ids("greedy_ids");
        let new = wanted.len() - prompt.len();
        assert!(new > 0);
        let options = Generation { max_new_tokens: new, sampling: Sampling::GREEDY, seed: 0, stop: vec![] };
        let text = model.generate(&[Prompt { tokens: prompt.clone(), key: 0 }], &options).unwrap();
        assert_eq!(text[0].tokens, wanted[prompt.len()..]);
    }
}
