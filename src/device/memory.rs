//! How much memory of a device is taken.

/// Device memory that tensors and scratch space of one device take, in bytes.
///
/// ```
/// use wgpu_attention::{Device, Tensor};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let x = Tensor::new(&device, &[1000], &[0.0; 1000])?;
/// let memory = device.memory();
/// assert!(device == Device::cpu() || (memory.in_use >= 4000 && memory.peak >= memory.in_use));
/// drop(x);
/// device.trim(); // what was kept for reuse goes back to the driver
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Held by live tensors and scratch space.
    pub in_use: u64,
    /// Kept for reuse.
    pub pooled: u64,
    /// The most that was ever allocated at once, pool included.
    pub peak: u64,
}
