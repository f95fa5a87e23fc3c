//! Where the program of an installation finds libtorch: in PyTorch's package, beside difflow's in site-packages.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,$ORIGIN/../../torch/lib");
}
