//! `cargo run --release -p difflow-model --example self_test -- DEVICE`: what `difflow doctor --device` shows.

use difflow_model::{Device, ModelError, self_test};

fn main() -> Result<(), ModelError> {
    let device = Device::open(&std::env::args().nth(1).unwrap_or_else(|| "cpu".to_owned()))?;
    println!("kernels: {:?}", device.kernels());
    let found = self_test(device)?;
    for compared in &found {
        let sign = if compared.holds() { "ok  " } else { "FAIL" };
        println!("{sign} loss {:.1e}, gradient {:.1e}: {}", compared.loss, compared.gradient, compared.what);
    }
    Ok(())
}
