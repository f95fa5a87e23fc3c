//! The Rust mirror, the C header as a C compiler sees it, and the frozen layout.txt must agree on every size and offset: a plug-in
//! that was compiled last year reads these structs by offset.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::mem::offset_of;
use std::process::Command;

use difflow_plugin_abi as abi;

/// `(C type, size, fields with offsets)`, from one list, so that no field can be left out of only one of them.
macro_rules! layout {
    ($($rust:ident as $c:literal { $($field:ident),* })+) => {
        vec![$(($c, size_of::<abi::$rust>(), vec![$((stringify!($field), offset_of!(abi::$rust, $field))),*])),+]
    };
}

type Layout = Vec<(&'static str, usize, Vec<(&'static str, usize)>)>;

fn layout() -> Layout {
    layout! {
        Str as "difflow_str" { ptr, len }
        Error as "difflow_error" { struct_size, code, message, path, release, private_data }
        Host as "difflow_host" { struct_size, abi_major, abi_minor, host_data, name, version, log, get_extension }
        Component as "difflow_component" { struct_size, id, kind, name, version, vendor, license, description, config_schema }
        Entry as "difflow_plugin_entry" { struct_size, abi_major, abi_minor, init, deinit, components, create, destroy, get_extension }
        NoiseSchedule as "difflow_noise_schedule_v1" { struct_size, alpha, alpha_derivative, weight }
        AnnealingSchedule as "difflow_annealing_schedule_v1" { struct_size, attn_mask_ratio, attn_mask }
        BatchTransform as "difflow_batch_transform_v1" { struct_size, output_schema, process }
        ModelRecipe as "difflow_model_recipe_v1" { struct_size, recipe }
        TorchBuild as "difflow_torch_build" { struct_size, libtorch_version, cxx11_abi }
        TorchModel as "difflow_torch_model_v1" { struct_size, built_against, load, parameters, forward, save, set_vocab_size }
        State as "difflow_state_v1" { struct_size, save, load }
        ArrowSchema as "struct ArrowSchema" { format, name, metadata, flags, n_children, children, dictionary, release, private_data }
        ArrowArray as "struct ArrowArray" { length, null_count, offset, n_buffers, n_children, buffers, children, dictionary, release, private_data }
    }
}

fn in_rust() -> String {
    let mut text = String::new();
    for (name, size, fields) in layout() {
        writeln!(text, "{name} {size}").unwrap();
        for (field, offset) in fields {
            writeln!(text, "  {field} {offset}").unwrap();
        }
    }
    text
}

/// Compiles the header with the given compiler and lets the program print what it sees.
fn in_c(compiler: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut source = String::from("#include <difflow_plugin.h>\n#include <stdio.h>\nint main(void) {\n");
    for (name, _, fields) in layout() {
        writeln!(source, "printf(\"{name} %zu\\n\", sizeof({name}));").unwrap();
        for (field, _) in fields {
            writeln!(source, "printf(\"  {field} %zu\\n\", offsetof({name}, {field}));").unwrap();
        }
    }
    source.push_str("return 0; }\n");
    let (file, program) = (dir.path().join("layout.c"), dir.path().join("layout"));
    std::fs::write(&file, source).unwrap();
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../include");
    let compile = Command::new(compiler[0])
        .args(&compiler[1..])
        .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-I", include, "-o"])
        .args([&program, &file])
        .output()
        .expect("a C compiler is there: the build needs one");
    assert!(compile.status.success(), "{}", String::from_utf8_lossy(&compile.stderr));
    String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap()
}

#[test]
fn the_mirror_is_what_a_c_compiler_sees() {
    assert_eq!(in_rust(), in_c(&["cc", "-std=c11"]));
}

#[test]
fn the_header_is_cpp_as_well() {
    assert_eq!(in_rust(), in_c(&["c++", "-std=c++17", "-x", "c++"]));
}

/// A change here breaks plug-ins that are out in the world. Appending a field is the only change that may ever be made.
#[test]
fn the_layout_is_frozen() {
    assert_eq!(in_rust(), include_str!("layout.txt"));
}

#[test]
fn the_ids_and_codes_are_those_of_the_header() {
    let header = include_str!("../../include/difflow_plugin.h");
    let strings = [
        ("DIFFLOW_NOISE_SCHEDULE_V1", abi::NOISE_SCHEDULE),
        ("DIFFLOW_ANNEALING_SCHEDULE_V1", abi::ANNEALING_SCHEDULE),
        ("DIFFLOW_BATCH_TRANSFORM_V1", abi::BATCH_TRANSFORM),
        ("DIFFLOW_MODEL_RECIPE_V1", abi::MODEL_RECIPE),
        ("DIFFLOW_TORCH_MODEL_V1", abi::TORCH_MODEL),
        ("DIFFLOW_STATE_V1", abi::STATE),
    ];
    for (name, value) in strings {
        let line = format!("#define {name} \"{}\"\n", value.to_str().unwrap());
        assert!(header.contains(&line), "{line}");
    }
    let numbers = [
        ("DIFFLOW_OK", abi::OK),
        ("DIFFLOW_ERR_INVALID_ARGUMENT", abi::ERR_INVALID_ARGUMENT),
        ("DIFFLOW_ERR_INVALID_CONFIG", abi::ERR_INVALID_CONFIG),
        ("DIFFLOW_ERR_NOT_IMPLEMENTED", abi::ERR_NOT_IMPLEMENTED),
        ("DIFFLOW_ERR_INVALID_STATE", abi::ERR_INVALID_STATE),
        ("DIFFLOW_ERR_IO", abi::ERR_IO),
        ("DIFFLOW_ERR_INCOMPATIBLE", abi::ERR_INCOMPATIBLE),
        ("DIFFLOW_ERR_PANIC", abi::ERR_PANIC),
    ];
    for (name, value) in numbers {
        let defined =
            header.lines().any(|line| line.split_whitespace().take(3).eq(["#define", name, &value.to_string()]));
        assert!(defined, "{name} {value}");
    }
}
