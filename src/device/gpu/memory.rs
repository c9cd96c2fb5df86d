//! Buffers, reused through a pool in queue order, and counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::{Gpu, lock};
use crate::{
    device::Memory,
    error::{Error, Result},
};

/// Freed buffers by size, and the counts.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<PoolState>);

#[derive(Debug, Default)]
struct PoolState {
    free: HashMap<u64, Vec<wgpu::Buffer>>,
    memory: Memory,
    /// Buffers of an earlier generation may be in use by an encoder that the application
    /// has not submitted yet, so they are dropped instead of reused.
    generation: u64,
}

impl PoolState {
    fn clear(&mut self) {
        self.free.clear();
        self.memory.pooled = 0;
    }
}

/// Device memory of one tensor. Returns to the pool when dropped: work recorded later runs
/// later, so it may overwrite it.
#[derive(Debug)]
pub(crate) struct Buffer {
    raw: wgpu::Buffer,
    /// Numbers that were asked for; the buffer may be longer.
    len: usize,
    /// Where it goes when dropped; none for a buffer of the application's.
    pool: Option<(Arc<Pool>, u64)>,
}

/// A part of a buffer, in bytes; the offset is aligned as bindings must be.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub buffer: &'a Buffer,
    pub offset: u64,
    pub size: u64,
}

impl Buffer {
    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    pub(crate) fn borrowed(raw: wgpu::Buffer, len: usize) -> Self {
        Self { raw, len, pool: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The part that holds elements `first..end`, and where the first one is in it. Bindings
    /// must begin at multiples of 256 bytes, so it may begin a little earlier.
    pub(crate) fn elements(&self, first: usize, end: usize) -> (View<'_>, u32) {
        let offset = first as u64 * 4 / 256 * 256;
        let size = (end as u64 * 4 - offset).max(4);
        (View { buffer: self, offset, size }, (first as u64 - offset / 4) as u32)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some((pool, generation)) = self.pool.take() {
            let mut state = lock(&pool.0);
            let size = self.raw.size();
            state.memory.in_use -= size;
            if generation == state.generation {
                state.memory.pooled += size;
                state.free.entry(size).or_default().push(self.raw.clone());
            }
        }
    }
}

/// Rounds up so that buffers of similar size can stand in for each other: four sizes an
/// octave, at least 256 bytes.
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let step = (bytes.next_power_of_two() / 8).max(256);
    bytes.next_multiple_of(step)
}

impl Gpu {
    /// A buffer for `len` numbers, holding anything.
    pub(crate) fn allocate(&self, len: usize) -> Result<Buffer> {
        self.acquire(len).map(|(buffer, _)| buffer)
    }

    /// A buffer with these numbers.
    pub(crate) fn upload(&self, data: &[f32]) -> Result<Buffer> {
        let (buffer, reused) = self.acquire(data.len())?;
        if reused {
            // Writes overtake work that is recorded but not submitted, which may still read
            // what the buffer held.
            self.submit()?;
        }
        let bytes = bytemuck::cast_slice(data);
        self.guarded("an upload", || self.queue.write_buffer(&buffer.raw, 0, bytes))?;
        Ok(buffer)
    }

    /// A buffer, and whether it was in use before.
    fn acquire(&self, len: usize) -> Result<(Buffer, bool)> {
        let bytes = len as u64 * 4;
        let allowed = self.limits.max_buffer_size;
        if bytes > allowed {
            return Err(Error::LimitExceeded {
                limit: "buffer size of the device in bytes",
                requested: bytes,
                allowed,
            });
        }
        let size = size_class(bytes).min(allowed - allowed % 4);
        let mut state = lock(&self.pool.0);
        let generation = state.generation;
        let own = |raw| Buffer { raw, len, pool: Some((self.pool.clone(), generation)) };
        if let Some(raw) = state.free.get_mut(&size).and_then(Vec::pop) {
            state.memory.pooled -= size;
            state.memory.in_use += size;
            return Ok((own(raw), true));
        }
        drop(state);
        let create = || {
            self.guarded("a buffer", || {
                self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })
        };
        let raw = match create() {
            // The pool may hold what is missing.
            Err(Error::OutOfMemory { .. }) => {
                self.submit()?;
                self.trim();
                #[cfg(not(target_arch = "wasm32"))]
                self.wait()?;
                create()
            }
            other => other,
        };
        let raw = raw.map_err(|error| match error {
            Error::OutOfMemory { message, .. } => Error::OutOfMemory { requested: size, message },
            other => other,
        })?;
        let mut state = lock(&self.pool.0);
        state.memory.in_use += size;
        state.memory.peak = state.memory.peak.max(state.memory.in_use + state.memory.pooled);
        Ok((own(raw), false))
    }

    pub(crate) fn memory(&self) -> Memory {
        lock(&self.pool.0).memory
    }

    /// Gives the pooled memory back to the driver.
    pub(crate) fn trim(&self) {
        lock(&self.pool.0).clear();
    }

    /// Lets no buffer that exists now be reused.
    pub(super) fn retire_pool(&self) {
        let mut state = lock(&self.pool.0);
        state.clear();
        state.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn size_classes_waste_at_most_a_quarter() {
        assert_eq!(size_class(0), 256);
        assert_eq!(size_class(257), 512);
        for bytes in [1000u64, 5000, 65_537, 1 << 20, (1 << 30) + 1] {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(256));
            assert!(class as f64 <= 1.25 * bytes as f64 + 256.0, "{bytes} -> {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
