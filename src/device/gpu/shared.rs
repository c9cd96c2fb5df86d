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

    /// Refuses a buffer of another device, before work that uses it is recorded. Buffers of
    /// another `wgpu::Instance` are known by number only, so one that has the number and the size
    /// of a buffer of ours is taken for that.
    pub(crate) fn check_buffer(&self, buffer: &wgpu::Buffer) -> Result<()> {
        let size = buffer.size() / 4 * 4;
        if size == 0 {
            return Ok(());
        }
        let refused = |message: String| Error::Argument {
            op: "Tensor::from_buffer",
            name: "buffer",
            found: format!("one that this device does not know ({message})"),
            allowed: format!("a buffer of the wgpu::Device of {self}"),
        };
        // The last bytes, so that the size is looked at; bindings begin at aligned offsets.
        let bind = |offset: u64, size: u64| {
            let layout = self.storage_layout();
            let bound = wgpu::BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(size) };
            // wgpu panics over a number that it does not know.
            let made = std::panic::catch_unwind(AssertUnwindSafe(|| {
                self.guarded("the buffer", || {
                    self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                        label: Some("from_buffer"),
                        layout: &layout,
                        entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(bound) }],
                    })
                })
            }));
            made.unwrap_or_else(|_| Err(refused("wgpu has none of its number".into())))
        };
        let offset = (size - 1) / 256 * 256;
        bind(offset, size - offset).map_err(|error| match error {
            Error::Validation { message, .. } => refused(message),
            other => other,
        })?;
        let longer = bind(offset, size - offset + 4).is_ok();
        if longer && cfg!(not(target_arch = "wasm32")) { Err(refused("another size".into())) } else { Ok(()) }
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
