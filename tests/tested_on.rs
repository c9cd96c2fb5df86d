//! Says at the end of a test run on which devices it ran; no test of its own. Cargo runs test
//! binaries in the order of their names and shows what one without a harness prints.

mod support;

fn main() {
    // Tools list the tests of a binary before they run any.
    if std::env::args().any(|arg| arg == "--list") {
        return;
    }
    let devices: Vec<String> = support::all_devices().into_iter().map(|(name, _)| name).collect();
    println!("\ntested on: {}", devices.join("; "));
    if !has_matrix_units() {
        println!("no adapter has matrix units: what runs on them was not tested");
    }
    if !has_hardware() {
        println!("NO HARDWARE GPU was tested{}", if devices.len() == 1 { ": there is no adapter" } else { "" });
    }
}

#[cfg(feature = "gpu")]
fn has_hardware() -> bool {
    wgpu_attention::Device::adapters().iter().any(|adapter| adapter.kind.is_hardware())
}

#[cfg(not(feature = "gpu"))]
fn has_hardware() -> bool {
    false
}

#[cfg(feature = "gpu")]
fn has_matrix_units() -> bool {
    !support::matrix_units().is_empty()
}

#[cfg(not(feature = "gpu"))]
fn has_matrix_units() -> bool {
    false
}
