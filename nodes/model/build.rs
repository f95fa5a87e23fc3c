//! Compiles the C++ shim against the libtorch that torch-sys links.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(torch) = env::var_os("LIBTORCH").map(PathBuf::from) else {
        println!(
            "cargo::error=LIBTORCH is not set: it names the directory of libtorch 2.11 (make setup puts it there)"
        );
        return;
    };
    // A cargo configuration may give it relative to the workspace; build scripts run in the crate.
    let torch = torch.canonicalize().unwrap_or(torch);
    let include = torch.join("include");
    let header = include.join("torch/headeronly/version.h");
    println!("cargo:rerun-if-changed={}", header.display());
    let Some(version) = std::fs::read_to_string(&header).ok().and_then(|text| version(&text)) else {
        println!("cargo::error={} does not say which libtorch this is; run `make setup`", header.display());
        return;
    };
    println!("cargo:rustc-env=DIFFLOW_LIBTORCH={version}");
    if !include.join("ATen/Parallel.h").exists() {
        println!("cargo::error={} has no libtorch headers; run `make setup`", include.display());
        return;
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(1)
        .warnings(false)
        .flag("-fopenmp")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        // Gloo is in libtorch, but its headers are not: these hold the names that libtorch's own mention.
        .define("USE_C10D_GLOO", None)
        .include("shim/names")
        .files(["shim/shim.cpp", "shim/device.cpp", "shim/collective.cpp", "shim/graph.cpp"])
        .compile("difflow_shim");
    println!("cargo:rustc-link-search=native={}", torch.join("lib").display());
    for library in ["torch_cpu", "c10", "gomp"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
}

/// The version that libtorch's headers say, compared with that of every torch model of a plug-in.
fn version(header: &str) -> Option<String> {
    let number = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(name));
        line.map(|rest| rest.trim().to_owned())
    };
    Some(format!("{}.{}.{}", number("MAJOR ")?, number("MINOR ")?, number("PATCH ")?))
}
