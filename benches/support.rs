//! What the benches share: devices, random numbers, networks of random parameters; what `--bench gpu`
//! and the example `tune` measure, and how.

#[cfg(feature = "gpu")]
pub mod cases;
#[cfg(feature = "gpu")]
pub mod measure;
#[cfg(feature = "gpu")]
pub mod peaks;

use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::cmanp::{Cmanp, Config},
};

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

/// The size of the paper's Gaussian-process experiments: 1.3 million parameters.
pub fn full_size_cmanp(device: &Device) -> Cmanp {
    cmanp(device, [64, 128, 128, 6])
}

/// The size of a network for one series.
pub fn small_cmanp(device: &Device) -> Cmanp {
    cmanp(device, [16, 32, 16, 2])
}

fn cmanp(device: &Device, [d_model, dim_feedforward, n_latents, n_layers]: [usize; 4]) -> Cmanp {
    let config = Config {
        dim_x: 1,
        dim_y: 1,
        d_model,
        dim_feedforward,
        n_heads: 4,
        n_latents,
        n_latents_per_layer: Some(n_latents),
        n_layers,
        emb_depth: 4,
        bound_std: true,
        covariance: None,
    };
    let build = |checkpoint: &Checkpoint| Cmanp::new(device, &config, checkpoint);
    build(&Checkpoint::random(1, build).unwrap()).unwrap()
}

/// The memory of this process that is in RAM, where the system says.
pub fn resident_bytes() -> Option<u64> {
    of_status("VmRSS:")
}

/// The most that it has been.
pub fn peak_resident_bytes() -> Option<u64> {
    of_status("VmHWM:")
}

fn of_status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}
