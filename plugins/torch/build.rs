//! Which libtorch this is compiled against: the version goes into every torch model, and the host compares it with its own.

use std::env;
use std::path::Path;

fn main() {
    // Said by torch-sys, whose `links` key is "tch".
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    let include = Path::new(&lib).join("../include");
    let header = include.join("torch/headeronly/version.h");
    println!("cargo:rerun-if-changed={}", header.display());
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let Some(version) = std::fs::read_to_string(&header).ok().and_then(|text| version(&text)) else {
        println!("cargo::error={} does not say which libtorch this is; set LIBTORCH to its folder", header.display());
        return;
    };
    println!("cargo:rustc-env=DIFFLOW_LIBTORCH={version}");
    // torch-sys takes it from the same place.
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    println!("cargo:rustc-env=DIFFLOW_CXX11_ABI={abi}");
}

fn version(header: &str) -> Option<String> {
    let number = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(name));
        line.map(|rest| rest.trim().to_owned())
    };
    Some(format!("{}.{}.{}", number("MAJOR ")?, number("MINOR ")?, number("PATCH ")?))
}
