//! A GPU through `wgpu`: opening it, its limits, its pipelines. Memory, recording and
//! readback each have a file here; nothing above this folder touches `wgpu`.

mod commands;
mod memory;
mod promise;
mod readback;
mod recording;
mod scope;
pub(crate) mod shader;
mod shared;
mod waiting;

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::error::{Error, Result};
pub(crate) use commands::Dispatch;
pub(crate) use memory::{Buffer, Pool, View};
pub(crate) use readback::Download;
pub(crate) use scope::Recorded;
pub(crate) use shader::{Access, Pipeline, Variant};

/// An adapter of this machine.
#[derive(Clone)]
pub struct Adapter {
    /// What the driver calls it.
    pub name: String,
    /// What it is.
    pub kind: AdapterKind,
    /// The interface it is reached through, such as `vulkan` or `metal`.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    raw: wgpu::Adapter,
}

/// What an adapter is made of. The order is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A GPU lent by a hypervisor.
    Virtual,
    /// The driver does not say.
    Other,
    /// A processor that runs shaders: right, and slow.
    Software,
}

impl AdapterKind {
    /// Whether it is a real GPU.
    pub fn is_hardware(self) -> bool {
        self != Self::Software
    }

    /// Work in one submit, in floating-point operations: about a tenth of a second on a
    /// slow device of the kind, so that no watchdog resets it.
    fn submit_budget(self) -> f64 {
        match self {
            Self::Discrete => 1e11,
            Self::Integrated | Self::Virtual | Self::Other => 1e10,
            Self::Software => 1e9,
        }
    }

    /// Loop iterations of one invocation, all its loops together. Mesa's llvmpipe ends every
    /// loop for good after 65,535 of them, without a word.
    fn max_iterations(self) -> usize {
        if self.is_hardware() { usize::MAX } else { 60_000 }
    }

    /// Workgroups that work at once, at least: the share of the device that one of them has.
    fn processors(self) -> f64 {
        match self {
            Self::Discrete => 64.0,
            Self::Integrated | Self::Virtual | Self::Other => 8.0,
            Self::Software => 1.0,
        }
    }
}

impl From<wgpu::DeviceType> for AdapterKind {
    fn from(device_type: wgpu::DeviceType) -> Self {
        match device_type {
            wgpu::DeviceType::DiscreteGpu => Self::Discrete,
            wgpu::DeviceType::IntegratedGpu => Self::Integrated,
            wgpu::DeviceType::VirtualGpu => Self::Virtual,
            wgpu::DeviceType::Cpu => Self::Software,
            wgpu::DeviceType::Other => Self::Other,
        }
    }
}

impl Adapter {
    fn new(raw: wgpu::Adapter) -> Self {
        let info = raw.get_info();
        Self {
            kind: info.device_type.into(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            name: info.name,
            raw,
        }
    }
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, {}, {})", self.name, self.kind, self.backend, self.driver)
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Adapter({self})")
    }
}

/// How a GPU device is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GpuOptions {
    /// Compile the shaders with bounds, loop and division checks, as a browser does. Slower;
    /// the results are the same.
    pub checked: bool,
    /// Ask for these limits instead of all that the adapter offers.
    pub limits: Option<wgpu::Limits>,
}

impl GpuOptions {
    /// Sets [`GpuOptions::checked`].
    pub fn checked(mut self, checked: bool) -> Self {
        self.checked = checked;
        self
    }

    /// Sets [`GpuOptions::limits`].
    pub fn limits(mut self, limits: wgpu::Limits) -> Self {
        self.limits = Some(limits);
        self
    }
}

/// All adapters, best first.
pub(crate) async fn adapters() -> Vec<Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    // OpenGL lacks what the kernels need.
    descriptor.backends &= wgpu::Backends::PRIMARY;
    let instance = wgpu::Instance::new(descriptor);
    #[cfg(not(target_arch = "wasm32"))]
    let raw = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
    #[cfg(target_arch = "wasm32")]
    let raw = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await;
    let mut adapters: Vec<Adapter> = raw.into_iter().map(Adapter::new).collect();
    adapters.sort_by_key(|adapter| adapter.kind);
    adapters
}

/// An open GPU.
pub(crate) struct Gpu {
    /// Tells it from other devices of the same adapter.
    number: u64,
    device: wgpu::Device,
    queue: wgpu::Queue,
    name: String,
    limits: wgpu::Limits,
    submit_budget: f64,
    max_iterations: usize,
    processors: f64,
    checked: bool,
    pool: Arc<Pool>,
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
        let limits = options.limits.clone().unwrap_or_else(|| adapter.raw.limits());
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgpu-attention"),
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let request = adapter.raw.request_device(&descriptor).await;
        let (device, queue) = request
            .map_err(|error| Error::DeviceRequest { adapter: adapter.to_string(), message: error.to_string() })?;
        let gpu = Self::new(device, queue, adapter.to_string(), adapter.kind, options);
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
        Self::new(device, queue, name, info.device_type.into(), &GpuOptions::default())
    }

    fn new(device: wgpu::Device, queue: wgpu::Queue, name: String, kind: AdapterKind, options: &GpuOptions) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            name,
            limits: device.limits(),
            submit_budget: kind.submit_budget(),
            max_iterations: kind.max_iterations(),
            processors: kind.processors(),
            checked: options.checked,
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

    /// The most bytes that one binding may cover, aligned.
    pub(crate) fn max_binding(&self) -> u64 {
        let bytes = self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size);
        bytes - bytes % 256
    }

    /// The most work that one dispatch may ask for, in floating-point operations.
    pub(crate) fn submit_budget(&self) -> f64 {
        self.submit_budget
    }

    /// The most loop iterations that an invocation may run.
    pub(crate) fn max_iterations(&self) -> usize {
        self.max_iterations
    }

    /// How a recurrence is cut: the steps of a launch, and the cost of a step for
    /// [`Dispatch::cost`]. A step costs `cost_of_group` operations in each of `n_groups`
    /// workgroups, which share the device, or leave most of it idle; and `iterations` in each
    /// invocation.
    pub(crate) fn recurrence(&self, n_groups: usize, cost_of_group: f64, iterations: usize) -> (usize, f64) {
        let cost = cost_of_group.max(1.0) * (n_groups as f64).max(self.processors);
        let by_budget = (self.submit_budget / cost) as usize;
        let by_iterations = self.max_iterations / iterations.max(1);
        (by_budget.min(by_iterations).max(1), cost)
    }

    /// Cuts an operation on rows so that no binding and no submit gets too large. The widest
    /// operand has `width` numbers a row; pieces begin at aligned elements.
    pub(crate) fn row_pieces(&self, rows: usize, width: usize, cost_of_row: f64) -> Vec<Range<usize>> {
        let by_binding = (self.max_binding() / 4) as usize / width.max(1);
        let by_cost = (self.submit_budget / cost_of_row.max(1.0)) as usize;
        let step = (by_binding.min(by_cost) / 64 * 64).max(64);
        (0..rows).step_by(step).map(|start| start..rows.min(start + step)).collect()
    }

    /// Refuses operands that must be bound whole and are too large for it.
    pub(crate) fn check_bindings(&self, lengths: &[usize]) -> Result<()> {
        let requested = 4 * lengths.iter().copied().max().unwrap_or(0) as u64;
        let allowed = self.max_binding();
        if requested <= allowed {
            Ok(())
        } else {
            Err(Error::LimitExceeded { limit: "bytes of one operand; cut it into parts", requested, allowed })
        }
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
