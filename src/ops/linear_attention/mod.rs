//! Linear attention: a memory whose size does not depend on how much was written.
//!
//! `write` keeps `sum_j phi(k_j) v_j^T`, with `sum_j phi(k_j)` beside it where the normaliser
//! needs it, and `read` returns `phi(q)` times that. With random features this is the Performer
//! (FAVOR+, arXiv 2009.14794); with learned ones, deep kernel attention (arXiv 2411.12502).

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod plan;
mod problem;
mod stable;

use super::{
    add,
    layout::{Read, Sizes, check_mask, is_grouped},
};
use crate::{
    error::{Result, check_shapes},
    host::{copy, filled},
    tensor::{Mask, Storage, Tensor, check_operands},
};
pub use problem::{LinearAttention, LinearState, Normalizer};

const WRITE: &str = "LinearAttention::write";
const READ: &str = "LinearAttention::read";
const MERGE: &str = "LinearState::merge";

impl LinearAttention {
    /// Adds keys and their values to what was written before; without a state, begins one. Masked
    /// keys, `mask [batch, n]`, are not read at all. The state that is given stays as it is.
    ///
    /// Features are computed block by block and never stored. Products of a few dozen keys are
    /// added in f32, those sums in f64 on the CPU and as a tree on a GPU, always in the same
    /// order: a long sum keeps its digits, and the same input gives the same bits. A NaN in a
    /// key or value that is not masked makes what is read NaN. What a write adds to a state is
    /// [merged](LinearState::merge) with it.
    ///
    /// # Errors
    /// Shapes that fit neither each other nor the layout, the features and the state; different
    /// devices; on a GPU, an operand larger than one binding.
    ///
    /// ```
    /// use wgpu_attention::{Device, Mask, Tensor, ops::{FeatureMap, Layout, LinearAttention, Normalizer}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::cpu();
    /// let memory = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
    /// let k = Tensor::new(&device, &[1, 1, 2, 1], &[2.0, f32::NAN])?;
    /// let mask = Mask::new(&device, &[1, 2], &[true, false])?;
    /// assert_eq!(memory.write(None, &k, &k, Some(&mask))?.sums.read()?, [4.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn write(
        &self,
        state: Option<&LinearState>,
        k: &Tensor,
        v: &Tensor,
        mask: Option<&Mask>,
    ) -> Result<LinearState> {
        let (sizes, v_dim) = self.layout.keys_values(WRITE, k, v)?;
        let problem = self.problem(WRITE, sizes, v_dim)?;
        check_mask(WRITE, mask, problem.batch, problem.n)?;
        if let Some(state) = state {
            self.check_state(WRITE, &problem, state)?;
        }
        let keep = mask.map(Mask::tensor);
        let before = state.map(|state| &state.sums);
        let projection = ("projection", self.features.projection.as_ref());
        let operands = [("k", Some(k)), ("v", Some(v)), ("mask", keep), ("state", before), projection];
        check_operands(WRITE, &operands, &[])?;
        if let Some(state) = state.filter(|_| problem.n == 0) {
            return Ok(state.clone());
        }
        let n_keys = match mask {
            Some(mask) if problem.n > 0 => copy(mask.counts())?,
            _ => filled(problem.n as u64, &[problem.batch])?,
        };
        let sums = match k.storage() {
            _ if problem.is_stable() => stable::write(self, &problem, k, v, mask)?,
            Storage::Cpu(cpu, _) => {
                let sums = cpu::write(cpu.0, &problem, &self.features, k.cpu(), v.cpu(), keep.map(Tensor::cpu))?;
                Tensor::from_cpu(*cpu, problem.state_shape().to_vec(), sums)
            }
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, _) => gpu::write(gpu, &problem, &self.features, k, v, keep)?,
        };
        let written = LinearState { sums, v_dim, is_stable: problem.is_stable(), n_keys };
        match state {
            Some(state) => state.merge(&written),
            None => Ok(written),
        }
    }

    /// Reads with queries: `phi(q)` times the sums, divided as the normaliser says, in the layout
    /// of the queries. There is no log-sum-exp. The keys may have had
    /// [fewer heads](crate::ops::Layout::Grouped) than the queries.
    ///
    /// # Errors
    /// A state of another batch, number of heads or features, or one that lacks the sums of the
    /// normaliser; different devices; on a GPU, an operand larger than one binding. That the
    /// state was written with the same feature map cannot be checked.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{FeatureMap, Layout, LinearAttention, Normalizer}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let memory = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
    /// let k = Tensor::new(&Device::cpu(), &[1, 1, 2, 1], &[1.0, 2.0])?;
    /// let read = memory.read(&k, &memory.write(None, &k, &k, None)?)?;
    /// assert_eq!(read.values.read()?, [5.0, 10.0]); // q times 1 * 1 + 2 * 2
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(&self, q: &Tensor, state: &LinearState) -> Result<Read> {
        let sizes = self.layout.sizes(READ, "q", q)?;
        let v_dim = state.v_dim;
        let mut problem = self.problem(READ, sizes, v_dim)?;
        // Several heads of queries may share one of the state; other numbers of heads are refused.
        let kv_heads = state.sums.shape().get(problem.axis_of_heads()).copied().unwrap_or(0);
        if is_grouped(problem.n_heads, kv_heads) && self.layout.allows(kv_heads) {
            problem.kv_group = problem.n_heads / kv_heads;
        }
        self.check_state(READ, &problem, state)?;
        let projection = ("projection", self.features.projection.as_ref());
        check_operands(READ, &[("q", Some(q)), ("state", Some(&state.sums)), projection], &[])?;
        let shape = self.layout.shape(Sizes { dim: v_dim, ..sizes });
        let values = match q.storage() {
            _ if problem.is_stable() => stable::read(self, &problem, q, &state.sums)?,
            Storage::Cpu(cpu, _) => {
                let y = cpu::read(cpu.0, &problem, &self.features, q.cpu(), state.sums.cpu(), &state.n_keys)?;
                Tensor::from_cpu(*cpu, shape, y)
            }
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, _) => gpu::read(gpu, &problem, &self.features, q, state, shape)?,
        };
        Ok(Read { values, log_sum_exp: None })
    }
}

impl LinearState {
    /// What writing both sets of keys, with one feature map, would have kept. Commutative to the
    /// bit, associative to rounding.
    ///
    /// Sums are f32: what is merged should not be millions of times smaller than what it is
    /// merged with, or it is lost in rounding. Collect small writes before they join a large state.
    ///
    /// # Errors
    /// States of different shapes or on different devices.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{FeatureMap, Layout, LinearAttention, Normalizer}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let memory = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
    /// let k = Tensor::new(&Device::cpu(), &[1, 1, 2, 1], &[1.0, 2.0])?;
    /// let state = memory.write(None, &k, &k, None)?;
    /// assert_eq!(state.merge(&state)?.sums.read()?, [10.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge(&self, other: &Self) -> Result<Self> {
        let (a, b) = (self.sums.shape(), other.sums.shape());
        let fit = a == b
            && a.len() == 4
            && (!self.is_stable || a[3] == self.v_dim + 1)
            && (self.v_dim, self.is_stable) == (other.v_dim, other.is_stable)
            && self.n_keys.len() == other.n_keys.len();
        let rule = "both must be of the same batch, heads, features, width and normaliser";
        check_shapes(fit, MERGE, ("one state", a), ("the other", b), rule)?;
        check_operands(MERGE, &[("one state", Some(&self.sums)), ("the other", Some(&other.sums))], &[])?;
        let n_keys = self.n_keys.iter().zip(&other.n_keys).map(|(a, b)| a.saturating_add(*b)).collect();
        let sums = match self.is_stable {
            true => stable::merge(&self.sums, &other.sums)?,
            false => add(&self.sums, &other.sums, 1.0)?,
        };
        Ok(Self { sums, v_dim: self.v_dim, is_stable: self.is_stable, n_keys })
    }
}
