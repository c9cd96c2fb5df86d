//! The networks of the page, and what they have read.

use std::f32::consts::TAU;

use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use wgpu_attention::{
    checkpoint::Checkpoint,
    models::{
        cmanp::{self, Cmanp},
        tnp_kr::{self, Locations, TnpKr},
    },
};

use super::{
    error::{Result, refused, told},
    place::Place,
    prediction::Prediction,
};

/// Under which key a file says what cycle a CMANP was told the phase of; the library keeps the phases alone.
const CYCLE: &str = "cycle";

/// A trained network on a device.
#[wasm_bindgen]
pub struct Model(Network);

enum Network {
    TnpKr(TnpKr),
    Cmanp(Cmanp),
}

/// A network that has read observations.
#[wasm_bindgen]
pub struct Posterior {
    read: Read,
    /// The length of the cycle that the network is told the phase of, if it is.
    cycle: f32,
}

#[derive(Clone)]
enum Read {
    TnpKr(tnp_kr::Posterior),
    Cmanp(cmanp::Posterior),
}

/// Times as a CMANP wants them: with the cosine and the sine of a cycle's phase.
fn phases(x: &[f32], cycle: f32) -> Vec<f32> {
    x.iter().flat_map(|&t| [t, (TAU * t / cycle).cos(), (TAU * t / cycle).sin()]).collect()
}

/// Whether a file holds a posterior, which is restored, and no network, which is opened.
#[wasm_bindgen(js_name = isPosterior)]
pub fn is_posterior(file: &[u8]) -> Result<bool> {
    Ok(Checkpoint::from_bytes(file).map_err(told)?.metadata("posterior").is_ok())
}

#[wasm_bindgen]
impl Model {
    /// The network of a safetensors file.
    pub fn open(place: &Place, file: &[u8]) -> Result<Self> {
        let checkpoint = Checkpoint::from_bytes(file).map_err(told)?;
        let network = match checkpoint.metadata("model").map_err(told)? {
            "tnp_kr" => TnpKr::from_checkpoint(&place.0, &checkpoint).map(Network::TnpKr),
            "cmanp" => Cmanp::from_checkpoint(&place.0, &checkpoint).map(Network::Cmanp),
            other => return Err(refused("Checkpoint", &format!("the page draws no model {other:?}"))),
        };
        let network = network.map_err(told)?;
        match &network {
            Network::TnpKr(model) if model.config().n_values == 1 => {}
            Network::Cmanp(model) if (model.config().dim_x, model.config().dim_y) == (3, 1) => {}
            _ => return Err(refused("Checkpoint", "the page draws networks of one value on a line")),
        }
        Ok(Self(network))
    }

    /// Whether it is told the phase of a cycle, and takes in more observations in constant time.
    #[wasm_bindgen(js_name = isStream)]
    pub fn is_stream(&self) -> bool {
        matches!(self.0, Network::Cmanp(_))
    }

    /// Reads observations. Starts the work of a GPU, and does not wait for it.
    pub fn condition(&self, x: &[f32], y: &[f32], cycle: f32) -> Result<Posterior> {
        let read = match &self.0 {
            Network::TnpKr(model) => model.condition(&tnp_kr::Context::new(Locations::space(1, x), y)).map(Read::TnpKr),
            Network::Cmanp(model) => model.condition(&cmanp::Context::new(&phases(x, cycle), y)).map(Read::Cmanp),
        };
        Ok(Posterior { read: read.map_err(told)?, cycle })
    }

    /// The posterior of a file that [`Posterior::save`] made, with its own cycle; `cycle` is that of a file
    /// which says nothing of one.
    pub fn restore(&self, file: &[u8], cycle: f32) -> Result<Posterior> {
        let checkpoint = Checkpoint::from_bytes(file).map_err(told)?;
        let cycle = match checkpoint.metadata(CYCLE) {
            Ok(saved) => read_cycle(saved)?,
            Err(_) => cycle,
        };
        let read = match &self.0 {
            Network::TnpKr(model) => model.restore(&checkpoint).map(Read::TnpKr),
            Network::Cmanp(model) => model.restore(&checkpoint).map(Read::Cmanp),
        };
        Ok(Posterior { read: read.map_err(told)?, cycle })
    }
}

fn read_cycle(saved: &str) -> Result<f32> {
    let length = saved.parse().ok().filter(|length: &f32| length.is_finite() && *length > 0.0);
    length.ok_or_else(|| refused("Posterior", &format!("its cycle is {saved:?}, allowed is a number above 0")))
}

#[wasm_bindgen]
impl Posterior {
    /// The length of its cycle.
    #[wasm_bindgen(getter)]
    pub fn cycle(&self) -> f32 {
        self.cycle
    }

    /// Takes in more observations.
    pub fn update(&self, x: &[f32], y: &[f32]) -> Result<Self> {
        match &self.read {
            Read::Cmanp(read) => {
                let read = read.update(&cmanp::Context::new(&phases(x, self.cycle), y)).map_err(told)?;
                Ok(Self { read: Read::Cmanp(read), cycle: self.cycle })
            }
            Read::TnpKr(_) => Err(refused("Refused", "this network reads its observations at once")),
        }
    }

    /// Predicts at these places: a promise of a [`Prediction`]. This may be freed meanwhile.
    pub fn predict(&self, x: Vec<f32>) -> Promise {
        let (read, cycle) = (self.read.clone(), self.cycle);
        future_to_promise(async move {
            let read = match read {
                Read::TnpKr(read) => read.predict_async(&Locations::space(1, &x)).await,
                Read::Cmanp(read) => read.predict_async(&phases(&x, cycle)).await,
            };
            let read = read.map_err(told)?;
            let outside = read.outside().to_string();
            let (mean, std) = read.into_moments();
            Ok(Prediction { mean, std, outside }.into())
        })
    }

    /// How many observations were read.
    #[wasm_bindgen(js_name = nPoints)]
    pub fn n_points(&self) -> f64 {
        match &self.read {
            Read::TnpKr(read) => read.n_context() as f64,
            Read::Cmanp(read) => read.n_points().iter().sum::<u64>() as f64,
        }
    }

    /// The bytes that they left.
    #[wasm_bindgen(js_name = nBytes)]
    pub fn n_bytes(&self) -> f64 {
        match &self.read {
            Read::TnpKr(read) => read.n_bytes() as f64,
            Read::Cmanp(read) => read.n_bytes() as f64,
        }
    }

    /// A promise of a safetensors file of it. This may be freed meanwhile.
    pub fn save(&self) -> Promise {
        let (read, cycle) = (self.read.clone(), self.cycle);
        future_to_promise(async move {
            let checkpoint = match read {
                Read::TnpKr(read) => read.to_checkpoint_async().await,
                Read::Cmanp(read) => read.to_checkpoint_async().await.map(|mut checkpoint| {
                    checkpoint.set_metadata(CYCLE, cycle.to_string());
                    checkpoint
                }),
            };
            let file = checkpoint.and_then(|checkpoint| checkpoint.to_bytes()).map_err(told)?;
            Ok(Uint8Array::from(&file[..]).into())
        })
    }
}
