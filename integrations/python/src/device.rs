//! Where operations run.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use pyo3::prelude::*;
use wgpu_attention::Result;

use crate::errors::{DeviceError, exception};

/// A device: the CPU, or a GPU. Cheap to copy; what is made on it keeps it.
///
/// `with Device.best() as device:` closes it in the end; without, it goes with the last object on it.
#[pyclass(frozen, eq, module = "wgpu_attention")]
#[derive(Clone)]
pub struct Device {
    device: wgpu_attention::Device,
    is_closed: Arc<AtomicBool>,
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.device == other.device
    }
}

impl Device {
    fn of(device: wgpu_attention::Device) -> Self {
        Self { device, is_closed: Arc::default() }
    }

    /// The device, unless it is closed.
    pub fn get(&self) -> PyResult<&wgpu_attention::Device> {
        match self.is_closed.load(Ordering::Acquire) {
            false => Ok(&self.device),
            true => Err(DeviceError::new_err(format!("{}: the device is closed; open another", self.device))),
        }
    }

    /// The one that was given, or the best, which is opened once.
    pub fn or_best(py: Python<'_>, device: Option<&Self>) -> Self {
        static BEST: OnceLock<Device> = OnceLock::new();
        match device {
            Some(device) => device.clone(),
            None => py.detach(|| BEST.get_or_init(|| Self::of(wgpu_attention::Device::best())).clone()),
        }
    }

    /// Runs what needs nothing of Python, while other threads may.
    pub fn run<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&wgpu_attention::Device) -> Result<T> + Send,
    ) -> PyResult<T> {
        let device = self.get()?;
        py.detach(|| work(device)).map_err(exception)
    }
}

#[pymethods]
impl Device {
    /// A hardware GPU if there is one that opens, else the CPU.
    #[staticmethod]
    fn best(py: Python<'_>) -> Self {
        Self::of(py.detach(wgpu_attention::Device::best))
    }

    /// The CPU, on all its cores.
    #[staticmethod]
    fn cpu() -> Self {
        Self::of(wgpu_attention::Device::cpu())
    }

    /// `cpu`, `gpu`, `best`, or a part of an adapter's name, in any case.
    #[staticmethod]
    fn by_name(py: Python<'_>, name: &str) -> PyResult<Self> {
        py.detach(|| wgpu_attention::Device::by_name(name)).map(Self::of).map_err(exception)
    }

    /// What it is called.
    #[getter]
    fn name(&self) -> String {
        self.device.to_string()
    }

    #[getter]
    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Waits for its work, gives memory that is kept for reuse back, and refuses what is asked of it, or of what
    /// was made on it, from now on.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let waited = py.detach(|| {
            let waited = self.device.wait();
            self.device.trim();
            waited
        });
        waited.map_err(exception)
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        let closed = if self.is_closed() { ", closed" } else { "" };
        format!("<Device {}{closed}>", self.device)
    }

    fn __str__(&self) -> String {
        self.name()
    }
}

/// Something that a device can be opened on: `Device.by_name(adapter.name)`.
#[pyclass(frozen, get_all, module = "wgpu_attention")]
pub struct Adapter {
    /// What the driver calls it; of the CPU `cpu`.
    name: String,
    /// `discrete`, `integrated`, `virtual`, `other`, `software` or `cpu`.
    kind: String,
    /// `vulkan`, `metal`, `dx12`, or the instructions of the CPU.
    backend: String,
    driver: String,
}

#[pymethods]
impl Adapter {
    fn __repr__(&self) -> String {
        let Self { name, kind, backend, driver } = self;
        format!("<Adapter {name:?}: {kind}, {backend}, {driver}>")
    }
}

/// What kernels can run on here, the best GPU first, the CPU last.
#[pyfunction]
pub fn devices(py: Python<'_>) -> Vec<Adapter> {
    let adapters = py.detach(wgpu_attention::Device::adapters);
    let gpus = adapters.into_iter().map(|adapter| Adapter {
        name: adapter.name,
        kind: format!("{:?}", adapter.kind).to_lowercase(),
        backend: adapter.backend,
        driver: adapter.driver,
    });
    let cpu = Adapter {
        name: "cpu".into(),
        kind: "cpu".into(),
        backend: wgpu_attention::Device::cpu_instructions().first().copied().unwrap_or_default().into(),
        driver: String::new(),
    };
    gpus.chain([cpu]).collect()
}
