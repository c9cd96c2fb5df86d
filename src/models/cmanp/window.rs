//! The last observations of a stream.

use std::collections::VecDeque;

use super::{Cmanp, Context, Posterior, points::Points};
use crate::{
    error::{Error, Result, check_argument},
    ops::Window as Blocks,
};

const NEW: &str = "cmanp::Window::new";
const PUSH: &str = "cmanp::Window::push";
const FORGET: &str = "cmanp::Window::forget";

/// The last observations of a stream, the oldest of which are forgotten: amortised constant work a point.
///
/// Points are read in blocks of `step`, each of which is written once and merged twice or three times
/// ([`ops::Window`](crate::ops::Window)). [`Window::posterior`] is of exactly the points that are there: it
/// reads what is left of the oldest block, and those points that do not fill one yet, again. So memory is
/// that of the points themselves and of one posterior for `step` points.
///
/// ```
/// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context, Window}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
/// let mut window = Window::new(&model, 10)?;
/// for i in 0..100 {
///     let t = 0.1 * i as f32 - 2.0;
///     window.push(&Context::new(&[t, (44.0 * t).cos(), (44.0 * t).sin()], &[0.3]))?;
///     window.keep(25)?; // or window.forget_before(0, t - 2.5), the last span of time
/// }
/// assert_eq!(window.posterior()?.n_points(), [25]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Window {
    model: Cmanp,
    step: usize,
    /// See [`Window::origin`].
    origin: Option<Vec<f64>>,
    x: VecDeque<f64>,
    y: VecDeque<f32>,
    /// Of `step` points each; what is left over is not in any.
    blocks: Blocks<Posterior>,
    /// Points of the oldest block that are forgotten already, fewer than `step`.
    gone: usize,
}

impl Window {
    /// An empty window. `step` is how many points a block has: some hundred, so that a posterior for each
    /// takes little memory, and reading the rest of two again takes little time.
    ///
    /// # Errors
    /// A step of 0; an LBANP, whose posteriors do not merge.
    pub fn new(model: &Cmanp, step: usize) -> Result<Self> {
        check_argument(step > 0, NEW, "step", step, "1 or more")?;
        if model.config().n_latents_per_layer.is_none() {
            return Err(Error::Unsupported { what: NEW, on: "an LBANP".into(), why: "its posteriors do not merge" });
        }
        let (x, y) = (VecDeque::new(), VecDeque::new());
        Ok(Self { model: model.clone(), step, origin: None, x, y, blocks: Blocks::default(), gone: 0 })
    }

    /// What is taken off the coordinates of every point, as [`Context::origin`]; to be set before any come.
    pub fn origin(mut self, origin: &[f64]) -> Self {
        self.origin = Some(origin.to_vec());
        self
    }

    /// Takes in the newest points, any number of them.
    ///
    /// # Errors
    /// As [`Cmanp::condition`], before any was taken in; where the network's own numbers overflow, too, unless it is
    /// for points of an earlier call, which are read when their block is full: these are forgotten as others are. A
    /// batch of several data sets, a mask, or an origin,
    /// which the window has.
    pub fn push(&mut self, context: &Context<'_>) -> Result<()> {
        check_argument(context.batch == 1, PUSH, "batch", context.batch, "1")?;
        check_argument(context.mask.is_none(), PUSH, "mask", "given", "none")?;
        check_argument(context.origin.is_none(), PUSH, "origin", "given", "none: set Window::origin")?;
        let origin = self.origin.as_deref();
        let points = Points::observed(self.model.config(), &Context { origin, ..*context }, None)?;
        let n_coordinates = points.n * self.model.config().dim_x;
        let (had, earlier) = ([self.x.len(), self.y.len()], self.n_left());
        self.x.extend((0..n_coordinates).map(|i| context.x.get(i)));
        self.y.extend(context.y);
        let n_left = self.n_left();
        let (first, n_blocks) = (self.n_points() - n_left, n_left / self.step);
        let blocks = (0..n_blocks).map(|i| self.condition(first + i * self.step, self.step));
        let blocks = blocks.collect::<Result<Vec<_>>>().inspect_err(|_| {
            // Those that were there before may be what fails.
            if earlier == 0 || self.condition(first, earlier).is_ok() {
                self.x.truncate(had[0]);
                self.y.truncate(had[1]);
            }
        })?;
        blocks.into_iter().try_for_each(|block| self.blocks.push(block))
    }

    /// Forgets the oldest `n` points.
    ///
    /// # Errors
    /// There are fewer; the device was lost.
    pub fn forget(&mut self, n: usize) -> Result<()> {
        let have = self.n_points();
        check_argument(n <= have, FORGET, "the number of points", n, format_args!("up to the {have} that are there"))?;
        let config = self.model.config();
        self.x.drain(..n * config.dim_x);
        self.y.drain(..n * config.dim_y);
        self.gone += n;
        while self.gone >= self.step && self.blocks.pop()? {
            self.gone -= self.step;
        }
        if self.blocks.is_empty() {
            self.gone = 0;
        }
        Ok(())
    }

    /// Forgets all but the newest `n` points.
    ///
    /// # Errors
    /// As [`Window::forget`].
    pub fn keep(&mut self, n: usize) -> Result<()> {
        self.forget(self.n_points().saturating_sub(n))
    }

    /// Forgets points, the oldest first, whose coordinate `column` is less than `moment`, until one is not:
    /// all that came before a moment, of points in their order in time.
    ///
    /// # Errors
    /// No such coordinate; a moment that is no number; as [`Window::forget`].
    pub fn forget_before(&mut self, column: usize, moment: f64) -> Result<()> {
        const OP: &str = "cmanp::Window::forget_before";
        let dim_x = self.model.config().dim_x;
        check_argument(column < dim_x, OP, "column", column, format_args!("below {dim_x}, the numbers of a point"))?;
        check_argument(!moment.is_nan(), OP, "moment", moment, "a number")?;
        let times = self.x.iter().skip(column).step_by(dim_x);
        self.forget(times.take_while(|time| **time < moment).count())
    }

    /// Points that are there.
    pub fn n_points(&self) -> usize {
        self.y.len() / self.model.config().dim_y
    }

    /// The posterior of the points that are there.
    ///
    /// # Errors
    /// There are none; the device was lost.
    pub fn posterior(&mut self) -> Result<Posterior> {
        let whole = match self.gone {
            0 => self.blocks.state()?,
            _ => self.blocks.state_without_oldest()?,
        };
        let of_oldest = if self.gone > 0 { self.step - self.gone } else { 0 };
        let n_left = self.n_left();
        let rest = [(0, of_oldest), (self.n_points() - n_left, n_left)];
        let mut all = whole;
        for (first, n) in rest.into_iter().filter(|(_, n)| *n > 0) {
            let part = self.condition(first, n)?;
            all = Some(match all {
                Some(all) => all.merge(&part)?,
                None => part,
            });
        }
        all.ok_or(Error::EmptyContext { batch: None })
    }

    /// Bytes that the points and the posteriors of their blocks hold.
    pub fn n_bytes(&self) -> usize {
        let points = size_of::<f64>() * self.x.len() + size_of::<f32>() * self.y.len();
        points + self.blocks.kept().map(Posterior::n_bytes).sum::<usize>()
    }

    /// Points that are in no block.
    fn n_left(&self) -> usize {
        self.n_points() + self.gone - self.step * self.blocks.len()
    }

    fn condition(&self, first: usize, n: usize) -> Result<Posterior> {
        let config = self.model.config();
        let of = |dim: usize| first * dim..(first + n) * dim;
        let x: Vec<f64> = self.x.range(of(config.dim_x)).copied().collect();
        let y: Vec<f32> = self.y.range(of(config.dim_y)).copied().collect();
        let context = Context::new(&x, &y);
        match &self.origin {
            Some(origin) => self.model.condition(&context.origin(origin)),
            None => self.model.condition(&context),
        }
    }
}
