//! The attention memory as the other memories are: written, read, merged.

#[cfg(feature = "gpu")]
use super::gpu;
use super::{
    cpu,
    problem::{AttentionMemory, MemoryState, Problem, check, check_probabilities, memory_shape, numbers},
    run,
};
use crate::{
    error::{Result, check_argument, check_shapes},
    host::filled,
    ops::{
        FeatureMap, LinearAttention, Normalizer, Probabilities, add, concat,
        elementwise::keep,
        gate,
        layout::{Read, Sizes, check_mask},
    },
    tensor::{Mask, Storage, Tensor, check_operands},
};

const WRITE: &str = "AttentionMemory::write";
const READ: &str = "AttentionMemory::read";
const MERGE: &str = "MemoryState::merge";

impl AttentionMemory<'_> {
    /// `WR` for every key in turn: writes keys and their values to a state, and erases; without a
    /// state, begins one. Masked keys, `mask [batch, n]`, write and erase nothing and let nothing
    /// decay, whatever they and their values hold. But they are steps: where there is erasing, they
    /// make NaN of a row of the memory that was not finite before. Where there is erasing or decay, the
    /// state counts as [erased](MemoryState::erased) even if all keys are masked. The state that is
    /// given stays as it is.
    ///
    /// Unit keys `[batch, n, n_heads * head_dim]` and `v [batch, n, n_heads * v_dim]`, or in the
    /// other [`Layout`](crate::ops::Layout).
    ///
    /// # Errors
    /// As [`attention_memory()`](crate::ops::attention_memory()).
    ///
    /// ```
    /// use wgpu_attention::{Device, Mask, Tensor, ops::{AttentionMemory, Layout}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::cpu();
    /// let k = Tensor::new(&device, &[1, 1, 2, 2], &[1.0, 0.0, 0.0, 1.0])?;
    /// let v = Tensor::new(&device, &[1, 1, 2, 1], &[3.0, 4.0])?;
    /// let mask = Mask::new(&device, &[1, 2], &[true, false])?;
    /// let state = AttentionMemory::new(Layout::HeadMajor).write(None, &k, &v, Some(&mask))?;
    /// assert_eq!(state.memory.read()?, [3.0, 0.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn write(
        &self,
        state: Option<&MemoryState>,
        k: &Tensor,
        v: &Tensor,
        mask: Option<&Mask>,
    ) -> Result<MemoryState> {
        let options = AttentionMemory { state: state.or(self.state), p_read: None, ..*self };
        let (keys, v_dim) = check(WRITE, None, k, v, &options)?;
        check_mask(WRITE, mask, keys.batch, keys.n)?;
        check_operands(WRITE, &[("k", Some(k)), ("mask", mask.map(Mask::tensor))], &[])?;
        if keys.n == 0 {
            let shape = memory_shape(keys, v_dim);
            let zeros = || Tensor::zeros(&k.device(), &shape).map(MemoryState::new);
            return options.state.cloned().map_or_else(zeros, Ok);
        }
        if options.is_sum() {
            return options.add(keys, k, v, mask);
        }
        let Some(mask) = mask else {
            return run((keys, v_dim), None, k, v, &options).map(|(_, state)| state);
        };
        // Keys of zero write and erase nothing.
        let mask = self.of_rows(keys, mask)?;
        let (k, v) = (keep(k, &mask)?, keep(v, &mask)?);
        let p = |p: Option<&Probabilities>| p.map(|p| self.kept(keys, p, &mask)).transpose();
        let (p_write, p_erase) = (p(options.p_write)?, p(options.p_erase)?);
        let decay = options.decay.map(|decay| self.undecayed(keys, decay, &mask)).transpose()?;
        let (p_write, p_erase, decay) = (p_write.as_ref(), p_erase.as_ref(), decay.as_ref());
        let options = AttentionMemory { p_write, p_erase, decay, ..options };
        run((keys, v_dim), None, &k, &v, &options).map(|(_, state)| state)
    }

    /// A mask as the rows of keys and values lie, one number each.
    fn of_rows(&self, Sizes { batch, n_heads, n, .. }: Sizes, mask: &Mask) -> Result<Tensor> {
        let mask = mask.tensor();
        if !self.layout.is_head_major() {
            return mask.reshape(&[batch, n, 1]);
        }
        if mask.is_empty() {
            return mask.reshape(&[batch, n_heads, n, 1]);
        }
        let mut of_heads = mask.clone();
        for head in 1..n_heads {
            of_heads = concat(&of_heads, 0..head * n, mask)?;
        }
        of_heads.reshape(&[batch, n_heads, n, 1])
    }

    /// A decay, one where a mask of rows hides a key.
    fn undecayed(&self, keys: Sizes, decay: &Probabilities, mask: &Tensor) -> Result<Probabilities> {
        let kept = self.kept(keys, decay, mask)?;
        let ones = Tensor::new(&mask.device(), kept.shape(), &filled(1.0, kept.shape())?)?;
        let seen = self.kept(keys, &Probabilities::computed(ones.clone()), mask)?;
        let hidden = add(&ones, seen.tensor(), -1.0)?;
        Ok(Probabilities::computed(add(kept.tensor(), &hidden, 1.0)?))
    }

    /// Probabilities, zero where a mask of rows is.
    fn kept(&self, Sizes { batch, n_heads, n, .. }: Sizes, p: &Probabilities, mask: &Tensor) -> Result<Probabilities> {
        let width = if self.layout.is_head_major() { 1 } else { n_heads };
        let p = p.tensor().reshape(&[batch * n_heads * n / width, width])?;
        let mask = mask.reshape(&[batch * n_heads * n / width, 1])?;
        keep(&p, &mask)?
            .reshape(&self.layout.row_shape(Sizes { batch, n_heads, n, dim: 1 }))
            .map(Probabilities::computed)
    }

    /// A write that erases nothing is a sum, in any order.
    fn add(&self, keys: Sizes, k: &Tensor, v: &Tensor, mask: Option<&Mask>) -> Result<MemoryState> {
        let gated = match self.p_write {
            // One number for each row of a head.
            Some(p) if self.layout.is_head_major() => {
                let p = p.tensor().reshape(&[keys.batch, keys.n_heads, keys.n, 1])?;
                Some(gate(v, &Probabilities::computed(p))?)
            }
            Some(p) => Some(gate(v, p)?),
            None => None,
        };
        // Its features are the values, its values the keys.
        let sum = LinearAttention::new(self.layout, FeatureMap::identity(1.0), Normalizer::None);
        let sum = sum.write(None, gated.as_ref().unwrap_or(v), k, mask)?.sums;
        match self.state {
            Some(state) => Ok(MemoryState { memory: add(&state.memory, &sum, 1.0)?, erased: state.erased }),
            None => Ok(MemoryState::new(sum)),
        }
    }

    /// `RD`: what every query reads from a state, in the layout of the queries. There is no
    /// log-sum-exp.
    ///
    /// Unit queries `[batch, n, n_heads * head_dim]`, or in the other [`Layout`](crate::ops::Layout).
    ///
    /// # Errors
    /// Shapes that do not fit; different devices; on a GPU, an operand larger than one binding.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{AttentionMemory, Layout, MemoryState}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::cpu();
    /// let state = MemoryState::new(Tensor::new(&device, &[1, 1, 1, 2], &[3.0, 4.0])?);
    /// let q = Tensor::new(&device, &[1, 2, 2], &[1.0, 0.0, 0.6, 0.8])?;
    /// let read = AttentionMemory::new(Layout::Projected { n_heads: 1 }).read(&q, &state)?;
    /// assert_eq!(read.values.read()?, [3.0, 5.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(&self, q: &Tensor, state: &MemoryState) -> Result<Read> {
        self.layout.check_not_grouped(READ)?;
        let queries = self.layout.sizes(READ, "q", q)?;
        let v_dim = state.memory.shape().get(2).copied().unwrap_or(0).max(1);
        state.check(READ, queries, v_dim)?;
        check_probabilities(READ, "p_read", self.p_read, self.layout, queries)?;
        let p_read = self.p_read.map(Probabilities::tensor);
        check_operands(READ, &[("q", Some(q)), ("state", Some(&state.memory)), ("p_read", p_read)], &[])?;
        let problem = Problem::new(self.layout, queries, v_dim);
        let shape = self.layout.shape(Sizes { dim: v_dim, ..queries });
        let values = match q.storage() {
            Storage::Cpu(cpu, _) => Tensor::from_cpu(
                *cpu,
                shape,
                cpu::read(cpu.0, &problem, state.memory.cpu(), q.cpu(), numbers(self.p_read))?,
            ),
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, _) => gpu::read(gpu, &problem, &state.memory, q, self.p_read, shape)?,
        };
        Ok(Read { values, log_sum_exp: None })
    }
}

impl MemoryState {
    /// What writing both sets of keys would have left, where nothing was erased: the sum.
    /// Commutative to the bit, associative to rounding.
    ///
    /// Where something was erased or decayed there is no such sum: a later write acts on what an
    /// earlier one left, `M_2 + M_1 A` with a matrix `A` of all the later keys that no state keeps.
    ///
    /// # Errors
    /// A state from which something was erased or decayed; states of different shapes or on different
    /// devices.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::MemoryState};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let state = MemoryState::new(Tensor::new(&Device::cpu(), &[1, 1, 1, 2], &[1.0, 2.0])?);
    /// assert_eq!(state.merge(&state)?.memory.read()?, [2.0, 4.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge(&self, other: &Self) -> Result<Self> {
        let allowed = "states of writes alone: what erasing leaves depends on the order, so write to one state after \
                       the other";
        let found = "one from which something was erased or decayed";
        check_argument(!(self.erased || other.erased), MERGE, "state", found, allowed)?;
        let (a, b) = (self.memory.shape(), other.memory.shape());
        let rule = "both must be of the same batch, heads and widths";
        check_shapes(a == b, MERGE, ("one state", a), ("the other", b), rule)?;
        check_operands(MERGE, &[("one state", Some(&self.memory)), ("the other", Some(&other.memory))], &[])?;
        add(&self.memory, &other.memory, 1.0).map(Self::new)
    }
}
