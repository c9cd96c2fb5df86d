//! What the benches share: devices and random numbers.

use wgpu_attention::Device;

/// The CPU and every adapter. A software adapter is named as what it is: its times say nothing
/// about GPUs.
pub fn devices() -> Vec<(String, Device, bool)> {
    #[allow(unused_mut)]
    let mut devices = vec![("cpu".to_owned(), Device::cpu(), true)];
    #[cfg(feature = "gpu")]
    for adapter in Device::adapters() {
        let is_hardware = adapter.kind.is_hardware();
        let name = if is_hardware { adapter.name.clone() } else { format!("SOFTWARE {}", adapter.name) };
        if let Ok(device) = Device::on_adapter(&adapter, &Default::default()) {
            devices.push((name.replace('/', "-"), device, is_hardware));
        }
    }
    devices
}

/// Reproducible numbers in -1..1.
pub fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}
