//! How much memory of a device is taken.

/// Device memory that tensors and scratch space of one device take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Held by live tensors and scratch space.
    pub in_use: u64,
    /// Kept for reuse.
    pub pooled: u64,
    /// The most that was ever allocated at once, pool included.
    pub peak: u64,
}
