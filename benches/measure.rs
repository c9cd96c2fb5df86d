//! How long a call takes on a device.

use std::time::Instant;

use wgpu_attention::{Device, Result, Tensor};

/// The time of one call, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The median over recordings of several calls each.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// Whether the device's own clock said so; else it is from the submit to the end of a recording.
    pub by_device: bool,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Recordings.
    pub samples: usize,
    /// Seconds that one of them should take, at least one call.
    pub seconds: f64,
}

impl Effort {
    /// Enough for figures to be kept, or to see that everything runs.
    pub fn new(is_quick: bool) -> Self {
        if is_quick { Self { samples: 1, seconds: 0.0 } } else { Self { samples: 5, seconds: 0.02 } }
    }
}

/// Times a call.
///
/// # Errors
/// Those of the call.
pub fn time(device: &Device, run: &dyn Fn() -> Result<Tensor>, effort: Effort) -> Result<Timing> {
    // Compiles the shaders.
    run()?;
    device.wait()?;
    let calls_of = |first: (f64, bool)| (effort.seconds / first.0.max(1e-6)).clamp(1.0, 100.0) as usize;
    let mut first = sample(device, run, 1)?;
    // A GPU that waited for a compiler runs slowly until it has had work for a while.
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < 4.0 * effort.seconds {
        first = sample(device, run, calls_of(first))?;
    }
    let calls = calls_of(first);
    // What takes long is measured less often.
    let samples = if first.0 > 0.5 { 1 } else { effort.samples };
    let samples = (0..samples).map(|_| sample(device, run, calls)).collect::<Result<Vec<_>>>()?;
    let by_device = samples.iter().all(|(_, by_device)| *by_device);
    let mut seconds: Vec<f64> = samples.into_iter().map(|(seconds, _)| seconds).collect();
    seconds.sort_by(f64::total_cmp);
    Ok(Timing { median: seconds[seconds.len() / 2], least: seconds[0], by_device })
}

/// Seconds of one of several calls, and whether the device said so.
fn sample(device: &Device, run: &dyn Fn() -> Result<Tensor>, calls: usize) -> Result<(f64, bool)> {
    let start = Instant::now();
    let ((), recording) = device.record(|| (0..calls).try_for_each(|_| run().map(drop)))?;
    // On the CPU the calls have run by now.
    let start = if recording.is_empty() { start } else { Instant::now() };
    let by_device = recording.time()?;
    let seconds = by_device.unwrap_or_else(|| start.elapsed()).as_secs_f64();
    Ok((seconds / calls as f64, by_device.is_some()))
}
