//! A sweep of real runs: all of them, then nothing again, then what a changed measure asks for.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use difflow_tests::{Dataflow, Outcome, program};

use crate::json;

fn sweep(folder: &Path, options: &[&str]) -> Outcome {
    let mut command = Command::new(program("difflow"));
    command.arg("sweep").arg(folder.join("sweep.yml")).args(options).env("NO_COLOR", "1");
    Outcome::of(command, Duration::from_secs(300))
}

#[test]
fn a_sweep_runs_what_is_not_done_and_says_what_came_of_all() {
    let dataflow = Dataflow::tiny(2);
    let folder = dataflow.folder();
    let file = dataflow.write();
    let text = |measure: &str, last: &str| {
        format!(
            "dataflow: {}\nname: s\nseeds: [4]\nset: {{ SAMPLES: 0, SAMPLES_FINAL: 1 }}\n\
             trials:\n- {{ name: plain }}\n- {{ name: slow, title: a low rate, set: {{ LEARNING_RATE: 1e-5 }} }}\n{last}\
             measure: {{ own: '{measure}' }}\n\
             columns: [{{ metric: loss }}, {{ metric: own.x, title: twice the seed, digits: 0 }}]\n",
            file.display()
        )
    };
    let measure = r#"echo begun; echo "{\"x\": $((2 * SEED)), \"there\": \"$CHECKPOINT\"}""#;
    let broken = "- { name: broken, set: { BASE_MODEL: nowhere } }\n";
    std::fs::write(folder.join("sweep.yml"), text(measure, broken)).expect("a file");
    let outcome = sweep(folder, &["--lanes", "2"]);
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    let outcome = outcome.says(&["s-plain-4 done", "s-slow-4 done", "s-broken-4: ended with exit code 78", "nowhere"]);
    let outcome = outcome.says(&["| trial | runs | loss | twice the seed |", "| broken | 0 | - | - |"]);
    let row = outcome.text.lines().find(|line| line.starts_with("| a low rate | 1 |")).expect("a row");
    assert!(row.ends_with("| 8 |"), "{row}");
    let run = dataflow.run_folder().parent().expect("the folder of runs").join("s-slow-4");
    assert_eq!(json(&run.join("run.json"))["configuration"]["trainer.LEARNING_RATE"], 1e-5);
    assert_eq!(json(&run.join("run.json"))["configuration"]["trainer.SEED"], 4);

    // Nothing is done twice.
    std::fs::write(folder.join("sweep.yml"), text(measure, "")).expect("a file");
    let outcome = sweep(folder, &["--picture", &folder.join("x.svg").to_string_lossy()]).well();
    assert!(!outcome.text.contains("…"), "{}", outcome.text);
    assert!(std::fs::read_to_string(folder.join("x.svg")).expect("a picture").contains("a low rate"));

    // A measure that changed is made again, of a run that is not.
    let before = json(&run.join("measured.json"));
    std::fs::write(folder.join("sweep.yml"), text(&measure.replace('2', "3"), "")).expect("a file");
    let outcome = sweep(folder, &["--only", "slow"]).well();
    assert!(outcome.text.contains("| a low rate | 1 |") && outcome.text.contains("| 12 |"), "{}", outcome.text);
    let after = json(&run.join("measured.json"));
    assert_eq!(before["checkpoint_sha256"], after["checkpoint_sha256"]);

    // A run with other keys is not the one that the file asks for now.
    std::fs::write(folder.join("sweep.yml"), text(measure, "").replace("1e-5", "1e-4")).expect("a file");
    sweep(folder, &["--table"]).well().says(&["| a low rate | 0 | - | - |", "| plain | 1 |"]);

    // What is wrong is said before anything runs.
    std::fs::write(folder.join("sweep.yml"), text("echo no object", "- { name: odd, set: { STEPZ: 3 } }\n"))
        .expect("a file");
    sweep(folder, &[]).refused(78, &["STEPZ", "trial `odd`"]);
    std::fs::write(folder.join("sweep.yml"), text("echo no object", "")).expect("a file");
    let outcome = sweep(folder, &["--only", "slow"]);
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    outcome.says(&["the measure `own`", "found `no object`", "wanted a JSON object"]);
}
