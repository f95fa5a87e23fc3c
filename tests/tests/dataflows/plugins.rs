//! The default dataflow with one line changed, for every example plug-in; and what becomes of a run whose plug-in crashes.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{json, scores, weights};
use difflow_tests::{Dataflow, Outcome, program, root};

/// An example that `make build` put into bin/plugins.
fn example(name: &str) -> String {
    let path = root().join("bin/plugins").join(name);
    assert!(path.exists(), "{} is missing; run `make build` first", path.display());
    path.display().to_string()
}

/// Runs the dataflow with one key of one node changed. The plug-in must be in run.json and in the last checkpoint under `recorded`. Returns
/// the weights.
fn runs_with(node: &str, keys: &[(&str, &str)], recorded: &str, id: &str) -> Vec<u8> {
    let steps = 4;
    let dataflow =
        keys.iter().fold(Dataflow::small_whole(steps), |dataflow, (key, value)| dataflow.set(node, key, *value));
    dataflow.run().well();
    let last = dataflow.run_folder().join(format!("checkpoints/step-{steps:08}"));
    let manifest = json(&last.join("manifest.json"));
    assert!(manifest["files"]["plugins.json"]["sha256"].is_string(), "{manifest:#}");
    for plugins in [&json(&dataflow.run_folder().join("run.json"))["plugins"], &json(&last.join("plugins.json"))] {
        let record = &plugins[recorded];
        assert_eq!(record["id"], id, "{plugins:#}");
        assert_eq!(record["sha256"].as_str().map(str::len), Some(64), "{record:#}");
        assert!(keys[0].1.contains(record["path"].as_str().unwrap()), "{record:#}");
        for (_, options) in &keys[1..] {
            let options: serde_json::Value = serde_json::from_str(options).unwrap();
            assert!(
                options.as_object().unwrap().iter().all(|(key, value)| record["config"][key] == *value),
                "{record:#}"
            );
        }
    }
    weights(&dataflow.run_folder(), steps)
}

/// One that was recorded and not asked would leave the weights what they are without it.
#[test]
fn every_example_schedule_and_transform_is_recorded_and_makes_other_weights() {
    let plain = Dataflow::small_whole(4);
    plain.run().well();
    let id = |name: &str| format!("org.difflow.examples.{name}");
    let quadratic = format!("{}#{}", example("quadratic_noise.so"), id("quadratic-noise"));
    let span_mask = format!("[{:?}]", example("libspan_mask.so"));
    // The example's own default of half_at lies behind the small run's ANNEAL_STEPS.
    let stepwise = example("libstep_annealing.so");
    let steps = [("ANNEALING_SCHEDULE", stepwise.as_str()), ("ANNEALING_SCHEDULE_CONFIG", r#"{"half_at": 1}"#)];
    let (cosine, noise) = (example("libcosine_noise.so"), "noiser.NOISE_SCHEDULE");
    let different = BTreeSet::from([
        weights(&plain.run_folder(), 4),
        runs_with("noiser", &[("NOISE_SCHEDULE", &cosine)], noise, &id("cosine-noise")),
        runs_with("noiser", &[("NOISE_SCHEDULE", &quadratic)], noise, &id("quadratic-noise")),
        runs_with("noiser", &[("TRANSFORMS", &span_mask)], "noiser.TRANSFORMS.0", &id("span-mask")),
        runs_with("trainer", &steps, "trainer.ANNEALING_SCHEDULE", &id("step-annealing")),
    ]);
    assert_eq!(different.len(), 5, "a plug-in was not asked");
}

/// A schedule in Python is one changed line, too: recorded like a library, and with the same numbers it makes the same weights.
#[test]
fn schedules_in_python_make_the_weights_of_the_same_schedules_in_rust() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let noise = "def alpha(t):\n    return 1 - t\n\ndef alpha_derivative(t):\n    return -1.0\n\ndef weight(t):\n    return 1 / t\n";
    let noise = written("straight.py", noise);
    let annealing = "def attn_mask_ratio(step, anneal_steps=9):\n    return min(1.0, (step + 1) / anneal_steps)\n";
    let annealing = written("straight_too.py", annealing);
    let plain = Dataflow::small_whole(4);
    plain.run().well();
    let rust = weights(&plain.run_folder(), 4);
    let both = [
        runs_with("noiser", &[("NOISE_SCHEDULE", &noise)], "noiser.NOISE_SCHEDULE", "python.straight"),
        runs_with(
            "trainer",
            &[("ANNEALING_SCHEDULE", &annealing)],
            "trainer.ANNEALING_SCHEDULE",
            "python.straight_too",
        ),
    ];
    assert!(both.iter().all(|weights| *weights == rust), "other weights than the built-in schedules make");
}

/// plugins/span-mask, line by line.
const SPAN_MASK: &str = "
def mix(x):
    x = (x + 0x9e3779b97f4a7c15) % 2**64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9 % 2**64
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb % 2**64
    return x ^ (x >> 31)

def noised(rows, seq, seed):
    for number, row in enumerate(rows):
        free = [at for at, maskable in enumerate(row['maskable']) if maskable]
        wanted = sum(row['masked'])
        start = mix(seed ^ mix(seq) ^ mix(number + 1))
        spanned = {free[(start + i) % len(free)] for i in range(wanted)}
        yield row | {'masked': [at in spanned for at in range(len(row['masked']))]}
";

/// Batches come out of the process as they went in, to the last bit of t and weight, but for what the file changes.
#[test]
fn a_transform_in_python_makes_the_weights_of_the_same_transform_in_rust() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("span_mask.py");
    std::fs::write(&path, SPAN_MASK).unwrap();
    let runs = |transform: &str, id: &str| {
        runs_with("noiser", &[("TRANSFORMS", &format!("[{transform:?}]"))], "noiser.TRANSFORMS.0", id)
    };
    let python = runs(&path.display().to_string(), "python.span_mask");
    assert!(python == runs(&example("libspan_mask.so"), "org.difflow.examples.span-mask"), "other weights");
}

/// One that makes up ids ends the run, and the reason is said.
#[test]
fn a_transform_in_python_that_leaves_the_vocabulary_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("beyond.py");
    let text = "def noised(rows):\n    for row in rows:\n        row['tokens'][5] = 10**6\n        yield row\n";
    std::fs::write(&path, text).unwrap();
    let dataflow = Dataflow::small_whole(2).set("noiser", "TRANSFORMS", format!("[{:?}]", path.display().to_string()));
    dataflow.run().refused(1, &["1000000", "an id below the vocabulary's"]);
}

/// data/tiny/model under the names that the recipe example knows: sizes in config.json, tensors in the header of model.safetensors.
fn renamed(dir: &Path) {
    let tiny = root().join("data/tiny/model");
    let mut config = json(&tiny.join("config.json"));
    let keys = config.as_object_mut().unwrap();
    for (theirs, ours) in [
        ("hidden_size", "n_embd"),
        ("intermediate_size", "n_ffn"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("num_key_value_heads", "n_kv_head"),
    ] {
        let value = keys.remove(theirs).unwrap();
        keys.insert(ours.into(), value);
    }
    keys.insert("architectures".into(), serde_json::json!(["ShortLlama"]));
    keys.insert("model_type".into(), "short".into());
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(tiny.join("tokenizer.json"), dir.join("tokenizer.json")).unwrap();
    let bytes = std::fs::read(tiny.join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut text = String::from_utf8(bytes[8..header].to_vec()).unwrap();
    for (theirs, ours) in [
        ("\"model.embed_tokens.", "\"embed."),
        ("\"model.norm.", "\"norm."),
        ("\"model.layers.", "\"blocks."),
        (".input_layernorm.", ".norm1."),
        (".post_attention_layernorm.", ".norm2."),
        (".self_attn.q_proj.", ".attn.q."),
        (".self_attn.k_proj.", ".attn.k."),
        (".self_attn.v_proj.", ".attn.v."),
        (".self_attn.o_proj.", ".attn.out."),
        (".mlp.gate_proj.", ".ffn.gate."),
        (".mlp.up_proj.", ".ffn.up."),
        (".mlp.down_proj.", ".ffn.down."),
    ] {
        text = text.replace(theirs, ours);
    }
    assert!(!text.contains("model.layers") && !text.contains("proj"), "{text}");
    let renamed = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[header..]].concat();
    std::fs::write(dir.join("model.safetensors"), renamed).unwrap();
}

/// The same weights under other names must give the same run, and the same scores of the base model.
#[test]
fn renamed_llama_recipe() {
    let dir = tempfile::tempdir().unwrap();
    renamed(dir.path());
    let plain = Dataflow::small_whole(2);
    plain.run().well();
    let dataflow = Dataflow::small_whole(2).set("", "BASE_MODEL", dir.path().display().to_string()).set(
        "",
        "MODEL_RECIPE",
        example("librenamed_llama_recipe.so"),
    );
    dataflow.run().well();
    let record = json(&dataflow.run_folder().join("run.json"))["plugins"]["trainer.MODEL_RECIPE"].clone();
    assert_eq!(record["id"], "org.difflow.examples.renamed-llama", "{record:#}");
    assert_eq!(scores(&plain.run_folder(), 0), scores(&dataflow.run_folder(), 0));
}

/// A LLaMA in a plug-in's own forward is the LLaMA of difflow: the base model gets the same scores, with the mask token and without, and
/// so does what a few steps of training make of it. The checkpoints are the plug-in's, and `difflow` reads them.
#[test]
fn plain_llama_torch_model() {
    let steps = 4;
    let plain = Dataflow::small_whole(steps);
    plain.run().well();
    let dataflow = Dataflow::small_whole(steps).set("", "TORCH_MODEL", example("libplain_llama.so"));
    dataflow.run().well();
    let record = json(&dataflow.run_folder().join("run.json"))["plugins"]["trainer.TORCH_MODEL"].clone();
    assert_eq!(record["id"], "org.difflow.examples.plain-llama", "{record:#}");
    for step in [0, steps] {
        let (wanted, found) = (scores(&plain.run_folder(), step), scores(&dataflow.run_folder(), step));
        assert!(found.contains_key("nelbo") && found.len() == wanted.len(), "{found:?}");
        for (name, wanted) in wanted {
            let gap = (wanted - found[&name]).abs();
            // The same sums in another order.
            assert!(gap < 2e-3 * wanted.abs().max(1.0), "{name} of step {step}: {wanted} and {}", found[&name]);
        }
    }
    let last = dataflow.run_folder().join(format!("checkpoints/step-{steps:08}"));
    assert_eq!(json(&last.join("config.json"))["difflow"]["torch_model"]["id"], "org.difflow.examples.plain-llama");
    let sample = |folders: &Path| {
        let mut command = Command::new(program("difflow"));
        command.args(["sample", "--count", "1", "--length", "40", "--steps", "4"]).arg("--checkpoint").arg(&last);
        command.env("DIFFLOW_PLUGIN_PATH", folders).current_dir(dataflow.folder());
        Outcome::of(command, Duration::from_secs(60))
    };
    // origin.json and lineage.json say where the library is; without them it is looked for by the id in config.json.
    sample(dataflow.folder()).well();
    for file in ["origin.json", "lineage.json"] {
        std::fs::remove_file(last.join(file)).unwrap();
    }
    sample(&root().join("bin/plugins")).well();
    sample(dataflow.folder()).refused(1, &["there is no torch model `org.difflow.examples.plain-llama`", "tried"]);
}

/// A resumed run goes on with the plug-in's checkpoint and the optimizer's state beside it.
#[test]
fn a_run_with_a_torch_model_that_is_stopped_ends_with_the_same_weights() {
    let dataflow = || {
        let small = Dataflow::small_whole(4).set("", "TORCH_MODEL", example("libplain_llama.so"));
        small.set("trainer", "CHECKPOINT_EVERY", 2)
    };
    let (whole, broken) = (dataflow(), dataflow());
    whole.run().well();
    broken.run().well();
    let checkpoints = broken.run_folder().join("checkpoints");
    std::fs::remove_dir_all(checkpoints.join("step-00000004")).unwrap();
    broken.run().well();
    assert!(weights(&whole.run_folder(), 4) == weights(&broken.run_folder(), 4), "the final weights differ");
}

#[test]
fn a_torch_model_for_another_libtorch_is_a_wrong_key() {
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("other.so");
    bad(&library, &["KIND=TORCH"]);
    let dataflow = Dataflow::small_whole(2).set("", "TORCH_MODEL", library.display().to_string());
    dataflow.run().refused(78, &["TORCH_MODEL", "built against libtorch 0.0.0", "LIBTORCH"]);
}

/// nodes/cli/tests/plugins/bad.c with macros.
fn bad(path: &Path, macros: &[&str]) {
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-std=gnu11", "-I"])
        .arg(root().join("plugins/include"))
        .args(macros.iter().map(|one| format!("-D{one}")))
        .arg("-o")
        .args([path, &root().join("nodes/cli/tests/plugins/bad.c")])
        .arg("-lm")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A crash in the middle of a run: the plug-in is named, the checkpoint before it is whole, and the run goes on from there with a
/// mended plug-in, saying that it is another one.
#[test]
fn a_crash_names_the_plugin_and_the_run_goes_on_with_a_mended_one() {
    let dir = tempfile::tempdir().unwrap();
    let library: PathBuf = dir.path().join("fragile.so");
    let dataflow = Dataflow::small_whole(6)
        .set("trainer", "ANNEALING_SCHEDULE", library.display().to_string())
        .set("trainer", "ANNEAL_STEPS", 2)
        .set("trainer", "CHECKPOINT_EVERY", 1);
    bad(&library, &["KIND=ANNEALING", "RATIO=(step >= 3 ? *(volatile double *)8 : 1)"]);
    let outcome = dataflow.run();
    assert_ne!(outcome.code, 0);
    outcome.says(&["plug-in component `org.example.bad` crashed in attn_mask_ratio (segmentation fault)"]);
    let steps = dataflow.run_folder().join("checkpoints");
    // That of step 3 may have been on its way to the disk; the one before it is written before that one begins.
    assert!(steps.join("step-00000002/manifest.json").is_file() && !steps.join("step-00000004").exists());
    // A new file, as a compiler makes it: the old one may still be mapped.
    std::fs::remove_file(&library).unwrap();
    bad(&library, &["KIND=ANNEALING", "RATIO=1"]);
    dataflow.run().well().says(&["is not the `org.example.bad`"]);
    assert!(steps.join("step-00000006/manifest.json").is_file());
}

#[test]
fn show_explains_a_component_and_writes_its_plot_as_svg_and_png() {
    let dir = tempfile::tempdir().unwrap();
    let show = |component: &str, more: &[&str]| {
        let mut command = Command::new(program("difflow"));
        command.args(["plugin", "show", component]).args(more).current_dir(dir.path());
        Outcome::of(command, Duration::from_secs(60)).well()
    };
    let files = ["--svg", "plot.svg", "--png", "plot.png"];
    show(&example("quadratic_noise.so"), &files).says(&[
        "org.difflow.examples.quadratic-noise",
        "sha256",
        "option",
        "α(t)",
        "w(t)",
        "written: plot.png",
    ]);
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(read("plot.svg").starts_with(b"<svg") && read("plot.png").starts_with(b"\x89PNG"));
    show(&example("libstep_annealing.so"), &files).says(&["attn_mask_ratio", "half_at", "anneal_steps"]);
    // A noise and an annealing schedule are called so.
    show("builtin:cosine", &files).says(&["written: plot.png", "written: plot-annealing-schedule.png"]);
    show(&example("libplain_llama.so"), &[]).says(&["torch model", "libtorch 2.", "hidden_size"]);
}

/// What a plug-in remembers is in the checkpoint and comes back when the run goes on: this one remembers the first step that it was asked
/// for, which is 0 also after a crash at step 3.
#[test]
fn state_of_a_plugin_is_in_the_checkpoint_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let library: PathBuf = dir.path().join("remembers.so");
    // A schedule is asked for its whole annealing when it is opened: what crashes later must lie behind that.
    let dataflow = Dataflow::small_whole(5)
        .set("trainer", "ANNEALING_SCHEDULE", library.display().to_string())
        .set("trainer", "ANNEAL_STEPS", 2)
        .set("trainer", "CHECKPOINT_EVERY", 1);
    let first_step = |step: u64| -> Option<u64> {
        let folder = dataflow.run_folder().join(format!("checkpoints/step-{step:08}"));
        let bytes = std::fs::read(folder.join("annealing.state")).unwrap();
        assert!(json(&folder.join("manifest.json"))["files"]["annealing.state"]["sha256"].is_string());
        Some(u64::from_ne_bytes(bytes.try_into().unwrap())).filter(|&step| step < u64::MAX)
    };
    bad(&library, &["KIND=ANNEALING", "STATE", "RATIO=(step >= 3 ? *(volatile double *)8 : 1)"]);
    assert_ne!(dataflow.run().code, 0);
    // The checkpoint of step 3 may have been on its way to the disk.
    assert_eq!((first_step(0), first_step(2)), (None, Some(0)));
    std::fs::remove_file(&library).unwrap();
    bad(&library, &["KIND=ANNEALING", "STATE", "RATIO=(first == 0 ? 1 : 2)"]);
    dataflow.run().well();
    assert_eq!(first_step(5), Some(0));
}

/// Of copies at another place, so that each is a foreign image.
#[test]
fn every_example_and_built_in_component_passes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("difflow"));
    command.args(["plugin", "check", "builtin"]);
    let examples = [
        "libcosine_noise.so",
        "quadratic_noise.so",
        "libstep_annealing.so",
        "libspan_mask.so",
        "librenamed_llama_recipe.so",
        "libplain_llama.so",
    ];
    for name in examples {
        let copy = dir.path().join(name);
        std::fs::copy(example(name), &copy).unwrap();
        command.arg(copy);
    }
    let outcome = Outcome::of(command, Duration::from_secs(120)).well();
    let ids = ["cosine-noise", "quadratic-noise", "step-annealing", "span-mask", "renamed-llama", "plain-llama"];
    outcome
        .says(&ids.map(|id| format!("org.difflow.examples.{id}")).each_ref().map(String::as_str))
        .says(&[" 0 failed"]);
}
