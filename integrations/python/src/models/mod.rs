//! Trained models.

pub mod cmanp;
pub mod few_shot;
pub mod nam;
mod points;
pub mod prediction;
pub mod tnp_kr;

use std::path::PathBuf;

use pyo3::{prelude::*, types::PyBytes};
use wgpu_attention::{Error, checkpoint::Checkpoint, models, serde_json};

use crate::{
    device::Device,
    errors::{exception, refused},
};

/// A configuration, as Python's own types.
fn plain<'py>(py: Python<'py>, config: &impl serde::Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(config).map_err(|error| refused("the configuration", error, "JSON"))?;
    py.import("json")?.call_method1("loads", (text,))
}

/// A posterior that was saved: the bytes of one, or the path of a file.
fn saved(py: Python<'_>, from: &Bound<'_, PyAny>) -> PyResult<Checkpoint> {
    if let Ok(bytes) = from.cast::<PyBytes>() {
        let bytes = bytes.as_bytes();
        return py.detach(|| Checkpoint::from_bytes(bytes)).map_err(exception);
    }
    let path: PathBuf = from.extract()?;
    py.detach(|| Checkpoint::open(path)).map_err(exception)
}

/// The key under which a saved posterior says that its arrays have a dimension for the batch.
const IS_BATCHED: &str = "is_batched";

fn to_save(mut checkpoint: Checkpoint, batch: Option<usize>) -> Checkpoint {
    if batch.is_some() {
        checkpoint.set_metadata(IS_BATCHED, "true");
    }
    checkpoint
}

fn saved_batch(checkpoint: &Checkpoint, batch: usize) -> Option<usize> {
    (batch > 1 || checkpoint.metadata(IS_BATCHED).is_ok()).then_some(batch)
}

/// The model that a file is of, whichever.
#[pyfunction]
#[pyo3(signature = (path, *, device=None))]
pub fn open<'py>(py: Python<'py>, path: PathBuf, device: Option<PyRef<'py, Device>>) -> PyResult<Bound<'py, PyAny>> {
    let device = Device::or_best(py, device.as_deref())?;
    let checkpoint = &py.detach(|| Checkpoint::open(path)).map_err(exception)?;
    macro_rules! model {
        ($class:path, $of:path) => {{
            let model = device.run(py, |device| <$of>::from_checkpoint(device, checkpoint))?;
            Bound::new(py, <$class>::of(model, device))?.into_any()
        }};
    }
    Ok(match checkpoint.metadata("model").map_err(exception)? {
        "tnp_kr" => model!(tnp_kr::TnpKr, models::tnp_kr::TnpKr),
        "cmanp" => model!(cmanp::Cmanp, models::cmanp::Cmanp),
        "nam_tm" => model!(nam::NamTm, models::nam::NamTmAe),
        "nam_lsam" => model!(nam::LsamAe, models::nam::LsamAe),
        "nam_transformer" => model!(nam::NamTransformer, models::nam::NamTransformer),
        "nam_few_shot" => model!(few_shot::FewShot, models::nam::FewShot),
        other => {
            let allowed = "tnp_kr, cmanp, nam_tm, nam_lsam, nam_transformer or nam_few_shot";
            let message = format!("checkpoint {}: it is of model {other:?}, allowed is {allowed}", checkpoint.file());
            return Err(exception(Error::Config { message }));
        }
    })
}
