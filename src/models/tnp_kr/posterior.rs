//! A conditioned model, and what it predicts.

use std::{fmt, ops::Range, sync::Arc};

use super::{
    block::BlockMemory,
    config::Config,
    network::Network,
    points::{Context, Locations, Points},
};
use crate::{
    error::{Error, Result, check_argument},
    host::zeros,
    models::{
        Prediction,
        domain::{Outside, Summary},
        frame::Frame,
        open::About,
        tiles::{check_predicted, piece, place, stream, tiles},
    },
    tensor::Tensor,
};

/// A TNP-KR that has read its context. Predicting never touches the observations again. With
/// scan attention its size grows with the context; with linear attention it is constant:
/// layers × heads × features × width of a value.
///
/// ```
/// use wgpu_attention::{Device, models::tnp_kr::{Context, Locations, TnpKr}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = TnpKr::open(&Device::best(), "checkpoints/gp_1d.safetensors")?;
/// let posterior = model.condition(&Context::new(Locations::space(1, &[0.0, 1.0]), &[0.3, -0.1]))?;
/// assert_eq!(posterior.n_context(), 2);
/// let [left, right] = [&[0.4][..], &[0.6]].map(|x| posterior.predict(&Locations::space(1, x)));
/// let both = posterior.predict(&Locations::space(1, &[0.4, 0.6]))?; // points do not influence each other
/// assert!((both.mean()[0] - left?.mean()[0]).abs() < 1e-5 && (both.mean()[1] - right?.mean()[0]).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Posterior {
    pub(super) network: Arc<Network>,
    pub(super) batch: usize,
    pub(super) n_context: usize,
    /// One for each application of each block.
    pub(super) memories: Vec<BlockMemory>,
    /// The columns of each coordinate group.
    pub(super) columns: Vec<Range<usize>>,
    /// What is taken off the coordinates of every point.
    pub(super) frame: Arc<Frame>,
    /// Of the context, for networks with a domain.
    pub(super) summary: Option<Arc<Summary>>,
}

impl fmt::Debug for Posterior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Posterior")
            .field("batch", &self.batch)
            .field("n_context", &self.n_context)
            .field("n_bytes", &self.n_bytes())
            .field("device", &format_args!("{}", self.network.about.device))
            .finish()
    }
}

impl Posterior {
    pub(super) fn condition(network: &Arc<Network>, context: &Context<'_>) -> Result<Self> {
        let points = Points::observed(&network.about.config, network.domain.as_ref(), context)?;
        let columns = points.columns();
        let mut tiles = network.context_tiles(&points)?;
        let mut memories: Vec<BlockMemory> = Vec::new();
        let n_applications = network.applications().count();
        for (i, block) in network.applications().enumerate() {
            let mut memory: Option<BlockMemory> = None;
            for tile in &tiles {
                let written = block.write(&tile.tokens, Some((&tile.coords, &columns)), tile.mask.as_ref())?;
                memory = Some(match memory {
                    Some(memory) => memory.merge(&written)?,
                    None => written,
                });
            }
            let memory = memory.ok_or(Error::EmptyContext { batch: None })?;
            // Nothing reads the context after the last block.
            if i + 1 < n_applications {
                for tile in &mut tiles {
                    tile.tokens = block.read(&tile.tokens, &memory, Some((&tile.coords, &columns)), None)?;
                }
            }
            memories.push(memory);
        }
        network.about.device.submit()?;
        let (batch, n_context) = (points.batch, points.n_points);
        let summary = network.domain.as_ref().and(points.summary()).map(Arc::new);
        Ok(Self { network: network.clone(), batch, n_context, memories, columns, frame: points.frame, summary })
    }

    /// How many observations each batch element was given, those that a mask leaves out among them.
    pub fn n_context(&self) -> usize {
        self.n_context
    }

    /// Independent data sets.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes that the posterior holds beside the network.
    pub fn n_bytes(&self) -> usize {
        let mut tensors: Vec<_> = self.memories.iter().flat_map(BlockMemory::tensors).collect();
        // All layers of scan attention share the coordinates and the mask.
        tensors.extend(self.memories.first().map(BlockMemory::shared_tensors).into_iter().flatten());
        tensors.iter().map(|(_, tensor)| size_of::<f32>() * tensor.len()).sum()
    }

    /// The posterior of both contexts together, where that can be had without reading them
    /// again: of a model that applies **one block** of linear attention. The keys of a second
    /// block depend on all of the context, and softmax attention would need its keys side by
    /// side; condition on the joined observations there.
    ///
    /// # Errors
    /// A model with more than one block application or scan attention; posteriors of different
    /// models, batches or coordinate groups; one with a mask and one without.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::tnp_kr::{Config, Context, Locations, TnpKr}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = TnpKr::random(&Device::best(), &Config { n_blocks: 1, ..Config::performer(1, 1) }, 0)?;
    /// let read = |x: &[f32], y: &[f32]| model.condition(&Context::new(Locations::space(1, x), y));
    /// let merged = read(&[0.1, 0.2], &[1.0, 2.0])?.merge(&read(&[0.3], &[3.0])?)?;
    /// let whole = read(&[0.1, 0.2, 0.3], &[1.0, 2.0, 3.0])?;
    /// let at = Locations::space(1, &[0.25]);
    /// assert!((merged.predict(&at)?.mean()[0] - whole.predict(&at)?.mean()[0]).abs() < 1e-4);
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge(&self, other: &Self) -> Result<Self> {
        const OP: &str = "Posterior::merge";
        self.network.about.check_same(OP, &other.network.about, self.batch, other.batch)?;
        let refused = |name, found, allowed| Err(Error::argument(OP, name, found, allowed));
        if self.columns != other.columns {
            return refused("coordinate columns", format!("{:?}", other.columns), format!("{:?}", self.columns));
        }
        let ([memory], true) = (self.memories.as_slice(), self.network.about.config.attention.is_linear()) else {
            let layers = self.memories.len();
            let allowed = "a single layer of linear attention".into();
            return refused("the model", format!("one of {layers} attention layers"), allowed);
        };
        if self.frame.origin != other.frame.origin {
            return refused("origin", format!("{:?}", other.frame.origin), format!("{:?}", self.frame.origin));
        }
        let memories = vec![memory.merge(&other.memories[0])?];
        let n_context = self.n_context.saturating_add(other.n_context);
        let summary = self.summary.as_ref().zip(other.summary.as_ref()).map(|(a, b)| Arc::new(a.merge(b)));
        let frame = Arc::new(self.frame.merge(&other.frame));
        Ok(Self { n_context, memories, summary, frame, ..self.clone() })
    }

    /// Predicts at any number of points; they do not influence each other. No points give an
    /// empty prediction.
    ///
    /// # Errors
    /// Coordinates that are not those of the model, differ in number, are not finite, or do not survive
    /// as f32 (see [`TnpKr::condition`](super::TnpKr::condition)); a prediction that is not finite.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn predict(&self, locations: &Locations<'_>) -> Result<Prediction> {
        pollster::block_on(self.predict_async(locations))
    }

    /// [`Posterior::predict`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::predict`].
    pub async fn predict_async(&self, locations: &Locations<'_>) -> Result<Prediction> {
        let points = self.points(locations)?;
        let (n, n_out) = (points.n_points, self.network.n_out);
        let mut all = zeros(&[self.batch, n, n_out])?;
        self.stream(&points, self.network.tile(self.batch), |range, activations| {
            place(&range, n_out, &activations, &mut all);
            Ok(())
        })
        .await?;
        self.prediction(n, all, self.outside(&points))
    }

    /// Predicts `tile_size` points at a time and hands each tile on, with the range of points
    /// that it holds, so that memory does not grow with the number of points. Stops at the
    /// first error, which may be the receiver's.
    ///
    /// # Errors
    /// As [`Posterior::predict`]; a tile size of 0; what `receive` returns.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::tnp_kr::{Config, Context, Locations, TnpKr}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = TnpKr::random(&Device::best(), &Config { n_blocks: 1, ..Config::deep_kernel(1, 1) }, 0)?;
    /// let posterior = model.condition(&Context::new(Locations::space(1, &[0.0]), &[0.5]))?;
    /// let mut means = vec![0.0; 1000];
    /// posterior.predict_tiles(&Locations::space(1, &[0.1; 1000]), 256, |range, tile| {
    ///     means[range].copy_from_slice(tile.mean()); // or to a file
    ///     Ok(())
    /// })?;
    /// assert!(means.iter().all(|mean| (mean - means[0]).abs() < 1e-5)); // all at the same place
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn predict_tiles(
        &self,
        locations: &Locations<'_>,
        tile_size: usize,
        receive: impl FnMut(Range<usize>, Prediction) -> Result<()>,
    ) -> Result<()> {
        pollster::block_on(self.predict_tiles_async(locations, tile_size, receive))
    }

    /// [`Posterior::predict_tiles`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::predict_tiles`].
    pub async fn predict_tiles_async(
        &self,
        locations: &Locations<'_>,
        tile_size: usize,
        mut receive: impl FnMut(Range<usize>, Prediction) -> Result<()>,
    ) -> Result<()> {
        check_argument(tile_size > 0, "predict_tiles", "tile_size", tile_size, "1 or more")?;
        let points = self.points(locations)?;
        let outside = self.outside(&points);
        let receive = |range: Range<usize>, activations| {
            let prediction = self.prediction(range.len(), activations, outside.clone())?;
            receive(range, prediction)
        };
        self.stream(&points, tile_size, receive).await
    }

    fn outside(&self, points: &Points<'_>) -> Outside {
        points.outside(self.network.domain.as_ref(), self.summary.as_deref())
    }

    /// Refuses places that are not of the context's coordinates.
    pub(super) fn check(&self, locations: &Locations<'_>) -> Result<()> {
        self.points(locations).map(drop)
    }

    fn points<'a>(&'a self, locations: &Locations<'a>) -> Result<Points<'a>> {
        let (found, batch) = (locations.batch, self.batch);
        check_argument(found == batch, "predict", "batch", found, format_args!("{batch}, that of the context"))?;
        let points = Points::targets(&self.network.about.config, locations, &self.frame)?;
        let (found, columns) = (points.columns(), &self.columns);
        let allowed = format_args!("{columns:?}, those of the context");
        check_argument(found == *columns, "predict", "coordinate columns", format_args!("{found:?}"), allowed)?;
        Ok(points)
    }

    async fn stream(
        &self,
        points: &Points<'_>,
        tile: usize,
        mut receive: impl FnMut(Range<usize>, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        let start = |range: &Range<usize>| self.activations(points, range);
        let About { device, config, .. } = &self.network.about;
        // Scan attention packs the keys for all the queries that it is given, and shares them out itself.
        let piece = if config.attention.is_linear() { piece(self.batch, config.widest()) } else { tile };
        stream(device, tiles(points.n_points, tile), piece, start, |range, activations| {
            check_predicted("the network's output", (points.n_points, self.network.n_out), &range, &activations)?;
            receive(range, activations)
        })
        .await
    }

    /// What the head returns for some points, `[batch, len, n_out]`.
    fn activations(&self, points: &Points<'_>, range: &Range<usize>) -> Result<Tensor> {
        let network = &self.network;
        let mut qv = network.embed(points, range)?;
        let coords = network.coords(points, range)?;
        for (block, memory) in network.applications().zip(&self.memories) {
            qv = block.read(&qv, memory, Some((&coords, &self.columns)), None)?;
        }
        network.head(&qv)
    }

    fn prediction(&self, len: usize, activations: Vec<f32>, outside: Outside) -> Result<Prediction> {
        let Config { output, n_values, .. } = self.network.about.config;
        Ok(Prediction::new(output, [self.batch, len, n_values], activations)?.with_outside(outside))
    }
}
