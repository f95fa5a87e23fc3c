//! `difflow plugin check` on libraries that are bad on purpose. What would go unnoticed here would end a run days later, without a name.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use difflow_tests::skip;
use serde_json::Value;

const DIFFLOW: &str = env!("CARGO_BIN_EXE_difflow");

/// Compiles plugins/bad.c with macros; `c++` where one throws.
fn library(dir: &Path, name: &str, macros: &[&str]) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plugins/bad.c");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/include");
    let throws = macros.contains(&"HOW=THROW");
    let language: &[&str] = if throws { &["-x", "c++", "-std=c++17"] } else { &["-std=gnu11"] };
    let path = dir.join(name);
    let output = Command::new(if throws { "c++" } else { "cc" })
        .args(["-shared", "-fPIC", "-fvisibility=hidden", "-I", include])
        .args(language)
        .args(macros.iter().map(|one| format!("-D{one}")))
        .arg("-o")
        .args([path.as_path(), Path::new(source)])
        .arg("-lm")
        .output()
        .unwrap();
    assert!(output.status.success(), "{macros:?}: {}", String::from_utf8_lossy(&output.stderr));
    path
}

/// The tests that did not pass, with their messages; the exit code must fit. Of all tests, or of those that are named.
fn failures(library: &Path, only: &[&str]) -> Vec<(String, String)> {
    let mut command = Command::new(DIFFLOW);
    command.args(["plugin", "check", "--json"]).arg(library);
    command.args(only.iter().flat_map(|test| ["--test", test]));
    let output = command.output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let failed: Vec<(String, String)> = list
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["result"] == "failed")
        .map(|one| (text(one, "test"), text(one, "message")))
        .collect();
    assert_eq!(output.status.code(), Some(i32::from(!failed.is_empty())), "{failed:?}");
    failed
}

/// Each case: macros, the test that must fail, and a part of its message.
fn refused(cases: &[(&[&str], &str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    for (number, (macros, test, part)) in cases.iter().enumerate() {
        let library = library(dir.path(), &format!("bad{number}.so"), macros);
        let failed = failures(&library, &[test]);
        let named = failed.iter().any(|(name, message)| name == test && message.contains(part));
        assert!(named, "{macros:?}: wanted `{test}` with `{part}`, found {failed:#?}");
    }
}

#[test]
fn a_library_without_fault_passes_whichever_minor_version_it_is_of() {
    let dir = tempfile::tempdir().unwrap();
    for (name, macros) in [("now", &[][..]), ("older", &["SHORT"]), ("newer", &["LONG", "MINOR=7"])] {
        assert_eq!(failures(&library(dir.path(), &format!("{name}.so"), macros), &[]), [], "{name}");
    }
}

#[test]
fn what_cannot_be_loaded_is_said_to_be_so() {
    refused(&[
        (&["difflow_plugin_entry_v1=something_else"], "load", "exports no symbol `difflow_plugin_entry_v1`"),
        (&["MAJOR=2"], "load", "made for plug-in ABI 2.0, this difflow has 1.0"),
        (&["NO_CREATE"], "load", "lacks the mandatory function `create`"),
        (&["KIND_TEXT=\"org.example.kind/1\""], "load", "unknown kind `org.example.kind/1`"),
        (&["TWICE"], "load", "is there twice"),
        (&["ID=\"a b\""], "load", "has the id `a b`"),
    ]);
}

#[test]
fn what_is_no_library_of_this_machine_is_said_to_be_so() {
    let dir = tempfile::tempdir().unwrap();
    let good = library(dir.path(), "good.so", &[]);
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("text.so"), "no library at all").unwrap();
    let mut other = std::fs::read(&good).unwrap();
    (other[18], other[19]) = (183, 0);
    std::fs::write(path("arm.so"), other).unwrap();
    std::fs::create_dir(path("folder.so")).unwrap();
    for (name, part) in [
        ("text.so", "is not an ELF shared library"),
        ("arm.so", "was built for AArch64"),
        ("folder.so", "is a folder"),
        ("missing.so", "No such file"),
    ] {
        let failed = failures(&path(name), &[]);
        assert!(failed.len() == 1 && failed[0].0 == "load" && failed[0].1.contains(part), "{name}: {failed:?}");
    }
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&good, 0o0);
    let mut command = Command::new(DIFFLOW);
    command.args(["plugin", "check", "--json"]).arg(&good);
    if std::fs::read(&good).is_ok() {
        // The superuser needs no permissions, until these capabilities are given up.
        const DAC: [libc::c_ulong; 2] = [1, 2]; // CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        let give_up = || {
            // SAFETY: a system call with numbers only.
            let dropped = |one: libc::c_ulong| unsafe { libc::prctl(libc::PR_CAPBSET_DROP, one, 0, 0, 0) } == 0;
            if DAC.into_iter().all(dropped) { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: only system calls, in the child before it becomes another program.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, give_up) };
    }
    let Ok(output) = command.output() else {
        skip(
            "permissions",
            "a library that may not be read",
            "this user needs no permissions and may not give that up",
        );
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("check its permissions"), "{said}");
}

#[test]
fn a_crash_is_named_by_its_function() {
    refused(&[
        (&["WHERE=\"init\"", "HOW=SEGV"], "defaults", "crashed in init (segmentation fault)"),
        (&["WHERE=\"create\"", "HOW=SEGV"], "defaults", "crashed in create (segmentation fault)"),
        (&["WHERE=\"destroy\"", "HOW=SEGV"], "defaults", "crashed in destroy (segmentation fault)"),
        (&["WHERE=\"get_extension\"", "HOW=SEGV"], "defaults", "crashed in get_extension (segmentation fault)"),
        (&["WHERE=\"alpha\"", "HOW=SEGV"], "alpha", "crashed in alpha (segmentation fault)"),
        (&["WHERE=\"alpha\"", "HOW=ABORT"], "alpha", "crashed in alpha (abort"),
        (&["WEIGHT=1 / t", "WHERE=\"weight\"", "HOW=SEGV"], "weight", "crashed in weight (segmentation fault)"),
        (&["WHERE=\"deinit\"", "HOW=SEGV"], "defaults", "crashed in deinit (segmentation fault)"),
        (&["WHERE=\"alpha_derivative\"", "HOW=SEGV"], "derivative", "crashed in alpha_derivative"),
        (&["KIND=ANNEALING", "WHERE=\"attn_mask_ratio\"", "HOW=SEGV"], "ratio", "crashed in attn_mask_ratio"),
        (&["KIND=ANNEALING", "WHERE=\"attn_mask\"", "HOW=SEGV"], "causal-open", "crashed in attn_mask"),
        (
            &["KIND=TRANSFORM", "RELEASES=1", "WHERE=\"output_schema\"", "HOW=SEGV"],
            "accepts",
            "crashed in output_schema",
        ),
        (&["KIND=TRANSFORM", "RELEASES=1", "WHERE=\"process\"", "HOW=SEGV"], "release", "crashed in process"),
        (&["KIND=RECIPE", "TEXT=\"{}\"", "WHERE=\"recipe\"", "HOW=SEGV"], "recipe", "crashed in recipe"),
        (&["KIND=ANNEALING", "STATE", "WHERE=\"save\"", "HOW=SEGV"], "state", "crashed in save"),
        (&["KIND=ANNEALING", "STATE", "WHERE=\"load\"", "HOW=SEGV"], "state", "crashed in load"),
    ]);
}

#[test]
fn a_cpp_exception_is_named_by_its_function() {
    refused(&[
        (&["WHERE=\"init\"", "HOW=THROW"], "defaults", "crashed in init (abort, as after a C++ exception"),
        (&["WHERE=\"deinit\"", "HOW=THROW"], "defaults", "crashed in deinit (abort, as after a C++ exception"),
        (&["WHERE=\"get_extension\"", "HOW=THROW"], "defaults", "crashed in get_extension (abort"),
        (&["WHERE=\"create\"", "HOW=THROW"], "defaults", "crashed in create (abort, as after a C++ exception"),
        (&["WEIGHT=1 / t", "WHERE=\"weight\"", "HOW=THROW"], "weight", "crashed in weight (abort"),
        (&["WHERE=\"destroy\"", "HOW=THROW"], "defaults", "crashed in destroy (abort"),
        (&["WHERE=\"alpha\"", "HOW=THROW"], "alpha", "crashed in alpha (abort"),
        (&["WHERE=\"alpha_derivative\"", "HOW=THROW"], "derivative", "crashed in alpha_derivative (abort"),
        (&["KIND=ANNEALING", "WHERE=\"attn_mask_ratio\"", "HOW=THROW"], "ratio", "crashed in attn_mask_ratio (abort"),
        (&["KIND=ANNEALING", "WHERE=\"attn_mask\"", "HOW=THROW"], "causal-open", "crashed in attn_mask (abort"),
        (
            &["KIND=TRANSFORM", "RELEASES=1", "WHERE=\"output_schema\"", "HOW=THROW"],
            "accepts",
            "crashed in output_schema (abort",
        ),
        (&["KIND=TRANSFORM", "RELEASES=1", "WHERE=\"process\"", "HOW=THROW"], "release", "crashed in process (abort"),
        (&["KIND=RECIPE", "TEXT=\"{}\"", "WHERE=\"recipe\"", "HOW=THROW"], "recipe", "crashed in recipe (abort"),
    ]);
}

#[test]
fn a_torch_model_for_another_libtorch_is_refused_before_a_tensor_crosses() {
    refused(&[
        (&["KIND=TORCH"], "libtorch", "built against libtorch 0.0.0 (C++11 ABI 1), this difflow has 2."),
        // What would crash is not called at all.
        (&["KIND=TORCH", "WHERE=\"load\"", "HOW=SEGV"], "weights", "built against libtorch 0.0.0"),
    ]);
}

#[test]
fn a_crash_or_an_empty_answer_of_a_torch_model_is_named_by_its_function() {
    let own = format!("LIBTORCH=\"{}\"", difflow_model::libtorch().version);
    let (own, none) = (own.as_str(), "HOW=0");
    for (function, test) in [
        ("built_against", "libtorch"),
        ("load", "weights"),
        ("parameters", "parameters"),
        ("forward", "forward"),
        ("save", "save-load"),
    ] {
        let place = format!("WHERE=\"{function}\"");
        for (how, part) in [("HOW=SEGV", "(segmentation fault)"), ("HOW=THROW", "(abort, as after a C++ exception")] {
            let message = format!("crashed in {function} {part}");
            refused(&[(&["KIND=TORCH", own, place.as_str(), how], test, message.as_str())]);
        }
    }
    refused(&[
        (&["KIND=TORCH", own, "WHERE=\"\"", none], "forward", "forward gave no tensor"),
        (&["KIND=TORCH", own, "WHERE=\"\"", none], "parameters", "no parameter is trained"),
        (&["KIND=TORCH", own, "WHERE=\"\"", none], "save-load", "save wrote no config.json"),
        (&["KIND=TORCH", own, "WHERE=\"load\"", "HOW=FAIL"], "weights", "load failed: status 5"),
    ]);
}

#[test]
fn numbers_that_make_no_noise_schedule_are_refused() {
    refused(&[
        (&["ALPHA=NAN"], "alpha", "alpha gave NaN"),
        (&["ALPHA=t > 0.5 ? INFINITY : 1 - t"], "alpha", "alpha gave inf"),
        (&["ALPHA=1 - t * (2 - t) * 0.5 + (t > 0.7 ? 0.2 : 0)"], "alpha-0", "never rise"),
        (&["ALPHA=0.9 - 0.9 * t"], "alpha-0", "α(0) = 0.9"),
        (&["ALPHA=1 - 2 * t"], "alpha", "wanted a number in [0, 1]"),
        (&["SLOPE=-2"], "derivative", "finite differences give"),
        (&["SLOPE=1"], "derivative", "at most 0"),
        (&["WEIGHT=-1"], "weight", "weight gave -1"),
        (&["WEIGHT=t < 0.5 ? NAN : 1"], "weight", "weight gave NaN"),
        (&["ALPHA=1", "SLOPE=-1"], "weight", "α < 1 where tokens carry loss"),
        (&["NO_ALPHA"], "alpha", "lacks the mandatory function `alpha`"),
        (&["WHERE=\"alpha\"", "HOW=FAIL"], "alpha", "alpha failed: status 5"),
    ]);
}

#[test]
fn numbers_that_make_no_annealing_schedule_are_refused() {
    refused(&[
        (&["KIND=ANNEALING", "RATIO=1.5"], "ratio", "attn_mask_ratio gave 1.5"),
        (&["KIND=ANNEALING", "RATIO=-0.1"], "ratio", "wanted a number in [0, 1]"),
        (&["KIND=ANNEALING", "RATIO=NAN"], "ratio", "gave NaN"),
        (&["KIND=ANNEALING", "RATIO=0.5"], "reaches-full", "is not 1 at any step"),
        (&["KIND=ANNEALING", "MASK=j == i"], "causal-open", "hides position 0 from position 1"),
        (&["KIND=ANNEALING", "MASK=2"], "causal-open", "0 or 1 for every pair"),
        (&["KIND=ANNEALING", "MASK=j <= i || rand() % 2"], "same-pattern", "two patterns"),
    ]);
}

#[test]
fn transforms_that_break_the_arrow_contract_are_refused() {
    refused(&[
        (&["KIND=TRANSFORM", "RELEASES=1", "CHANGES_SCHEMA"], "accepts", "wanted the schema of its input"),
        (&["KIND=TRANSFORM", "RELEASES=2"], "release", "released 2 times"),
        (&["KIND=TRANSFORM", "RELEASES=0"], "release", "never released"),
        (&["KIND=TRANSFORM", "RELEASES=1"], "release", "gave no batch"),
    ]);
}

/// What the batch says of itself is looked at before it is read.
#[test]
fn a_malformed_batch_is_refused_and_read_nowhere() {
    for (gives, part) in [
        ("GIVES=out->length = -1", "a size of -1"),
        ("GIVES=out->length += 1", "rows, the batch"),
        ("GIVES=out->n_children = INT64_MAX", "a size of 9223372036854775807"),
        ("GIVES=out->children = NULL", "NULL for its columns"),
        ("GIVES=out->children[0]->n_buffers = 9", "9 buffers, wanted 2"),
        ("GIVES=out->children[0]->buffers = NULL", "NULL for its buffers"),
        ("GIVES=out->children[0]->buffers[1] = NULL", "its offsets are none"),
        ("GIVES=((int32_t *)out->children[0]->buffers[1])[1] = 1 << 30", "ffset"),
        (
            "GIVES=out->children[0]->null_count = 1, out->children[0]->buffers[0] = out->children[0]->buffers[1]",
            "has nulls",
        ),
    ] {
        refused(&[(&["KIND=TRANSFORM", "RELEASES=1", gives], "release", part)]);
    }
}

/// The batch is given back after the call, when nothing else of the plug-in is at work.
#[test]
fn a_crash_while_a_batch_is_given_back_is_named_too() {
    for (how, part) in [("HOW=SEGV", "(segmentation fault)"), ("HOW=THROW", "(abort, as after a C++ exception")] {
        let said = format!("crashed in release {part}");
        refused(&[(&["KIND=TRANSFORM", "RELEASES=1", "GIVES=", "WHERE=\"release\"", how], "release", &said)]);
    }
}

#[test]
fn sloppy_ones_are_refused() {
    refused(&[
        (&["TAKES_ANY_CONFIG"], "bad-config", "not JSON at all is accepted"),
        (&["BAD_SCHEMA"], "schema", "is not JSON"),
        (&["LEAKS"], "lifecycle", "bytes of heap stay"),
        (&["KIND=RECIPE", "TEXT=\"[]\""], "recipe", "no JSON object"),
        (&["KIND=RECIPE", "TEXT=\"{}\""], "recipe", "`difflow_recipe` is not 1"),
    ]);
}

#[test]
fn a_duplicate_id_in_the_search_path_names_both_libraries() {
    let dir = tempfile::tempdir().unwrap();
    library(dir.path(), "one.so", &[]);
    library(dir.path(), "two.so", &["ALPHA=(1 - t) * (1 - t)"]);
    let show = |id: &str| {
        let output = Command::new(DIFFLOW)
            .args(["plugin", "show", id])
            .env("DIFFLOW_PLUGIN_PATH", dir.path())
            .current_dir(dir.path())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = show("org.example.bad");
    assert!(code == Some(1) && said.contains("one.so") && said.contains("two.so"), "{said}");
    let (code, said) = show("org.example.nothing");
    let places = ["DIFFLOW", "plugins", "target/release"].map(|place| said.contains(place));
    assert!(code == Some(1) && places[1] && places[2] && said.contains(&dir.path().display().to_string()), "{said}");
}
