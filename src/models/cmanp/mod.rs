//! CMANP: a neural process whose posterior takes in an endless stream of observations in
//! constant memory and constant time a point, exactly (arXiv 2305.14567).
//!
//! ```
//! use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
//!
//! # fn main() -> wgpu_attention::Result<()> {
//! let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
//! // Three numbers a point: the time, and the cosine and sine of the phase of a known cycle.
//! let point = |t: f32| [t, (44.0 * t).cos(), (44.0 * t).sin()];
//! let mut posterior = model.condition(&Context::new(&point(-1.0), &[0.3]))?;
//! for (t, y) in [(0.5, 0.2), (1.0, 0.5)] {
//!     posterior = posterior.update(&Context::new(&point(t), &[y]))?; // never larger than before
//! }
//! let prediction = posterior.predict(&point(0.75))?; // .mean(), .std()
//! # assert!(prediction.mean()[0].is_finite());
//! # Ok(())
//! # }
//! ```
//!
//! Every layer's own latents read every observation ([`Cmab`]); what they have read is a
//! [`RollingState`](crate::ops::RollingState), and nothing else depends on the observations.
//! Posteriors of disjoint data merge, so that a context can be split over devices or machines, with
//! [`Cmanp::exact`] to the same bits; a [`Window`] forgets what is old.
//! With a [`CovarianceConfig`] it is a CMANP-AND, whose targets vary together; without
//! [`Config::n_latents_per_layer`] an LBANP (arXiv 2211.08458), which reads a context
//! once, whole, and takes in nothing later.
//! Parameter names are those of the papers' PyTorch code.

mod attention;
mod authors;
mod block;
mod config;
mod covariance;
mod draws;
mod joint;
mod network;
mod points;
mod posterior;
mod saved;
mod window;

use std::{fmt, path::Path, sync::Arc};

pub use attention::{Attention, FeedForward, PreNormAttention, PreNormFeedForward};
pub use block::{Cmab, CmabQueries, CmabSizes, DecoderLayer, LatentBlock};
pub use config::{Config, CovarianceConfig, CovarianceKind};
pub use covariance::TransformerLayer;
pub use joint::{JointPrediction, MAX_JOINT};
pub use points::Context;
pub use posterior::Posterior;
pub use window::Window;

use crate::{
    checkpoint::Checkpoint,
    device::Device,
    error::{Error, Result},
    models::{domain::Domain, open},
};
use block::Encoder;
use network::{MODEL, Network};

/// A trained CMANP, CMANP-AND or LBANP. Cheap to clone.
///
/// ```
/// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
/// let (x, y) = ([-1.0, 1.0, 0.0, 0.5, 0.0, 1.0], [0.3, 0.6]); // two points of three numbers
/// let whole = model.condition(&Context::new(&x, &y))?;
/// let parts = model.condition(&Context::new(&x[..3], &y[..1]))?.update(&Context::new(&x[3..], &y[1..]))?;
/// let (a, b) = (whole.predict(&[0.0, 1.0, 0.0])?, parts.predict(&[0.0, 1.0, 0.0])?);
/// assert!((a.mean()[0] - b.mean()[0]).abs() < 1e-4 && whole.n_bytes() == parts.n_bytes());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cmanp {
    network: Arc<Network>,
    /// Whether posteriors keep exact sums.
    is_exact: bool,
}

impl fmt::Debug for Cmanp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.network.about.debug("Cmanp", f)
    }
}

impl Cmanp {
    /// Reads a file of model `cmanp`, see [`checkpoint`](crate::checkpoint).
    ///
    /// # Errors
    /// The file cannot be read, is no such checkpoint, or its parameters are not those that
    /// its configuration asks for.
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        Self::from_checkpoint(device, &Checkpoint::open(path)?)
    }

    /// [`Cmanp::open`] of a file that was read already.
    ///
    /// # Errors
    /// As [`Cmanp::open`].
    pub fn from_checkpoint(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        let config = open::config(checkpoint, MODEL, |upstream| Config::from_authors(&upstream.yaml))?;
        Self::new(device, &config, checkpoint)
    }

    /// Builds the network from parameters.
    ///
    /// # Errors
    /// The configuration contradicts itself; a parameter is missing, misshapen or left over.
    ///
    /// ```
    /// use wgpu_attention::{Device, checkpoint::Checkpoint, models::cmanp::{Cmanp, Config}, serde_json};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let config: Config = serde_json::from_str(
    ///     r#"{"dim_x": 1, "dim_y": 1, "d_model": 8, "dim_feedforward": 8, "n_heads": 2, "n_latents": 4,
    ///         "n_latents_per_layer": 4, "n_layers": 1, "emb_depth": 2, "bound_std": true}"#,
    /// ).unwrap();
    /// let device = Device::best();
    /// let parameters = Checkpoint::random(0, |parameters| Cmanp::new(&device, &config, parameters))?;
    /// assert_eq!(parameters.shape("encoder.layers.0.latents"), Some(&[4, 8][..]));
    /// assert_eq!(Cmanp::new(&device, &config, &parameters)?.config(), &config);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(device: &Device, config: &Config, checkpoint: &Checkpoint) -> Result<Self> {
        config.check()?;
        let network = checkpoint.load(device, |parameters| Network::load(parameters, config))?;
        Ok(Self { network: Arc::new(network), is_exact: false })
    }

    /// The same model, whose posteriors keep [exact sums](crate::ops::rolling_attention::exact): their bits
    /// do not depend on how the observations are cut, ordered and merged, and observations can be
    /// [taken out](Posterior::without) again. They are about four times as large, and take three to four times as
    /// long to write. Posteriors with exact sums and without do not mix.
    ///
    /// A network whose attention is very sharp cannot be read: where all that was observed weighs less than `e^-115`
    /// of what an observation may weigh, a prediction says so. `bound_scores` in `training/cmanp.py` keeps a network
    /// from becoming so; that of `checkpoints` reads whatever comes.
    ///
    /// # Errors
    /// A device that is not the CPU; an LBANP, which keeps no sums.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = Cmanp::open(&Device::cpu(), "checkpoints/cmanp_gp_1d.safetensors")?.exact()?;
    /// let read = |t: f32, y: f32| model.condition(&Context::new(&[t, 1.0, 0.0], &[y]));
    /// let (a, b, c) = (read(-1.0, 0.3)?, read(0.2, 0.1)?, read(1.0, 0.6)?);
    /// let bytes = |posterior: wgpu_attention::models::cmanp::Posterior| posterior.to_checkpoint()?.to_bytes();
    /// assert_eq!(bytes(a.merge(&b)?.merge(&c)?)?, bytes(c.merge(&b.merge(&a)?)?)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn exact(&self) -> Result<Self> {
        if let Encoder::Whole(_) = self.network.encoder {
            return Err(Error::Unsupported {
                what: "Cmanp::exact",
                on: "an LBANP".into(),
                why: "its layers keep no sums of the context",
            });
        }
        self.network.readers(1, true)?;
        Ok(Self { is_exact: true, ..self.clone() })
    }

    /// The architecture.
    pub fn config(&self) -> &Config {
        &self.network.about.config
    }

    /// What the network was trained on, if its checkpoint says so.
    pub fn domain(&self) -> Option<&Domain> {
        self.network.domain.as_ref()
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.network.about.device
    }

    /// Reads the observations. On a GPU this starts the work; [`Device::wait`] waits for it.
    ///
    /// Time grows with their number. Memory does not, beyond the observations themselves: they
    /// are read in blocks. (An LBANP reads its context whole.)
    ///
    /// # Errors
    /// No observations in some batch element; sizes that do not fit; numbers that are not finite;
    /// coordinates more than 1e18 from the origin, or so close together for their size that their
    /// differences do not survive as f32 (see [`Context::origin`]).
    pub fn condition(&self, context: &Context<'_>) -> Result<Posterior> {
        self.condition_in_blocks(context, self.network.tile(1))
    }

    /// [`Cmanp::condition`] with at most `block` points of all the batch at a time; the result
    /// is the same up to rounding.
    ///
    /// # Errors
    /// As [`Cmanp::condition`]; a block of 0.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
    /// let (x, y) = ([0.5; 3000], [0.1; 1000]);
    /// let posterior = model.condition_in_blocks(&Context::new(&x, &y), 100)?; // takes little memory
    /// assert_eq!(posterior.n_points(), [1000]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn condition_in_blocks(&self, context: &Context<'_>, block: usize) -> Result<Posterior> {
        Posterior::condition(&self.network, self.is_exact, context, block)
    }

    /// Reads a posterior from a file that [`Posterior::save`] wrote.
    ///
    /// # Errors
    /// As [`Cmanp::restore`]; the file cannot be read.
    pub fn open_posterior(&self, path: impl AsRef<Path>) -> Result<Posterior> {
        self.restore(&Checkpoint::open(path)?)
    }

    /// The posterior that [`Posterior::to_checkpoint`] stored, on this network's device.
    ///
    /// # Errors
    /// No saved posterior, that of another model, configuration or parameters, a damaged or
    /// misshapen one, states that no observations leave.
    ///
    /// ```
    /// use wgpu_attention::{Device, checkpoint::Checkpoint, models::cmanp::{Cmanp, Context}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = Cmanp::open(&Device::cpu(), "checkpoints/cmanp_gp_1d.safetensors")?;
    /// let posterior = model.condition(&Context::new(&[-1.0, 1.0, 0.0], &[0.3]))?;
    /// let bytes = posterior.to_checkpoint()?.to_bytes()?; // to a file, or over a network
    /// let restored = model.restore(&Checkpoint::from_bytes(&bytes)?)?;
    /// assert_eq!(restored.predict(&[0.0; 3])?, posterior.predict(&[0.0; 3])?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn restore(&self, checkpoint: &Checkpoint) -> Result<Posterior> {
        Posterior::restore(&self.network, self.is_exact, checkpoint)
    }
}
