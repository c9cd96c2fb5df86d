//! Whole functions of a CMANP, block after block: what was drawn, or is true, of a block is taken in before
//! the next.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::{
    config::Config,
    joint::{JointPrediction, MAX_JOINT},
    points::Context,
    posterior::Posterior,
};
use crate::{
    error::{Error, Result, check_argument},
    host::{repeated, zeros},
    models::{
        Prediction,
        evaluation::{Evaluation, Seen, pick},
        frame::Frame,
        points::{Coordinate, Numbers},
        prediction::Uniforms,
        tiles::{self, tiles},
    },
    ops::RollingState,
    tensor::{Tensor, check_finite},
};

/// What is predicted of a block of points.
enum Block {
    /// Each by itself.
    Each(Prediction),
    /// Together, for each batch element: a CMANP-AND.
    Joint(Vec<JointPrediction>),
}

/// How functions are drawn.
struct Course {
    n_points: usize,
    block: usize,
    seed: u64,
    /// What is predicted of the first block, which is the same for all draws.
    first: Block,
}

impl Block {
    fn draw(&self, element: usize, random: &mut Uniforms, values: &mut [f64]) {
        match self {
            Self::Each(prediction) => prediction.draw(element, random, values),
            Self::Joint(predictions) => values.copy_from_slice(&predictions[element].draw(random)),
        }
    }

    fn seen(&self, y: &[f32]) -> Result<Seen> {
        match self {
            Self::Each(prediction) => Seen::new(prediction, y),
            Self::Joint(predictions) => {
                let of_batch = predictions.iter().zip(y.chunks(y.len() / predictions.len().max(1)));
                Ok(Seen {
                    mean: predictions.iter().flat_map(JointPrediction::mean).collect(),
                    std: predictions.iter().flat_map(JointPrediction::std).collect(),
                    log_densities: of_batch.map(|(joint, y)| joint.log_density(y)).collect::<Result<_>>()?,
                })
            }
        }
    }
}

impl Posterior {
    /// Draws `n` whole functions at `x [batch, n_points, dim_x]`: `[n, batch, n_points, dim_y]`. Points are
    /// drawn in their order, each from what is predicted once all drawn before it are taken in, exactly; so
    /// values of one draw go together as the model holds values to go together. Draw `i` of a seed is the
    /// same however many there are, and on every device up to rounding.
    ///
    /// All draws begin with the state of this posterior, which is copied for each. It has read its
    /// observations once, so that time does not depend on their number: it is that of `n n_points` updates
    /// and predictions of one point, many draws at a time.
    ///
    /// # Errors
    /// Sizes that do not fit; numbers that are not finite; more than one point and an LBANP, which cannot
    /// take them in; there is no room.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
    /// let posterior = model.condition(&Context::new(&[-1.0, 1.0, 0.0], &[0.3]))?;
    /// let x = [0.5, 1.0, 0.0, 0.5001, 1.0, 0.0]; // two points that are as good as one
    /// let drawn = posterior.draws(&x, 7, 20)?;
    /// let apart = drawn.chunks(2).map(|y| (y[0] - y[1]).powi(2)).sum::<f32>() / 20.0;
    /// let by_themselves = posterior.predict(&x)?.std()[0].powi(2) * 2.0;
    /// assert!(apart < 0.5 * by_themselves, "{apart} and {by_themselves}");
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn draws<T: Coordinate>(&self, x: &[T], seed: u64, n: usize) -> Result<Vec<f32>> {
        self.draws_in_blocks(x, seed, n, 1)
    }

    /// [`Posterior::draws`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::draws`].
    pub async fn draws_async<T: Coordinate>(&self, x: &[T], seed: u64, n: usize) -> Result<Vec<f32>> {
        self.draws_in_blocks_async(x, seed, n, 1).await
    }

    /// [`Posterior::draws`] with as many points at once as `block` says. With a CMANP-AND the points of a block
    /// are drawn together from their covariance, as it was trained; of other models they are drawn each by
    /// itself, which takes less time and says less.
    ///
    /// # Errors
    /// As [`Posterior::draws`] and, of a CMANP-AND, [`Posterior::predict_joint`]; a block of 0.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn draws_in_blocks<T: Coordinate>(&self, x: &[T], seed: u64, n: usize, block: usize) -> Result<Vec<f32>> {
        pollster::block_on(self.draws_in_blocks_async(x, seed, n, block))
    }

    /// [`Posterior::draws_in_blocks`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::draws_in_blocks`].
    pub async fn draws_in_blocks_async<T: Coordinate>(
        &self,
        x: &[T],
        seed: u64,
        n: usize,
        block: usize,
    ) -> Result<Vec<f32>> {
        let n_points = self.check_blocks("Posterior::draws", x, block)?;
        let config = &self.network.about.config;
        let size = self.batch * n_points * config.dim_y;
        let mut all = zeros(&[n, size])?;
        if all.is_empty() {
            return Ok(all);
        }
        let first = self.block(&pick(x, n_points, config.dim_x, &(0..block.min(n_points)))).await?;
        let n_latents = config.n_latents.max(config.n_latents_per_layer.unwrap_or(0));
        let mut at_once = tiles::at_once(&self.network.about.device, self.batch * n_latents, config.widest());
        if config.covariance.is_some() {
            // Their covariances are held at once.
            let together = block.min(n_points) * config.dim_y;
            at_once = at_once.min(MAX_JOINT * MAX_JOINT / together.saturating_mul(together) / self.batch).max(1);
        }
        let course = Course { n_points, block, seed, first };
        for draws in tiles(n, at_once) {
            let drawn = &mut all[draws.start * size..draws.end * size];
            self.draw_some(x, &course, draws, drawn).await?;
        }
        Ok(all)
    }

    /// Some of the draws, `[draws.len(), batch, n_points, dim_y]`.
    async fn draw_some<T: Coordinate>(
        &self,
        x: &[T],
        course: &Course,
        draws: Range<usize>,
        drawn: &mut [f32],
    ) -> Result<()> {
        let (&Config { dim_x, dim_y, .. }, n) = (&self.network.about.config, course.n_points);
        let streams = draws.clone().flat_map(|draw| (0..self.batch).map(move |b| (b, draw)));
        let mut random: Vec<Uniforms> = streams.map(|(b, draw)| Uniforms::new(course.seed, b, draw)).collect();
        // That of every draw, once they differ.
        let mut posterior: Option<Self> = None;
        for start in (0..n).step_by(course.block) {
            let points = start..n.min(start + course.block);
            let here = repeated(&pick(x, n, dim_x, &points), draws.len())?;
            let next = match &posterior {
                None => None,
                Some(posterior) => Some(posterior.block(&here).await?),
            };
            let mut values = zeros::<f32>(&[random.len(), points.len(), dim_y])?;
            let mut one = zeros::<f64>(&[points.len(), dim_y])?;
            let of_elements = values.chunks_exact_mut(one.len()).zip(drawn.chunks_exact_mut(n * dim_y));
            for (i, (values, drawn)) in of_elements.enumerate() {
                match &next {
                    None => course.first.draw(i % self.batch, &mut random[i], &mut one),
                    Some(next) => next.draw(i, &mut random[i], &mut one),
                }
                values.iter_mut().zip(&one).for_each(|(value, one)| *value = *one as f32);
                drawn[points.start * dim_y..][..values.len()].copy_from_slice(values);
            }
            check_finite("what was drawn", &values)?;
            if points.end < n {
                let before = match posterior {
                    Some(posterior) => posterior,
                    None => self.repeat(draws.len()).await?,
                };
                posterior = Some(before.update(&Context::new(&here, &values).batch(random.len()))?);
            }
        }
        Ok(())
    }

    /// This posterior as often as there are draws, one after another in the batch.
    async fn repeat(&self, n: usize) -> Result<Self> {
        self.check_rolling("Posterior::draws")?;
        let batch = self.batch * n;
        let mut states = Vec::new();
        for RollingState { rows, layout } in &self.states {
            let mut shape = rows.shape().to_vec();
            shape[0] = batch;
            let numbers = repeated(&rows.read_async().await?, n)?;
            states.push(RollingState {
                rows: Tensor::new(&self.network.about.device, &shape, &numbers)?,
                layout: *layout,
            });
        }
        Ok(Self {
            network: self.network.clone(),
            batch,
            n_points: self.n_points.repeat(n),
            readers: self.network.readers(batch, self.is_exact())?,
            states,
            exact: self.exact.iter().map(|state| state.repeat(n)).collect(),
            readout: Arc::new(OnceLock::new()),
            frame: Arc::new(Frame { origin: self.frame.origin.repeat(n), ..Frame::default() }),
            // Nothing is compared with the domain.
            summary: None,
        })
    }

    /// Predicts a block of points.
    async fn block<T: Coordinate>(&self, x: &[T]) -> Result<Block> {
        Ok(match self.network.covariance {
            Some(_) => Block::Joint(self.predict_joint_async(x).await?),
            None => Block::Each(self.predict_async(x).await?),
        })
    }

    /// How likely `y` is at `x`, block after block of at most `block` points in their order: after each block
    /// but the last its true values are taken in. With blocks of 1 the sum is the density of all values
    /// together that [`Posterior::draws`] draws from. The result depends on the order of the points and on the
    /// size of the blocks; of a CMANP-AND points of a block vary together, of others each by itself.
    ///
    /// # Errors
    /// As [`Posterior::draws_in_blocks`] and [`Posterior::update`]; no points; a number of `y` that is not
    /// finite.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn evaluate<T: Coordinate>(&self, x: &[T], y: &[f32], block: usize) -> Result<Evaluation> {
        pollster::block_on(self.evaluate_async(x, y, block))
    }

    /// [`Posterior::evaluate`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::evaluate`].
    pub async fn evaluate_async<T: Coordinate>(&self, x: &[T], y: &[f32], block: usize) -> Result<Evaluation> {
        let config = &self.network.about.config;
        let n = self.check_blocks("Posterior::evaluate", x, block)?;
        check_argument(n > 0, "Posterior::evaluate", "points", 0, "1 or more")?;
        let expected = self.batch * n * config.dim_y;
        if y.len() != expected {
            return Err(Error::Length { shape: vec![self.batch, n, config.dim_y], expected, found: y.len() });
        }
        check_finite("y", y)?;
        let mut posterior = self.clone();
        let mut blocks = Vec::new();
        for start in (0..n).step_by(block) {
            let points = start..n.min(start + block);
            let (x, y) = (pick(x, n, config.dim_x, &points), pick(y, n, config.dim_y, &points));
            blocks.push(posterior.block(&x).await?.seen(&y)?);
            if points.end < n {
                posterior = posterior.update(&Context::new(&x, &y).batch(self.batch))?;
            }
        }
        Ok(Evaluation::collect(n, blocks))
    }

    /// The number of points in a batch element, checked.
    fn check_blocks<T: Coordinate>(&self, what: &'static str, x: &[T], block: usize) -> Result<usize> {
        let n = self.targets(Numbers::new(x))?.n;
        check_argument(block > 0, what, "block", 0, "1 or more")?;
        Ok(n)
    }
}
