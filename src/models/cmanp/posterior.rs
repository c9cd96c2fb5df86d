//! A conditioned model: it takes in more observations, merges with others, and predicts.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::{
    block::{Cmab, CmabQueries, Encoder},
    config::Config,
    network::{Network, Readers},
    points::{Context, Points},
};
use crate::{
    error::{Error, Result, check_argument},
    host::zeros,
    models::{
        Prediction,
        domain::{Outside, Summary},
        frame::Frame,
        open::About,
        points::{Coordinate, Numbers},
        tiles::{check_predicted, piece, place, side_by_side, stream, tiles},
    },
    ops::{Attention, ExactState, Merge, RollingState},
    tensor::Tensor,
};

/// A CMANP that has read observations: one [`RollingState`] for each layer, of constant size.
///
/// Taking in observations only writes the states; the latents are made of them when something is
/// predicted for the first time after that.
///
/// ```
/// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
/// let read = |t: f32, y: f32| model.condition(&Context::new(&[t, 1.0, 0.0], &[y]));
/// // What two machines have read.
/// let merged = read(-1.0, 0.3)?.merge(&read(1.0, 0.6)?)?;
/// assert_eq!(merged.n_points(), [2]);
/// let prediction = merged.predict(&[0.0, 1.0, 0.0])?;
/// assert!(prediction.std()[0] > 0.05); // both observations are far from here
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Posterior {
    pub(super) network: Arc<Network>,
    pub(super) batch: usize,
    /// Observations of each batch element.
    pub(super) n_points: Vec<u64>,
    pub(super) readers: Arc<Readers>,
    /// One for each layer; none of an LBANP, or if the sums are exact.
    pub(super) states: Vec<RollingState>,
    /// One for each layer if the sums are exact.
    pub(super) exact: Vec<ExactState>,
    pub(super) readout: Arc<OnceLock<Readout>>,
    /// What is taken off the coordinates of every point.
    pub(super) frame: Arc<Frame>,
    /// Of the observations, for networks with a domain.
    pub(super) summary: Option<Arc<Summary>>,
}

/// What targets read.
pub(super) struct Readout {
    /// The encoder's output of each layer, `[batch, n_latents, d_model]`.
    encodings: Vec<Tensor>,
    /// Their keys and values for the decoder.
    keys_values: Vec<[Tensor; 2]>,
}

impl fmt::Debug for Posterior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Posterior")
            .field("n_points", &self.n_points)
            .field("n_bytes", &self.n_bytes())
            .field("device", &format_args!("{}", self.network.about.device))
            .finish()
    }
}

impl Posterior {
    pub(super) fn condition(
        network: &Arc<Network>,
        is_exact: bool,
        context: &Context<'_>,
        block: usize,
    ) -> Result<Self> {
        let points = &Points::observed(&network.about.config, context, None)?;
        points.check_not_empty()?;
        let device = &network.about.device;
        check_argument(block > 0, "condition_in_blocks", "block", block, "1 or more")?;
        let batch = points.batch;
        let empty = Self {
            network: network.clone(),
            batch,
            n_points: vec![0; batch],
            readers: network.readers(batch, is_exact)?,
            states: Vec::new(),
            exact: Vec::new(),
            readout: Arc::default(),
            frame: points.frame.clone(),
            summary: None,
        };
        let Encoder::Whole(layers) = &network.encoder else {
            return empty.write(points, block);
        };
        let tokens = network.embedder.forward(&points.rows(device, &(0..points.n))?, None)?;
        if points.mask(device, &(0..points.n))?.is_some() {
            return Err(Error::Unsupported {
                what: "a mask",
                on: "an LBANP".into(),
                why: "its layers read the context whole; condition on each data set by itself",
            });
        }
        let mut x = network.latents.repeat(batch)?;
        let mut encodings = Vec::new();
        for layer in layers {
            x = layer.forward(&x, &tokens)?;
            encodings.push(x.clone());
        }
        let readout = Arc::new(OnceLock::from(Readout::new(network, encodings)?));
        Ok(Self { n_points: points.counts(), readout, summary: empty.summary_with(points), ..empty })
    }

    /// How many observations were taken in, in each batch element.
    pub fn n_points(&self) -> &[u64] {
        &self.n_points
    }

    /// The architecture of the model.
    pub fn config(&self) -> &Config {
        &self.network.about.config
    }

    /// Independent data sets.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// What each layer's own latents have read; empty if the sums are exact.
    pub fn states(&self) -> &[RollingState] {
        &self.states
    }

    /// What each layer's own latents have read with exact sums, see [`Cmanp::exact`](super::Cmanp::exact);
    /// empty otherwise.
    pub fn exact_states(&self) -> &[ExactState] {
        &self.exact
    }

    pub(super) fn is_exact(&self) -> bool {
        !self.readers.exact.is_empty()
    }

    /// Bytes that the observations left behind: of constant size. (An LBANP leaves the latents
    /// of every layer.)
    pub fn n_bytes(&self) -> usize {
        let encodings = self.readout.get().filter(|_| self.states.is_empty() && self.exact.is_empty());
        let encodings = encodings.iter().flat_map(|readout| &readout.encodings);
        self.states.iter().map(RollingState::n_bytes).sum::<usize>()
            + self.exact.iter().map(ExactState::n_bytes).sum::<usize>()
            + encodings.map(|tensor| size_of::<f32>() * tensor.len()).sum::<usize>()
    }

    /// Takes in more observations, any number of them, none included. This posterior stays as it
    /// is. The result does not depend on how observations are cut into updates, up to rounding.
    ///
    /// A point that comes alone is compared with none, so nothing says whether its coordinates survive
    /// as f32 (unix seconds do not): give an origin when conditioning, and see
    /// [`Prediction::outside`] where the checkpoint tells what it was trained on.
    ///
    /// # Errors
    /// Another batch or origin than before; what [`Cmanp::condition`](super::Cmanp::condition) refuses
    /// but no observations; an LBANP, which cannot take in more.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
    /// let before = model.condition(&Context::new(&[-1.0, 1.0, 0.0], &[0.3]))?;
    /// let after = before.update(&Context::new(&[-0.9, 0.0, 1.0, -0.8, -1.0, 0.0], &[0.4, 0.5]))?;
    /// assert_eq!((before.n_points(), after.n_points()), (&[1][..], &[3][..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn update(&self, context: &Context<'_>) -> Result<Self> {
        let points = Points::observed(&self.network.about.config, context, Some(&self.frame))?;
        let (found, batch) = (points.batch, self.batch);
        let allowed = format_args!("{batch}, that of the posterior");
        check_argument(found == batch, "Posterior::update", "batch", found, allowed)?;
        self.check_rolling("Posterior::update")?;
        self.write(&points, self.network.tile(1))
    }

    /// The posterior of the observations of both, which must not overlap: of contexts that were
    /// read on two devices or machines, say (see [`Posterior::to_checkpoint`] for how to send one).
    ///
    /// # Errors
    /// Posteriors of different models, devices, batches or origins; one of exact sums and one of rounded ones; an LBANP.
    pub fn merge(&self, other: &Self) -> Result<Self> {
        self.check_combined("Posterior::merge", other)?;
        let states = self.states.iter().zip(&other.states).map(|(a, b)| a.merge(b)).collect::<Result<_>>()?;
        let exact = self.exact.iter().zip(&other.exact).map(|(a, b)| a.merge(b)).collect::<Result<_>>()?;
        let n_points = self.n_points.iter().zip(&other.n_points).map(|(a, b)| a.saturating_add(*b)).collect();
        let summary = self.summary.as_ref().zip(other.summary.as_ref()).map(|(a, b)| Arc::new(a.merge(b)));
        Ok(Self { states, exact, n_points, readout: Arc::default(), summary, ..self.clone() })
    }

    /// What is left without the observations of the other, all of which are in this one: a merge undone, to
    /// the bit. Only [exact sums](super::Cmanp::exact) can be subtracted; what the others have to forget is
    /// left out of a [`Window`](super::Window) or of [`leave_one_out`](crate::ops::leave_one_out).
    ///
    /// The range of coordinates that [`Prediction::outside`] speaks of stays that of both, unless
    /// [`Posterior::with_ranges`] says what it is now.
    ///
    /// # Errors
    /// As [`Posterior::merge`]; sums that are not exact; no observation would be left.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = Cmanp::open(&Device::cpu(), "checkpoints/cmanp_gp_1d.safetensors")?.exact()?;
    /// let read = |t: f32, y: f32| model.condition(&Context::new(&[t, 1.0, 0.0], &[y]));
    /// let (a, b) = (read(-1.0, 0.3)?, read(1.0, 0.6)?);
    /// assert_eq!(a.merge(&b)?.without(&b)?.predict(&[0.0; 3])?, a.predict(&[0.0; 3])?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn without(&self, other: &Self) -> Result<Self> {
        const OP: &str = "Posterior::without";
        self.check_combined(OP, other)?;
        if !self.is_exact() {
            return Err(Error::Unsupported {
                what: OP,
                on: "a posterior whose sums are not exact".into(),
                why: "a softmax state cannot be subtracted; use Cmanp::exact, or a Window",
            });
        }
        for (b, (have, other)) in self.n_points.iter().zip(&other.n_points).enumerate() {
            let allowed = format_args!("fewer than the {have} that there are in batch element {b}");
            check_argument(other < have, OP, "the number of observations", other, allowed)?;
        }
        let exact = self.exact.iter().zip(&other.exact).map(|(a, b)| a.without(b)).collect::<Result<_>>()?;
        let n_points = self.n_points.iter().zip(&other.n_points).map(|(a, b)| a - b).collect();
        let summary = self.summary.as_ref().zip(other.summary.as_ref()).map(|(a, b)| Arc::new(a.without(b)));
        Ok(Self { exact, n_points, readout: Arc::default(), summary, ..self.clone() })
    }

    /// The same with the least and the largest of each coordinate of its observations, `[batch, dim_x]`:
    /// what [`Posterior::without`] cannot know, and [`Prediction::outside`] speaks of.
    ///
    /// # Errors
    /// Another number of ranges; one that is not finite or not in order.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = Cmanp::open(&Device::cpu(), "checkpoints/cmanp_gp_1d.safetensors")?.exact()?;
    /// let read = |t: f32, y: f32| model.condition(&Context::new(&[t, 1.0, 0.0], &[y]));
    /// let (a, b) = (read(-1.0, 0.3)?, read(1.0, 0.6)?);
    /// let left = a.merge(&b)?.without(&b)?.with_ranges(&[[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])?;
    /// assert_eq!(left.to_checkpoint()?.to_bytes()?, a.to_checkpoint()?.to_bytes()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_ranges(&self, ranges: &[[f64; 2]]) -> Result<Self> {
        const OP: &str = "Posterior::with_ranges";
        let n = self.batch * self.network.about.config.dim_x;
        check_argument(
            ranges.len() == n,
            OP,
            "the number of ranges",
            ranges.len(),
            format_args!("{n}, [batch, dim_x]"),
        )?;
        let is_range = |[low, high]: &[f64; 2]| low.is_finite() && high.is_finite() && low <= high;
        if let Some(range) = ranges.iter().find(|range| !is_range(range)) {
            return Err(Error::argument(OP, "a range", format!("{range:?}"), "two finite numbers, the lesser first"));
        }
        let summary = self.summary.as_ref().map(|summary| Arc::new(summary.with_ranges(ranges)));
        Ok(Self { summary, ..self.clone() })
    }

    /// Refuses a posterior that has nothing to do with this one.
    fn check_combined(&self, op: &'static str, other: &Self) -> Result<()> {
        self.check_rolling(op)?;
        self.network.about.check_same(op, &other.network.about, self.batch, other.batch)?;
        if self.frame.origin != other.frame.origin {
            let (found, allowed) = (format!("{:?}", other.frame.origin), format!("{:?}", self.frame.origin));
            return Err(Error::argument(op, "origin", found, allowed));
        }
        let form = |posterior: &Self| if posterior.is_exact() { "exact sums" } else { "sums that are not exact" };
        check_argument(self.is_exact() == other.is_exact(), op, "the other posterior", form(other), form(self))
    }

    /// What of all the observations is compared with the network's domain.
    fn summary_with(&self, points: &Points<'_>) -> Option<Arc<Summary>> {
        self.network.domain.as_ref()?;
        let new = points.summary(self.is_exact())?;
        Some(Arc::new(self.summary.as_ref().map_or_else(|| new.clone(), |old| old.merge(&new))))
    }

    pub(super) fn check_rolling(&self, what: &'static str) -> Result<()> {
        match self.network.encoder {
            Encoder::Rolling(_) => Ok(()),
            Encoder::Whole(_) => Err(Error::Unsupported {
                what,
                on: "an LBANP".into(),
                why: "its layers keep no state of the context; condition on all observations",
            }),
        }
    }

    /// Writes points, `block` of all the batch at a time.
    fn write(&self, points: &Points<'_>, block: usize) -> Result<Self> {
        let Network { about, embedder, encoder, .. } = &*self.network;
        let device = &about.device;
        let Encoder::Rolling(layers) = encoder else { return Ok(self.clone()) };
        let Readers { queries, exact: exact_queries } = &*self.readers;
        let (mut states, mut exact) = (self.states.clone(), self.exact.clone());
        for range in tiles(points.n, (block / self.batch).max(1)) {
            let tokens = embedder.forward(&points.rows(device, &range)?, None)?;
            let mask = points.mask(device, &range)?;
            let write = |(l, layer): (usize, &Cmab)| layer.write(&queries[l], states.get(l), &tokens, mask.as_ref());
            let write_exactly = |(l, layer): (usize, &Cmab)| {
                layer.write_exactly(&exact_queries[l], exact.get(l), &tokens, mask.as_ref())
            };
            let layers = layers.iter().enumerate();
            match self.is_exact() {
                true => exact = layers.map(write_exactly).collect::<Result<_>>()?,
                false => states = layers.map(write).collect::<Result<_>>()?,
            }
        }
        device.submit()?;
        let n_points = self.n_points.iter().zip(points.counts()).map(|(a, b)| a.saturating_add(b)).collect();
        let summary = self.summary_with(points);
        Ok(Self { states, exact, n_points, readout: Arc::default(), summary, ..self.clone() })
    }

    /// The encoder's output of each layer, `[batch, n_latents, d_model]`.
    ///
    /// # Errors
    /// The device was lost.
    pub fn encodings(&self) -> Result<&[Tensor]> {
        Ok(&self.readout()?.encodings)
    }

    fn readout(&self) -> Result<&Readout> {
        if let Some(readout) = self.readout.get() {
            return Ok(readout);
        }
        let mut encodings = Vec::new();
        if let Encoder::Rolling(layers) = &self.network.encoder {
            let mut latents = self.network.latents.repeat(self.batch)?;
            let read = match self.is_exact() {
                true => self.exact.iter().map(ExactState::read).collect::<Result<Vec<_>>>()?,
                false => self.states.iter().map(RollingState::read).collect::<Result<_>>()?,
            };
            let all: Vec<_> = layers.iter().zip(&self.readers.queries).zip(&read).collect();
            let own = |((layer, queries), read): &((&Cmab, &CmabQueries), &Attention)| layer.own(queries, &read.values);
            for (layer, own) in layers.iter().zip(side_by_side(&self.network.about.device, &all, own)?) {
                latents = layer.read_own(&latents, &own)?;
                encodings.push(latents.clone());
            }
        }
        // Another thread may have been first; what it made is the same.
        let made = Readout::new(&self.network, encodings)?;
        Ok(self.readout.get_or_init(|| made))
    }

    /// The encodings of targets `x [batch, n_points, dim_x]` that have read the latents,
    /// `[batch, n_points, d_model]`: what predictions are made of.
    ///
    /// # Errors
    /// Sizes that do not fit; numbers that are not finite.
    pub fn encode<T: Coordinate>(&self, x: &[T]) -> Result<Tensor> {
        let targets = self.targets(Numbers::new(x))?;
        self.encode_range(&targets, &(0..targets.n))
    }

    pub(super) fn targets<'a>(&self, x: Numbers<'a>) -> Result<Points<'a>> {
        Points::targets(&self.network.about.config, self.batch, x, &self.frame)
    }

    pub(super) fn outside(&self, targets: &Points<'_>) -> Outside {
        targets.outside(self.network.domain.as_ref(), self.summary.as_deref())
    }

    pub(super) fn encode_range(&self, targets: &Points<'_>, range: &Range<usize>) -> Result<Tensor> {
        let readout = self.readout()?;
        let mut x = self.network.embed_targets(targets, range)?;
        for (layer, keys_values) in self.network.decoder.iter().zip(&readout.keys_values) {
            x = layer.read(&x, keys_values)?;
        }
        self.network.norm.forward(&x, None)
    }

    /// Predicts at `x [batch, n_points, dim_x]`, any number of points, of which none influences
    /// another. No points give an empty prediction.
    ///
    /// # Errors
    /// Sizes that do not fit; numbers that are not finite, more than 1e18 from the origin, or so far from it
    /// that f32 moves them, as for [`Cmanp::condition`](super::Cmanp::condition); a prediction that is not
    /// finite; a CMANP-AND, which predicts points together.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn predict<T: Coordinate>(&self, x: &[T]) -> Result<Prediction> {
        pollster::block_on(self.predict_async(x))
    }

    /// [`Posterior::predict`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::predict`].
    pub async fn predict_async<T: Coordinate>(&self, x: &[T]) -> Result<Prediction> {
        if self.network.about.config.covariance.is_some() {
            return Err(Error::Unsupported {
                what: "Posterior::predict",
                on: "a CMANP-AND".into(),
                why: "its targets vary together; use Posterior::predict_joint",
            });
        }
        let targets = self.targets(Numbers::new(x))?;
        let (batch, n, dim_y) = (self.batch, targets.n, self.network.about.config.dim_y);
        let mut all = zeros(&[batch, n, 2 * dim_y])?;
        // Once, before several threads ask for it.
        self.readout()?;
        let start = |tile: &Range<usize>| self.network.predictor.forward(&self.encode_range(&targets, tile)?, None);
        let About { device, config, .. } = &self.network.about;
        let piece = piece(batch, config.widest());
        stream(device, tiles(n, self.network.tile(batch)), piece, start, |tile, activations| {
            check_predicted("the network's output", (n, 2 * dim_y), &tile, &activations)?;
            place(&tile, 2 * dim_y, &activations, &mut all);
            Ok(())
        })
        .await?;
        let prediction = Prediction::new(config.output(), [batch, n, dim_y], all)?;
        Ok(prediction.with_outside(self.outside(&targets)))
    }
}

impl Merge for Posterior {
    fn merge(&self, other: &Self) -> Result<Self> {
        self.merge(other)
    }
}

impl Readout {
    fn new(network: &Network, encodings: Vec<Tensor>) -> Result<Self> {
        let layers = network.decoder.iter().zip(&encodings);
        let keys_values = layers.map(|(layer, encoding)| layer.keys_values(encoding)).collect::<Result<_>>()?;
        Ok(Self { encodings, keys_values })
    }
}
