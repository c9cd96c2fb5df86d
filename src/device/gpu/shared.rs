//! Devices of the application's: which are the same, and which buffers are theirs.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, Weak},
};

use super::{lock::lock, open::Gpu};
use crate::error::{Error, Result};

type Shared = Mutex<Vec<Weak<Gpu>>>;

#[cfg(not(target_arch = "wasm32"))]
fn with_shared<T>(work: impl FnOnce(&Shared) -> T) -> T {
    static SHARED: Shared = Mutex::new(Vec::new());
    work(&SHARED)
}

/// A device of a browser stays on its thread.
#[cfg(target_arch = "wasm32")]
fn with_shared<T>(work: impl FnOnce(&Shared) -> T) -> T {
    thread_local! { static SHARED: Shared = const { Mutex::new(Vec::new()) }; }
    SHARED.with(work)
}

/// Whether two handles are of one device. Those of different instances may compare equal, since
/// they are compared by number.
fn is_same(a: &wgpu::Device, b: &wgpu::Device) -> bool {
    if cfg!(target_arch = "wasm32") || a != b {
        return a == b;
    }
    // An error of `b` comes to the scope of `a` that is within one of `b` only if they are one.
    let outer = b.push_error_scope(wgpu::ErrorFilter::Validation);
    let inner = a.push_error_scope(wgpu::ErrorFilter::Validation);
    let usage = wgpu::BufferUsages::empty();
    let refused = wgpu::BufferDescriptor { label: Some("which device"), size: 4, usage, mapped_at_creation: false };
    drop(b.create_buffer(&refused));
    let error = pollster::block_on(inner.pop());
    drop(outer);
    error.is_some()
}

impl Gpu {
    /// One for each device of the application's, however often it is given: so tensors, pool and
    /// pipelines are shared.
    pub(crate) fn shared(device: wgpu::Device, queue: wgpu::Queue) -> Arc<Self> {
        with_shared(|shared| {
            let mut shared = lock(shared);
            shared.retain(|gpu| gpu.strong_count() > 0);
            if let Some(gpu) = shared.iter().filter_map(Weak::upgrade).find(|gpu| is_same(&gpu.device, &device)) {
                return gpu;
            }
            let gpu = Arc::new(Self::from_wgpu(device, queue));
            shared.push(Arc::downgrade(&gpu));
            gpu
        })
    }

    /// Refuses a buffer of another device, before work that uses it is recorded. In a browser that
    /// comes out when the work is submitted.
    pub(crate) fn check_buffer(&self, buffer: &wgpu::Buffer) -> Result<()> {
        let size = buffer.size() / 4 * 4;
        if size == 0 || cfg!(target_arch = "wasm32") {
            return Ok(());
        }
        let allowed = format!("one of the wgpu::Device of {self}, not mapped");
        let refused = |found: String| Error::argument("Tensor::from_buffer", "buffer", found, &allowed);
        let layout = self.storage_layout();
        let bound = wgpu::BufferBinding { buffer, offset: 0, size: wgpu::BufferSize::new(size.min(256)) };
        let bind = || {
            self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("from_buffer"),
                layout: &layout,
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(bound) }],
            })
        };
        match self.guarded_from_panics(bind) {
            Some(Ok(_)) => {}
            Some(Err(Error::Validation { message, .. })) => {
                return Err(refused(format!("one that it refuses: {message}")));
            }
            Some(Err(other)) => return Err(other),
            None => return Err(refused("unknown to it".into())),
        }
        // A device knows a buffer by number, and that of another instance may have the number of
        // one of ours. Errors of a buffer go to the device that made it, so one is provoked: it
        // cannot be mapped. Only where it is mapped already is that no error.
        let provoke = || {
            buffer.map_async(wgpu::MapMode::Read, .., |_| ());
        };
        // One thread at a time, since for the moment the buffer counts as mapped.
        with_shared(|shared| {
            let _alone = lock(shared);
            match self.guarded_from_panics(provoke) {
                Some(Err(Error::Validation { .. })) => {
                    // Refused as well, but no longer does it count as mapped.
                    let _ = self.guarded("unmapping", || buffer.unmap());
                    Ok(())
                }
                Some(Err(other)) => Err(other),
                Some(Ok(())) | None => Err(refused("one of another device, or mapped".into())),
            }
        })
    }

    /// [`Gpu::guarded`]; none where `wgpu` panics, over a number that it does not know or an error
    /// that goes to a device without a handler.
    fn guarded_from_panics<T>(&self, make: impl FnOnce() -> T) -> Option<Result<T>> {
        std::panic::catch_unwind(AssertUnwindSafe(|| self.guarded("the buffer", make))).ok()
    }

    fn storage_layout(&self) -> wgpu::BindGroupLayout {
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("from_buffer"),
            entries: &[wgpu::BindGroupLayoutEntry {
                binding: 0,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: true },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            }],
        })
    }
}
