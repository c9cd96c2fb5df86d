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
    /// Of the calls that nobody has awaited yet, in their order.
    #[cfg(target_arch = "wasm32")]
    pub(super) verdicts: Mutex<Vec<Verdict>>,
}

#[derive(Clone, Debug)]
pub(super) enum LateError {
    Lost(String),
    Refused { what: String, message: String },
    NoRoom(String),
}

/// What a browser will say of one call, to all who ask.
#[cfg(target_arch = "wasm32")]
pub(super) type Verdict =
    futures_util::future::Shared<futures_util::future::LocalBoxFuture<'static, Option<LateError>>>;

impl LateError {
    /// What a device has to say against something.
    pub(super) fn of(what: &str, error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { source } => Self::NoRoom(source.to_string()),
            error => Self::Refused { what: what.to_owned(), message: error.to_string() },
        }
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Lost(message) => Error::DeviceLost { message },
            Self::Refused { what, message } => Error::Validation { what, message },
            Self::NoRoom(message) => Error::OutOfMemory { requested: None, message },
        }
    }
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
            lock(&late).get_or_insert(LateError::of("earlier work", error));
        }));
        gpu.hear_of_loss();
        Ok(gpu)
    }

    /// Takes the one place for who is told that the device is lost; in a browser there are many.
    fn hear_of_loss(&self) {
        let late = self.late_error.clone();
        self.device.set_device_lost_callback(move |_, message| *lock(&late) = Some(LateError::Lost(message)));
    }

    pub(super) fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let info = device.adapter_info();
        let name = format!("{} ({}, shared by the application)", info.name, info.backend);
        let mut gpu = Self::new(device, queue, name, None, &GpuOptions::default());
        gpu.is_shared = true;
        if cfg!(target_arch = "wasm32") {
            gpu.hear_of_loss();
        }
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
            #[cfg(target_arch = "wasm32")]
            verdicts: Mutex::default(),
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
