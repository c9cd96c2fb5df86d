//! Buffers, reused through a pool in queue order, and counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
};

use super::{Gpu, lock, promise::Promise, scope};
use crate::{
    device::Memory,
    error::{Error, Result},
};

/// An upload of so many bytes goes through a staging buffer of our own: no room for that is an
/// error, no room for the one that the queue makes loses the device.
const LARGE_UPLOAD: usize = 1 << 20;

/// Freed buffers by size, and the counts.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<PoolState>);

#[derive(Debug, Default)]
struct PoolState {
    free: HashMap<u64, Vec<Freed>>,
    memory: Memory,
    /// Buffers of an earlier generation may be in use by an encoder that the application
    /// has not submitted yet, so they are dropped instead of reused.
    generation: u64,
    /// The number of the device's own recording, which changes when that is submitted.
    recording: u64,
}

#[derive(Debug)]
struct Freed {
    raw: wgpu::Buffer,
    /// The device's own recording that may use it; none if all commands that do are submitted.
    used_by: Option<u64>,
}

impl Pool {
    /// A buffer of this size and its generation; if it must be idle, one that no recorded command
    /// uses.
    fn reuse(&self, size: u64, idle: bool) -> Option<(wgpu::Buffer, u64)> {
        let mut state = lock(&self.0);
        let recording = state.recording;
        let free = state.free.get_mut(&size)?;
        let is_idle = |freed: &Freed| freed.used_by.is_none_or(|number| number < recording);
        let index = if idle { free.iter().position(is_idle)? } else { free.len().checked_sub(1)? };
        let raw = free.remove(index).raw;
        state.memory.pooled -= size;
        state.memory.in_use += size;
        Some((raw, state.generation))
    }

    /// A buffer that a recording of the application's freed.
    fn reuse_within(&self, recording: &Promise, size: u64) -> Option<(wgpu::Buffer, u64)> {
        let raw = recording.reuse(size)?;
        let mut state = lock(&self.0);
        state.memory.pooled -= size;
        state.memory.in_use += size;
        Some((raw, state.generation))
    }

    fn holds(&self, size: u64) -> bool {
        lock(&self.0).free.get(&size).is_some_and(|free| !free.is_empty())
    }

    /// Takes in idle buffers that are counted as pooled already.
    pub(super) fn add_idle(&self, buffers: impl IntoIterator<Item = wgpu::Buffer>) {
        let mut state = lock(&self.0);
        for raw in buffers {
            state.free.entry(raw.size()).or_default().push(Freed { raw, used_by: None });
        }
    }

    /// The device's own recording is submitted, or was empty.
    pub(super) fn next_recording(&self) {
        lock(&self.0).recording += 1;
    }

    /// Gives what is free back to the driver.
    fn clear(&self) {
        let mut state = lock(&self.0);
        state.memory.pooled -= state.free.drain().map(|(size, free)| size * free.len() as u64).sum::<u64>();
    }

    /// Lets no buffer that exists now be reused.
    pub(super) fn retire(&self) {
        self.clear();
        lock(&self.0).generation += 1;
    }
}

/// Device memory of one tensor, shared by its clones. Returns to the pool when the last is
/// dropped: work recorded later runs later, so it may overwrite it.
#[derive(Clone, Debug)]
pub(crate) struct Buffer(Arc<Block>);

#[derive(Debug)]
struct Block {
    raw: wgpu::Buffer,
    /// Numbers that were asked for; the buffer may be longer.
    len: usize,
    /// Where it goes when dropped; none for a buffer of the application's.
    pool: Option<(Arc<Pool>, u64)>,
    /// The recording that computes it, until that is submitted.
    promise: Mutex<Option<Arc<Promise>>>,
}

/// A part of a buffer, in bytes; the offset is aligned as bindings must be.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub buffer: &'a Buffer,
    pub offset: u64,
    pub size: u64,
}

/// How a buffer stands to a recording.
pub(super) enum Standing {
    /// The recording computes it.
    Ours,
    /// It is there.
    Ready,
    /// Another recording computes it.
    Theirs(Arc<Promise>),
}

impl Buffer {
    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        &self.0.raw
    }

    /// A buffer of the application's.
    pub(crate) fn borrowed(raw: wgpu::Buffer, len: usize) -> Self {
        Self(Arc::new(Block { raw, len, pool: None, promise: Mutex::new(None) }))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len
    }

    /// The part that holds elements `first..end`, and where the first one is in it. Bindings
    /// must begin at multiples of 256 bytes, so it may begin a little earlier.
    pub(crate) fn elements(&self, first: usize, end: usize) -> (View<'_>, u32) {
        let offset = first as u64 * 4 / 256 * 256;
        let size = (end as u64 * 4 - offset).max(4);
        (View { buffer: self, offset, size }, (first as u64 - offset / 4) as u32)
    }

    pub(super) fn standing(&self, recording: &Arc<Promise>) -> Standing {
        let mut promise = lock(&self.0.promise);
        match &*promise {
            None => Standing::Ready,
            Some(promise) if Arc::ptr_eq(promise, recording) => Standing::Ours,
            Some(other) if other.is_kept() => {
                *promise = None;
                Standing::Ready
            }
            Some(other) => Standing::Theirs(other.clone()),
        }
    }

    /// The recording that computes it, if it is not there yet.
    pub(super) fn promise(&self) -> Option<Arc<Promise>> {
        lock(&self.0.promise).clone().filter(|promise| !promise.is_kept())
    }

    /// From now on it is this recording that computes it.
    pub(super) fn promised_by(&self, recording: &Arc<Promise>) {
        *lock(&self.0.promise) = Some(recording.clone());
    }

    /// Whether it may be copied from; a buffer of the application's need not.
    pub(super) fn check_copied(&self, what: &'static str) -> Result<()> {
        let usage = self.raw().usage();
        if usage.contains(wgpu::BufferUsages::COPY_SRC) {
            return Ok(());
        }
        let allowed = "one that contains COPY_SRC, given to Tensor::from_buffer".into();
        Err(Error::Argument { op: what, name: "buffer usage", found: format!("{usage:?}"), allowed })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some((pool, generation)) = self.pool.take() else { return };
        let size = self.raw.size();
        let mut raw = Some(self.raw.clone());
        // A recording that has not run keeps its buffers to itself.
        if let Some(promise) = lock(&self.promise).take() {
            raw = promise.free(self.raw.clone());
        }
        let mut state = lock(&pool.0);
        state.memory.in_use -= size;
        match raw {
            None => state.memory.pooled += size,
            Some(raw) if generation == state.generation => {
                state.memory.pooled += size;
                let used_by = Some(state.recording);
                state.free.entry(size).or_default().push(Freed { raw, used_by });
            }
            Some(_) => {}
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
        let size = self.size_of(len)?;
        let promise = scope::promise(self);
        let reused = match &promise {
            None => self.pool.reuse(size, false),
            // It runs whenever the application pleases, so nothing else may use its buffers.
            Some(recording) => self.pool.reuse_within(recording, size).or_else(|| self.pool.reuse(size, true)),
        };
        self.buffer(reused, size, len, promise)
    }

    /// A buffer with these numbers. They are there at once, whatever is being recorded.
    pub(crate) fn upload(&self, data: &[f32]) -> Result<Buffer> {
        let size = self.size_of(data.len())?;
        // The write overtakes recorded commands, which may still read what the buffer held.
        let mut reused = self.pool.reuse(size, true);
        if reused.is_none() && scope::promise(self).is_none() && self.pool.holds(size) {
            self.submit()?;
            reused = self.pool.reuse(size, true);
        }
        let buffer = self.buffer(reused, size, data.len(), None)?;
        let bytes: &[u8] = bytemuck::cast_slice(data);
        self.uploaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if bytes.len() < LARGE_UPLOAD {
            self.guarded("an upload", || self.queue.write_buffer(buffer.raw(), 0, bytes))?;
        } else {
            self.upload_staged(&buffer, bytes)?;
        }
        Ok(buffer)
    }

    fn upload_staged(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        let staging = self.create_buffer(&wgpu::BufferDescriptor {
            label: Some("upload"),
            size,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        })?;
        let refused =
            |error: wgpu::MapRangeError| Error::Validation { what: "an upload".into(), message: error.to_string() };
        staging.slice(..).get_mapped_range_mut().map_err(refused)?.copy_from_slice(bytes);
        staging.unmap();
        self.guarded("an upload", || {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&staging, 0, buffer.raw(), 0, size);
            self.queue.submit([encoder.finish()]);
        })
    }

    /// The size of the buffer that holds so many numbers.
    fn size_of(&self, len: usize) -> Result<u64> {
        let requested = (len as u64).saturating_mul(4);
        let allowed = self.limits.max_buffer_size;
        if requested > allowed {
            return Err(Error::LimitExceeded { limit: "buffer size of the device in bytes", requested, allowed });
        }
        Ok(size_class(requested).min(allowed - allowed % 4))
    }

    /// Wraps a buffer of the pool, or a new one.
    fn buffer(
        &self,
        reused: Option<(wgpu::Buffer, u64)>,
        size: u64,
        len: usize,
        promise: Option<Arc<Promise>>,
    ) -> Result<Buffer> {
        let (raw, generation) = match reused {
            Some(reused) => reused,
            None => {
                let raw = self.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })?;
                let mut state = lock(&self.pool.0);
                state.memory.in_use += size;
                state.memory.peak = state.memory.peak.max(state.memory.in_use + state.memory.pooled);
                (raw, state.generation)
            }
        };
        let pool = Some((self.pool.clone(), generation));
        Ok(Buffer(Arc::new(Block { raw, len, pool, promise: Mutex::new(promise) })))
    }

    /// A buffer of any kind. Where there is no room, once more without what the pool keeps.
    pub(super) fn create_buffer(&self, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<wgpu::Buffer> {
        match self.try_create_buffer(descriptor) {
            Err(Error::OutOfMemory { .. }) => {
                self.submit()?;
                self.trim();
                #[cfg(not(target_arch = "wasm32"))]
                self.wait()?;
                self.try_create_buffer(descriptor)
            }
            created => created,
        }
    }

    /// A buffer of any kind, if there is room at once.
    pub(super) fn try_create_buffer(&self, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<wgpu::Buffer> {
        let created = self.guarded("a buffer", || self.device.create_buffer(descriptor));
        created.map_err(|error| match error {
            Error::OutOfMemory { message, .. } => Error::OutOfMemory { requested: Some(descriptor.size), message },
            other => other,
        })
    }

    pub(crate) fn memory(&self) -> Memory {
        lock(&self.pool.0).memory
    }

    /// Gives the pooled memory back to the driver.
    pub(crate) fn trim(&self) {
        self.pool.clear();
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
