//! A GPU through `wgpu`: opening it, its limits, its pipelines. Memory, recording and
//! readback each have a file here; nothing above this folder touches `wgpu`.

mod adapter;
mod commands;
mod launch;
mod memory;
mod pipeline;
mod promise;
mod readback;
mod recording;
mod scope;
mod shader;
mod share;
mod shared;
mod waiting;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

pub(crate) use crate::device::Work;
use crate::{
    device::{Capabilities, check_variants},
    error::{Error, Result},
};
pub(crate) use adapter::adapters;
pub use adapter::{Adapter, GpuOptions};
pub(crate) use commands::Dispatch;
pub(crate) use launch::Part;
pub(crate) use memory::{Buffer, Pool, View};
pub(crate) use pipeline::Pipeline;
pub(crate) use readback::Download;
pub(crate) use scope::Recorded;
pub(crate) use shader::{Field, Kernel, Params, params};
pub use shader::{Needs, Shader};

/// An open GPU.
pub(crate) struct Gpu {
    /// Tells it from other devices of the same adapter.
    number: u64,
    device: wgpu::Device,
    queue: wgpu::Queue,
    name: String,
    limits: wgpu::Limits,
    capabilities: Capabilities,
    checked: bool,
    pool: Arc<Pool>,
    pipeline_file: Option<pipeline::PipelineFile>,
    pipelines: Mutex<HashMap<String, Arc<Pipeline>>>,
    own: Mutex<recording::Own>,
    /// Bytes uploaded since the last submit.
    uploaded: AtomicU64,
    /// See [`Gpu::signal`].
    signal: OnceLock<wgpu::Buffer>,
    #[cfg(not(target_arch = "wasm32"))]
    waiter: waiting::Waiter,
    /// The first error that no call could return, and why the device was lost.
    late_error: Arc<Mutex<Option<LateError>>>,
}

#[derive(Clone, Debug)]
enum LateError {
    Lost(String),
    Uncaptured(String),
}

impl Gpu {
    pub(crate) async fn open(adapter: &Adapter, options: &GpuOptions) -> Result<Self> {
        check_variants(&options.variants)?;
        let limits = options.limits.clone().unwrap_or_else(|| adapter.raw.limits());
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgpu-attention"),
            required_features: adapter.raw.features() & adapter::wanted_features(),
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let request = adapter.raw.request_device(&descriptor).await;
        let (device, queue) = request
            .map_err(|error| Error::DeviceRequest { adapter: adapter.to_string(), message: error.to_string() })?;
        let gpu = Self::new(device, queue, adapter.to_string(), options);
        // Without a handler of ours, an error that escapes every scope would panic.
        let late = gpu.late_error.clone();
        gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&late).get_or_insert(LateError::Uncaptured(error.to_string()));
        }));
        let late = gpu.late_error.clone();
        gpu.device.set_device_lost_callback(move |reason, message| {
            // Dropping the device is no loss.
            if reason != wgpu::DeviceLostReason::Destroyed {
                *lock(&late) = Some(LateError::Lost(message));
            }
        });
        Ok(gpu)
    }

    fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let info = device.adapter_info();
        let name = format!("{} ({}, shared by the application)", info.name, info.backend);
        Self::new(device, queue, name, &GpuOptions::default())
    }

    fn new(device: wgpu::Device, queue: wgpu::Queue, name: String, options: &GpuOptions) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            name,
            limits: device.limits(),
            capabilities: adapter::capabilities(&device, &options.variants),
            checked: options.checked,
            pipeline_file: options.pipeline_folder.clone().and_then(|at| pipeline::PipelineFile::open(&device, at)),
            pool: Arc::default(),
            pipelines: Mutex::default(),
            own: Mutex::default(),
            uploaded: AtomicU64::new(0),
            signal: OnceLock::new(),
            #[cfg(not(target_arch = "wasm32"))]
            waiter: waiting::Waiter::default(),
            late_error: Arc::default(),
            device,
            queue,
        }
    }

    /// The name, and which of the devices it is that this program has opened.
    pub(crate) fn identity(&self) -> String {
        format!("{self}, device {} of this program", self.number)
    }

    /// The limits that the device was opened with.
    pub(crate) fn limits(&self) -> &wgpu::Limits {
        &self.limits
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Writes the compiled pipelines to the folder of the options, if there is one.
    pub(crate) fn save_pipelines(&self) -> Result<()> {
        self.pipeline_file.as_ref().map_or(Ok(()), pipeline::PipelineFile::save)
    }

    /// Runs `make` and returns what the device has to say against it.
    fn guarded<T>(&self, what: &str, make: impl FnOnce() -> T) -> Result<T> {
        // In a browser errors arrive later, through the handler.
        if cfg!(target_arch = "wasm32") {
            return Ok(make());
        }
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let made = make();
        let mut found = None;
        for scope in scopes.into_iter().rev() {
            // Never waits: outside a browser a scope knows at once what came to it.
            found = found.or(pollster::block_on(scope.pop()));
        }
        self.check_alive()?;
        match found {
            None => Ok(made),
            Some(wgpu::Error::OutOfMemory { source }) => {
                Err(Error::OutOfMemory { requested: None, message: source.to_string() })
            }
            Some(error) => Err(Error::Validation { what: what.to_owned(), message: error.to_string() }),
        }
    }

    /// Returns an error that came after the call that caused it.
    fn check_alive(&self) -> Result<()> {
        let mut late = lock(&self.late_error);
        match &*late {
            None => Ok(()),
            Some(LateError::Lost(message)) => Err(Error::DeviceLost { message: message.clone() }),
            Some(LateError::Uncaptured(message)) => {
                let error = Error::Validation { what: "earlier work".into(), message: message.clone() };
                *late = None;
                Err(error)
            }
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Nobody is left to be told; the next start compiles again.
        let _ = self.save_pipelines();
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.name)
    }
}

/// A panic elsewhere leaves the data whole: each lock guards one plain update.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
