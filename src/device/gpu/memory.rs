//! Buffers, reused through a pool in queue order, and counted.

use std::sync::{Arc, atomic::Ordering};

use super::{buffer::Buffer, lock::lock, open::Gpu, promise::Promise, scope};
use crate::{
    device::Memory,
    error::{Error, Result, check_limit},
};

/// An upload of so many bytes goes through a staging buffer of our own: no room for that is an
/// error, no room for the one that the queue makes loses the device.
const LARGE_UPLOAD: usize = 1 << 20;

/// Bytes that are uploaded without a submit, at most.
pub(super) const MAX_UPLOADED: u64 = 32 << 20;

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
        let Some(recording) = scope::promise(self) else {
            // Commands that are recorded already may use it.
            let own = lock(&self.own);
            let (reused, promise) = (self.pool.reuse(size, false), own.promise.clone());
            drop(own);
            let is_reused = reused.is_some();
            let buffer = self.buffer(reused, size, len, None)?;
            return Ok(if is_reused { buffer.reused_in(promise) } else { buffer });
        };
        // It runs whenever the application pleases, so nothing else may use its buffers.
        let reused = self.pool.reuse_within(&recording, size).or_else(|| self.pool.reuse(size, true));
        self.buffer(reused, size, len, Some(recording))
    }

    /// A buffer with these numbers. They are there at once, whatever is being recorded.
    pub(crate) fn upload(&self, data: &[f32]) -> Result<Buffer> {
        self.upload_words(bytemuck::cast_slice(data))
    }

    /// [`Gpu::upload`] of words of 32 bits that are not numbers of f32.
    pub(crate) fn upload_words(&self, data: &[u32]) -> Result<Buffer> {
        let size = self.size_of(data.len())?;
        // The write overtakes recorded commands, which may still read what the buffer held.
        let mut reused = self.pool.reuse(size, true);
        if reused.is_none() && scope::promise(self).is_none() && self.pool.holds(size) {
            // Those hear of a refusal who need the work.
            let _ = self.submit();
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
        // A program that uploads on and on, and computes nothing, is made to wait as well.
        if self.uploaded.load(Ordering::Relaxed) > MAX_UPLOADED {
            // Those hear of a refusal who need the work.
            let _ = self.submit();
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
        check_limit("buffer size of the device in bytes", requested, allowed)?;
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
                (raw, self.pool.add_new(size))
            }
        };
        Ok(Buffer::new(raw, len, Some((self.pool.clone(), generation)), promise))
    }

    /// A buffer of any kind. Where there is no room, once more without what the pool keeps.
    pub(super) fn create_buffer(&self, descriptor: &wgpu::BufferDescriptor<'_>) -> Result<wgpu::Buffer> {
        match self.try_create_buffer(descriptor) {
            Err(Error::OutOfMemory { .. }) => {
                // Those hear of a refusal who need the work.
                let _ = self.submit();
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
        self.pool.memory()
    }

    /// Gives the pooled memory back to the driver, and the pipelines of the user's snippets.
    pub(crate) fn trim(&self) {
        self.pool.clear();
        lock(&self.pipelines).forget_snippets();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Backend, Device, GpuOptions};

    fn gpus() -> Vec<Arc<Gpu>> {
        let open = |adapter| match Device::on_adapter(&adapter, &GpuOptions::default()).unwrap().0 {
            Backend::Gpu(gpu) => Some(gpu),
            Backend::Cpu(_) => None,
        };
        Device::adapters().into_iter().filter_map(open).collect()
    }

    /// A thread was in an operation while another encoded what was recorded: its result was overwritten when that ran.
    #[test]
    fn memory_that_encoded_commands_use_is_not_written() {
        for gpu in gpus() {
            let first = gpu.allocate(100).unwrap();
            gpu.zero(&first, 0, 100).unwrap();
            let raw = first.raw().clone();
            drop(first);
            let second = gpu.allocate(100).unwrap();
            assert_eq!(second.raw(), &raw);
            // What another thread may do before this one goes on.
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            gpu.encode_into(&mut encoder).unwrap();
            assert!(matches!(gpu.zero(&second, 0, 100), Err(Error::NotComputed { .. })));
            gpu.queue.submit([encoder.finish()]);
            gpu.zero(&second, 0, 100).unwrap();
        }
    }

    /// The queue kept what it copied of each until something was computed.
    #[test]
    fn uploads_alone_do_not_pile_up() {
        let numbers = vec![1.0; 200_000];
        for gpu in gpus() {
            // Kept: one that is freed makes room for the next by a submit.
            let mut kept = Vec::new();
            for _ in 0..100 {
                kept.push(gpu.upload(&numbers).unwrap());
                assert!(gpu.uploaded.load(Ordering::Relaxed) <= MAX_UPLOADED);
            }
        }
    }

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
