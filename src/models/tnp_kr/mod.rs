//! TNP-KR and BSA-TNP: a transformer neural process of kernel regression blocks
//! (arXiv 2411.12502, superseded by 2506.09163).
//!
//! A trained network is conditioned on observations once and then predicts at any number of
//! points. Parameter names are those of the papers' flax code.

mod block;
mod config;
mod deep_kernel;
mod dl4bi;
mod draws;
mod local;
mod network;
mod points;
mod posterior;
mod presets;
mod projection;
mod saved;

use std::{fmt, path::Path, sync::Arc};

pub use block::{BlockMemory, Coords, KrBlock};
pub use config::{AttentionConfig, BiasConfig, BiasParameters, CategoryConfig, Config, GroupConfig};
pub use deep_kernel::DeepKernelAttention;
pub use local::Local;
pub use points::{Context, Locations};
pub use posterior::Posterior;

use crate::{
    checkpoint::Checkpoint,
    device::Device,
    error::{Error, Result},
    models::{domain::Domain, open},
};
use network::{MODEL, Network};

/// A trained TNP-KR. Cheap to clone.
///
/// ```
/// use wgpu_attention::{Device, models::tnp_kr::{Context, Locations, TnpKr}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = TnpKr::open(&Device::best(), "checkpoints/gp_1d.safetensors")?;
/// let posterior = model.condition(&Context::new(Locations::space(1, &[-1.0, 0.0, 1.0]), &[0.3, -0.1, 0.5]))?;
/// let prediction = posterior.predict(&Locations::space(1, &[0.0, 9.0]))?;
/// assert_eq!(prediction.shape(), [1, 2, 1]); // batch, points, values at a point
/// assert!(prediction.std()[0] < prediction.std()[1]); // it knows more where it has seen something
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TnpKr {
    network: Arc<Network>,
}

impl fmt::Debug for TnpKr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.network.about.debug("TnpKr", f)
    }
}

impl TnpKr {
    /// Reads a file of model `tnp_kr`, see [`checkpoint`](crate::checkpoint).
    ///
    /// # Errors
    /// The file cannot be read, is no such checkpoint, or its parameters are not those that
    /// its configuration asks for.
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        Self::from_checkpoint(device, &Checkpoint::open(path)?)
    }

    /// [`TnpKr::open`] of a file that was read already.
    ///
    /// # Errors
    /// As [`TnpKr::open`].
    pub fn from_checkpoint(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        let translated = |upstream: &open::Upstream| {
            let groups: Vec<(&str, usize)> = upstream.groups.iter().map(|(name, size)| (&name[..], *size)).collect();
            let lacks =
                || Error::Config { message: "n_values is missing, the numbers that are observed at a point".into() };
            Config::from_dl4bi(&upstream.yaml, upstream.n_values.ok_or_else(lacks)?, &groups)
        };
        Self::new(device, &open::config(checkpoint, MODEL, translated)?, checkpoint)
    }

    /// Builds the network from parameters.
    ///
    /// # Errors
    /// The configuration contradicts itself; a parameter is missing, misshapen or left over.
    ///
    /// ```
    /// use wgpu_attention::{Device, checkpoint::Checkpoint, models::tnp_kr::{Config, TnpKr}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// // A file without metadata: the configuration is given beside it.
    /// let (device, config) = (Device::best(), Config { n_blocks: 1, ..Config::scan(1) });
    /// let parameters = Checkpoint::random(0, |parameters| TnpKr::new(&device, &config, parameters))?;
    /// assert_eq!(TnpKr::new(&device, &config, &parameters)?.config().n_blocks, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(device: &Device, config: &Config, checkpoint: &Checkpoint) -> Result<Self> {
        config.check()?;
        let network = checkpoint.load(device, |parameters| Network::load(parameters, config))?;
        Ok(Self { network: Arc::new(network) })
    }

    /// A network with random parameters: for measurements and tests.
    ///
    /// # Errors
    /// The configuration contradicts itself.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::tnp_kr::{Config, Context, Locations, TnpKr}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = TnpKr::random(&Device::best(), &Config { n_blocks: 1, ..Config::deep_kernel(2, 1) }, 0)?;
    /// let posterior = model.condition(&Context::new(Locations::space(2, &[0.1; 2000]), &[0.5; 1000]))?;
    /// assert_eq!(posterior.n_bytes(), 4 * 128 * 64); // features times values, whatever was read
    /// # Ok(())
    /// # }
    /// ```
    pub fn random(device: &Device, config: &Config, seed: u64) -> Result<Self> {
        // On the host, where trying costs no uploads.
        let checkpoint = Checkpoint::random(seed, |checkpoint| Self::new(&Device::cpu(), config, checkpoint))?;
        Self::new(device, config, &checkpoint)
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
    /// With scan attention time grows with the square of their number and the posterior with
    /// their number; with linear attention time grows with their number and the posterior is of
    /// constant size.
    ///
    /// # Errors
    /// No observations in some batch element; values that cannot be observed of the model's output; coordinates that are not those of the model or of its
    /// training; sizes that do not fit; numbers that are not finite, more than 1e18 from the origin, or
    /// so close together for their size that their differences do not survive as f32 (see
    /// [`Context::origin`]); latitudes beyond 90 degrees.
    ///
    /// Of causal time, two moments of the context never become one, and what is later than a moment that
    /// is predicted at stays later, however little: rounding reads nothing of the future.
    pub fn condition(&self, context: &Context<'_>) -> Result<Posterior> {
        Posterior::condition(&self.network, context)
    }

    /// Reads a posterior from a file that [`Posterior::save`] wrote.
    ///
    /// # Errors
    /// As [`TnpKr::restore`]; the file cannot be read.
    pub fn open_posterior(&self, path: impl AsRef<Path>) -> Result<Posterior> {
        self.restore(&Checkpoint::open(path)?)
    }

    /// The posterior that [`Posterior::to_checkpoint`] stored, on this network's device.
    ///
    /// # Errors
    /// No saved posterior, that of another model or other parameters, a damaged or misshapen one.
    ///
    /// ```
    /// use wgpu_attention::{Device, checkpoint::Checkpoint, models::tnp_kr::{Context, Locations, TnpKr}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = TnpKr::open(&Device::cpu(), "checkpoints/gp_1d.safetensors")?;
    /// let at = Locations::space(1, &[0.0, 1.0]);
    /// let posterior = model.condition(&Context::new(at.clone(), &[0.3, -0.1]))?;
    /// let bytes = posterior.to_checkpoint()?.to_bytes()?; // to a file, or over a network
    /// let restored = model.restore(&Checkpoint::from_bytes(&bytes)?)?;
    /// assert_eq!(restored.predict(&at)?, posterior.predict(&at)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn restore(&self, checkpoint: &Checkpoint) -> Result<Posterior> {
        Posterior::restore(&self.network, checkpoint)
    }
}
