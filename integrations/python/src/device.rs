//! Where operations run.

use std::{
    process,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use pyo3::prelude::*;
use wgpu_attention::{Error, Result};

use crate::errors::{DeviceError, exception};

/// A device: the CPU, or a GPU. Cheap to copy; what is made on it keeps it.
///
/// `with Device.best() as device:` closes it in the end; without, it goes with the last object on it.
#[pyclass(frozen, eq, module = "wgpu_attention")]
#[derive(Clone)]
pub struct Device {
    device: wgpu_attention::Device,
    is_closed: Arc<AtomicBool>,
    /// Something that ran here said so.
    is_lost: Arc<AtomicBool>,
}

/// Refuses to go on in a fork of a process that went this way: the threads of the library and of drivers are not in
/// the fork, where what waits for them waits for ever.
fn check_not_forked() -> PyResult<()> {
    static FIRST: OnceLock<u32> = OnceLock::new();
    match *FIRST.get_or_init(process::id) == process::id() {
        true => Ok(()),
        false => Err(DeviceError::new_err(
            "wgpu_attention is used after a fork of a process that had used it, whose threads are not here: start \
             processes with spawn or forkserver",
        )),
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.device == other.device
    }
}

impl Device {
    fn of(device: wgpu_attention::Device) -> Self {
        Self { device, is_closed: Arc::default(), is_lost: Arc::default() }
    }

    /// The device, unless it is closed, or another process's.
    pub fn get(&self) -> PyResult<&wgpu_attention::Device> {
        check_not_forked()?;
        match self.is_closed.load(Ordering::Acquire) {
            false => Ok(&self.device),
            true => Err(DeviceError::new_err(format!("{}: the device is closed; open another", self.device))),
        }
    }

    /// The one that was given, or the best, which is opened once, and again when it is closed or lost.
    pub fn or_best(py: Python<'_>, device: Option<&Self>) -> PyResult<Self> {
        static BEST: Mutex<Option<Device>> = Mutex::new(None);
        if let Some(device) = device {
            return Ok(device.clone());
        }
        check_not_forked()?;
        Ok(py.detach(|| {
            let mut best = BEST.lock().unwrap_or_else(PoisonError::into_inner);
            best.take_if(|best| best.is_closed() || best.is_lost.load(Ordering::Acquire));
            best.get_or_insert_with(|| Self::of(wgpu_attention::Device::best())).clone()
        }))
    }

    /// Runs what needs nothing of Python, while other threads may.
    pub fn run<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&wgpu_attention::Device) -> Result<T> + Send,
    ) -> PyResult<T> {
        let device = self.get()?;
        py.detach(|| work(device)).map_err(|error| {
            if let Error::DeviceLost { .. } = error {
                self.is_lost.store(true, Ordering::Release);
            }
            exception(error)
        })
    }
}

#[pymethods]
impl Device {
    /// A hardware GPU if there is one that opens, else the CPU.
    #[staticmethod]
    fn best(py: Python<'_>) -> PyResult<Self> {
        check_not_forked()?;
        Ok(Self::of(py.detach(wgpu_attention::Device::best)))
    }

    /// The CPU, on all its cores.
    #[staticmethod]
    pub fn cpu() -> Self {
        Self::of(wgpu_attention::Device::cpu())
    }

    /// `cpu`, `gpu`, `best`, or a part of an adapter's name, in any case.
    #[staticmethod]
    fn by_name(py: Python<'_>, name: &str) -> PyResult<Self> {
        check_not_forked()?;
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
pub fn devices(py: Python<'_>) -> PyResult<Vec<Adapter>> {
    check_not_forked()?;
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
    Ok(gpus.chain([cpu]).collect())
}
