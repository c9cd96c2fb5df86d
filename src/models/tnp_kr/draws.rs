//! Whole functions of a TNP-KR, block after block: what was drawn, or is true, of a block joins the context
//! before the next.

use std::ops::Range;

use super::{
    TnpKr,
    points::{Context, Group, Locations},
};
use crate::{
    error::{Error, Result, check_argument},
    host::zeros,
    models::{
        evaluation::{Evaluation, Seen, pick},
        points::Numbers,
        prediction::Uniforms,
        tiles::{self, tiles},
    },
    tensor::check_finite,
};

/// A context and targets on the host, from which larger contexts are made.
struct Story<'a> {
    context: &'a Context<'a>,
    /// The coordinates of both in f64: the name of a group, its size, of the context and of the targets.
    groups: Vec<(&'a str, usize, Vec<f64>, Vec<f64>)>,
    batch: usize,
    n_context: usize,
    n_points: usize,
    n_values: usize,
}

impl<'a> Story<'a> {
    /// Of a context and targets that were conditioned on and predicted at, and so fit.
    fn new(context: &'a Context<'a>, targets: &'a Locations<'a>, n_values: usize) -> Self {
        let batch = context.locations.batch;
        let mut groups = Vec::new();
        for (name, dim, numbers) in &context.locations.groups {
            let of_targets = targets.groups.iter().find(|(other, ..)| other == name);
            let wide = |numbers: &Numbers<'_>| (0..numbers.len()).map(|i| numbers.get(i)).collect();
            let there = of_targets.map_or(Vec::new(), |(_, _, numbers)| wide(numbers));
            groups.push((name.as_str(), *dim, wide(numbers), there));
        }
        let n_points = groups.first().map_or(0, |(_, dim, _, there)| there.len() / (dim * batch));
        Self { context, groups, batch, n_context: context.values.len() / (batch * n_values), n_points, n_values }
    }

    /// The targets of a block, for so many draws.
    fn targets(&self, points: &Range<usize>, n_draws: usize) -> Vec<Group<'a>> {
        let part = |(name, dim, _, there): &(&'a str, usize, Vec<f64>, Vec<f64>)| {
            (*name, *dim, pick(there, self.n_points, *dim, points).repeat(n_draws))
        };
        self.groups.iter().map(part).collect()
    }

    /// The context with the first `n` targets, for so many draws; `values` is `[n_draws, batch, n_points,
    /// n_values]`.
    fn known(&self, n: usize, n_draws: usize, values: &[f32]) -> Known<'a> {
        let elements = 0..n_draws * self.batch;
        // The rows of each batch element after one another.
        fn joined<T: Copy>(
            elements: Range<usize>,
            of_context: &[T],
            [n_context, n, n_more]: [usize; 3],
            more: &[T],
            batch: usize,
        ) -> Vec<T> {
            let part = |b: usize| {
                let of_context = &of_context[b % batch * n_context..][..n_context];
                let of_more = &more[b % (more.len() / n_more.max(1)).max(1) * n_more..][..n];
                of_context.iter().chain(of_more).copied()
            };
            elements.flat_map(part).collect()
        }
        let groups = self.groups.iter().map(|(name, dim, here, there)| {
            let sizes = [self.n_context * dim, n * dim, self.n_points * dim];
            (*name, *dim, joined(elements.clone(), here, sizes, there, self.batch))
        });
        let sizes = [self.n_context, n, self.n_points].map(|n| n * self.n_values);
        let keep = self.context.mask.map(|keep| {
            let all = vec![true; self.batch * self.n_points];
            joined(elements.clone(), keep, [self.n_context, n, self.n_points], &all, self.batch)
        });
        Known {
            groups: groups.collect(),
            values: joined(elements.clone(), self.context.values, sizes, values, self.batch),
            keep,
            batch: elements.len(),
            origins: self.context.origins.clone(),
        }
    }
}

/// A context that owns its numbers.
struct Known<'a> {
    groups: Vec<Group<'a>>,
    values: Vec<f32>,
    keep: Option<Vec<bool>>,
    batch: usize,
    origins: Vec<(String, Vec<f64>)>,
}

impl Known<'_> {
    fn context(&self) -> Context<'_> {
        let context = Context::new(Locations::of(&self.groups, self.batch), &self.values);
        let context = Context { origins: self.origins.clone(), ..context };
        match &self.keep {
            Some(keep) => context.mask(keep),
            None => context,
        }
    }
}

impl TnpKr {
    /// Draws `n` whole functions at some points: `[n, batch, n_points, n_values]`. Points are drawn in their
    /// order, each from what is predicted once all drawn before it have joined the context; so values of one draw
    /// go together as the model holds values to go together. Draw `i` of a seed is the same however many there
    /// are, and on every device up to rounding.
    ///
    /// Every layer's keys depend on all of the context, so that each draw reads its context again for every point,
    /// many draws at a time: with scan attention `n n_points (n_context + n_points)²` steps, with linear attention
    /// `n n_points (n_context + n_points)`. [`TnpKr::draws_in_blocks`] takes fewer.
    ///
    /// # Errors
    /// As [`TnpKr::condition`] and [`Posterior::predict`](super::Posterior::predict), of the points, too: they join
    /// the context; there is no room.
    ///
    /// ```
    /// use wgpu_attention::{Device, models::tnp_kr::{Context, Locations, TnpKr}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = TnpKr::open(&Device::best(), "checkpoints/gp_1d.safetensors")?;
    /// let context = Context::new(Locations::space(1, &[-1.0, 1.0]), &[0.3, 0.5]);
    /// let functions = model.draws(&context, &Locations::space(1, &[-0.5, 0.0, 0.5]), 7, 4)?;
    /// assert_eq!(functions.len(), 4 * 3); // four functions at three points
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn draws(&self, context: &Context<'_>, locations: &Locations<'_>, seed: u64, n: usize) -> Result<Vec<f32>> {
        self.draws_in_blocks(context, locations, seed, n, 1)
    }

    /// [`TnpKr::draws`] without blocking.
    ///
    /// # Errors
    /// As [`TnpKr::draws`].
    pub async fn draws_async(
        &self,
        context: &Context<'_>,
        locations: &Locations<'_>,
        seed: u64,
        n: usize,
    ) -> Result<Vec<f32>> {
        self.draws_in_blocks_async(context, locations, seed, n, 1).await
    }

    /// [`TnpKr::draws`] with as many points at once as `block` says, each by itself given those of the blocks
    /// before: the context is read again once a block.
    ///
    /// # Errors
    /// As [`TnpKr::draws`]; a block of 0.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn draws_in_blocks(
        &self,
        context: &Context<'_>,
        locations: &Locations<'_>,
        seed: u64,
        n: usize,
        block: usize,
    ) -> Result<Vec<f32>> {
        pollster::block_on(self.draws_in_blocks_async(context, locations, seed, n, block))
    }

    /// [`TnpKr::draws_in_blocks`] without blocking.
    ///
    /// # Errors
    /// As [`TnpKr::draws_in_blocks`].
    pub async fn draws_in_blocks_async(
        &self,
        context: &Context<'_>,
        locations: &Locations<'_>,
        seed: u64,
        n: usize,
        block: usize,
    ) -> Result<Vec<f32>> {
        check_argument(block > 0, "TnpKr::draws", "block", 0, "1 or more")?;
        let posterior = self.condition(context)?;
        posterior.check(locations)?;
        let story = Story::new(context, locations, self.config().n_values);
        let size = story.batch * story.n_points * story.n_values;
        let mut all = zeros(&[n, size])?;
        if all.is_empty() {
            return Ok(all);
        }
        // The first block is the same for all of them.
        let first = story.targets(&(0..block.min(story.n_points)), 1);
        let first = posterior.predict_async(&Locations::of(&first, story.batch)).await?;
        let rows = story.batch * (story.n_context + story.n_points);
        for draws in tiles(n, tiles::at_once(self.device(), rows, self.config().widest())) {
            let n_draws = draws.len();
            let drawn = &mut all[draws.start * size..draws.end * size];
            let streams = draws.flat_map(|draw| (0..story.batch).map(move |b| Uniforms::new(seed, b, draw)));
            let mut random: Vec<Uniforms> = streams.collect();
            for start in (0..story.n_points).step_by(block) {
                let points = start..story.n_points.min(start + block);
                let next = match start {
                    0 => None,
                    _ => {
                        let known = story.known(start, n_draws, drawn);
                        let targets = story.targets(&points, n_draws);
                        let posterior = self.condition(&known.context())?;
                        Some(posterior.predict_async(&Locations::of(&targets, known.batch)).await?)
                    }
                };
                let mut values = zeros::<f64>(&[points.len(), story.n_values])?;
                for (i, drawn) in drawn.chunks_exact_mut(story.n_points * story.n_values).enumerate() {
                    match &next {
                        Some(next) => next.draw(i, &mut random[i], &mut values),
                        None => first.draw(i % story.batch, &mut random[i], &mut values),
                    }
                    let drawn = &mut drawn[points.start * story.n_values..][..values.len()];
                    drawn.iter_mut().zip(&values).for_each(|(drawn, value)| *drawn = *value as f32);
                    check_finite("what was drawn", drawn)?;
                }
            }
        }
        Ok(all)
    }

    /// How likely `y [batch, n_points, n_values]` is at some points, block after block of at most `block` points
    /// in their order: after each block but the last its true values join the context. With blocks of 1 the sum
    /// is the density of all values together that [`TnpKr::draws`] draws from. The result depends on the order of
    /// the points and on the size of the blocks.
    ///
    /// # Errors
    /// As [`TnpKr::draws`] and [`Prediction::log_density`](crate::models::Prediction::log_density); a block of 0;
    /// no points.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn evaluate(
        &self,
        context: &Context<'_>,
        locations: &Locations<'_>,
        y: &[f32],
        block: usize,
    ) -> Result<Evaluation> {
        pollster::block_on(self.evaluate_async(context, locations, y, block))
    }

    /// [`TnpKr::evaluate`] without blocking.
    ///
    /// # Errors
    /// As [`TnpKr::evaluate`].
    pub async fn evaluate_async(
        &self,
        context: &Context<'_>,
        locations: &Locations<'_>,
        y: &[f32],
        block: usize,
    ) -> Result<Evaluation> {
        check_argument(block > 0, "TnpKr::evaluate", "block", 0, "1 or more")?;
        let mut posterior = self.condition(context)?;
        posterior.check(locations)?;
        let story = Story::new(context, locations, self.config().n_values);
        let (batch, n, n_values) = (story.batch, story.n_points, story.n_values);
        check_argument(n > 0, "TnpKr::evaluate", "points", 0, "1 or more")?;
        if y.len() != batch * n * n_values {
            return Err(Error::Length {
                shape: vec![batch, n, n_values],
                expected: batch * n * n_values,
                found: y.len(),
            });
        }
        let mut blocks = Vec::new();
        for start in (0..n).step_by(block) {
            let points = start..n.min(start + block);
            if start > 0 {
                posterior = self.condition(&story.known(start, 1, y).context())?;
            }
            let prediction = posterior.predict_async(&Locations::of(&story.targets(&points, 1), batch)).await?;
            blocks.push(Seen::new(&prediction, &pick(y, n, n_values, &points))?);
        }
        Ok(Evaluation::collect(n, blocks))
    }
}
