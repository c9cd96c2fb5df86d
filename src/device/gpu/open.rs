//! An open GPU: what it is made of, and the errors that it has to tell.

#[cfg(not(target_arch = "wasm32"))]
use std::sync::mpsc;
use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

#[cfg(not(target_arch = "wasm32"))]
use futures_channel::oneshot;

use super::{
    adapter::{self, Adapter, GpuOptions},
    buffer::Pool,
    lock::lock,
    own::Own,
    pipeline::{PipelineFile, Pipelines},
};
use crate::{
    device::{Capabilities, variants::check_variants},
    error::{Error, Result},
};

/// An open GPU.
pub(crate) struct Gpu {
    /// Tells it from other devices of the same adapter.
    pub(super) number: u64,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) name: String,
    pub(super) limits: wgpu::Limits,
    pub(super) capabilities: Capabilities,
    pub(super) checked: bool,
    /// Whether the application made the device, and has its callbacks.
    pub(super) is_shared: bool,
    pub(super) pool: Arc<Pool>,
    pub(super) pipeline_file: Option<PipelineFile>,
    pub(super) pipelines: Mutex<Pipelines>,
    pub(super) own: Mutex<Own>,
    /// Bytes uploaded since the last submit.
    pub(super) uploaded: AtomicU64,
    /// See [`Gpu::signal`].
    pub(super) signal: OnceLock<wgpu::Buffer>,
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) waiter: Waiter,
    /// The first error that no call could return, and why the device was lost.
    pub(super) late_error: Arc<Mutex<Option<LateError>>>,
}

#[derive(Clone, Debug)]
pub(super) enum LateError {
    Lost(String),
    Uncaptured(String),
}

/// A wait for a submit, or for all of them, that somebody awaits.
#[cfg(not(target_arch = "wasm32"))]
pub(super) type Wait = (Option<wgpu::SubmissionIndex>, oneshot::Sender<Result<()>>);

/// The way to the thread that waits, once there is one. It ends with the device.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Default)]
pub(super) struct Waiter(pub Mutex<Option<mpsc::Sender<Wait>>>);

impl Gpu {
    pub(crate) async fn open(adapter: &Adapter, options: &GpuOptions) -> Result<Self> {
        let variants = options.variants_on(&adapter.raw.get_info())?;
        check_variants(&variants)?;
        let options = &GpuOptions { variants, ..options.clone() };
        let limits = options.limits.clone().unwrap_or_else(|| adapter.raw.limits());
        let alignment = limits.min_storage_buffer_offset_alignment;
        if alignment > 256 {
            let limit = "alignment of storage buffers";
            return Err(Error::LimitExceeded { limit, requested: alignment.into(), allowed: 256 });
        }
        let mut features = adapter.raw.features() & adapter::wanted_features();
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        let needed =
            wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
        let mut matrix_units = None;
        if options.matrix_units && adapter.raw.features().contains(needed) {
            matrix_units = adapter::matrix_side(&adapter.raw);
        }
        if matrix_units.is_some() {
            features |= needed;
            // SAFETY: the one feature of these that is asked for multiplies matrices. Its texts are this
            // crate's: they load and store within arrays of workgroup memory by constants of the text, in
            // uniform control flow, by whole subgroups.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgpu-attention"),
            required_features: features,
            experimental_features,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let request = adapter.raw.request_device(&descriptor).await;
        let (device, queue) = request
            .map_err(|error| Error::DeviceRequest { adapter: adapter.to_string(), message: error.to_string() })?;
        let gpu = Self::new(device, queue, adapter.to_string(), matrix_units, options);
        // Without a handler of ours, an error that escapes every scope would panic.
        let late = gpu.late_error.clone();
        gpu.device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&late).get_or_insert(LateError::Uncaptured(error.to_string()));
        }));
        let late = gpu.late_error.clone();
        gpu.device.set_device_lost_callback(move |_, message| *lock(&late) = Some(LateError::Lost(message)));
        Ok(gpu)
    }

    pub(super) fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let info = device.adapter_info();
        let name = format!("{} ({}, shared by the application)", info.name, info.backend);
        let mut gpu = Self::new(device, queue, name, None, &GpuOptions::default());
        gpu.is_shared = true;
        gpu
    }

    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        name: String,
        matrix_units: Option<u32>,
        options: &GpuOptions,
    ) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            name,
            limits: device.limits(),
            capabilities: adapter::capabilities(&device, matrix_units, &options.variants),
            checked: options.checked,
            is_shared: false,
            pipeline_file: options.pipeline_folder.clone().and_then(|at| PipelineFile::open(&device, at)),
            pool: Arc::default(),
            pipelines: Mutex::default(),
            own: Mutex::default(),
            uploaded: AtomicU64::new(0),
            signal: OnceLock::new(),
            #[cfg(not(target_arch = "wasm32"))]
            waiter: Waiter::default(),
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
        self.pipeline_file.as_ref().map_or(Ok(()), PipelineFile::save)
    }

    /// Runs `make` and returns what the device has to say against it.
    pub(super) fn guarded<T>(&self, what: &str, make: impl FnOnce() -> T) -> Result<T> {
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

    /// Whether a device of the application's is gone, whose own callback hears of that. What comes
    /// of a lost device is no error, so one that must come is provoked.
    fn is_gone(&self) -> bool {
        if !self.is_shared || cfg!(target_arch = "wasm32") {
            return false;
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let usage = wgpu::BufferUsages::empty();
        let refused = wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false };
        drop(self.device.create_buffer(&refused));
        pollster::block_on(scope.pop()).is_none()
    }

    /// Returns an error that came after the call that caused it.
    pub(super) fn check_alive(&self) -> Result<()> {
        let mut late = lock(&self.late_error);
        if late.is_none() && self.is_gone() {
            *late = Some(LateError::Lost("the application destroyed it, or its driver stopped".into()));
        }
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
