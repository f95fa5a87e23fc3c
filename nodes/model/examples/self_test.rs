//! `cargo run --release -p difflow-model --example self_test -- [DEVICE]`: what `difflow doctor --device DEVICE` does, a JSON line for each
//! comparison.

use difflow_model::{Device, ModelError, self_test};

fn main() -> Result<(), ModelError> {
    let device = Device::open(&std::env::args().nth(1).unwrap_or_else(|| "cpu".to_owned()))?;
    if let Err(why) = device.kernels() {
        eprintln!("warning: {device} has no kernels of difflow's: {why}");
    }
    for compared in self_test(device)? {
        let (what, loss, gradient, holds) = (&compared.what, compared.loss, compared.gradient, compared.holds());
        println!("{}", serde_json::json!({ "what": what, "loss": loss, "gradient": gradient, "holds": holds }));
    }
    Ok(())
}
