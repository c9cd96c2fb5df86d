//! How to write, erase and read, what is written to, and the sizes of a call.

use crate::{
    error::{Result, check_shape, check_shapes},
    ops::{
        Probabilities,
        layout::{Layout, Sizes},
    },
    tensor::{Tensor, check_operands, check_size},
};

pub(super) const OP: &str = "attention_memory";

/// The widest heads on a GPU.
pub const MAX_HEAD_DIM: usize = 1024;

/// How a sequence is computed. The forms agree to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Form {
    /// Step by step.
    Recurrent,
    /// 32 steps at a time: the more of the work is products of matrices, the longer the sequence.
    Chunked,
}

/// How to write, erase and read.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{AttentionMemory, Layout, Probabilities}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::cpu();
/// let p = Probabilities::new(&device, &[1, 1, 1], &[1.0])?;
/// let memory = AttentionMemory::new(Layout::HeadMajor).p_write(&p).p_erase(&p);
/// let k = Tensor::new(&device, &[1, 1, 1, 2], &[0.6, 0.8])?;
/// let v = |x: f32| Tensor::new(&device, &[1, 1, 1, 1], &[x]);
/// let state = memory.write(None, &k, &v(3.0)?, None)?;
/// let state = memory.write(Some(&state), &k, &v(7.0)?, None)?; // in the place of 3
/// assert!((memory.read(&k, &state)?.values.read()?[0] - 7.0).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AttentionMemory<'a> {
    /// How heads lie in queries, keys and values.
    pub layout: Layout,
    /// What a first write, or a sequence, begins with; zeros if not given.
    pub state: Option<&'a MemoryState>,
    /// `p_r` of every query, 1 if not given: `[batch, n, n_heads]`, or `[batch, n_heads, n]` if
    /// head-major.
    pub p_read: Option<&'a Probabilities>,
    /// `p_w` of every key, 1 if not given.
    pub p_write: Option<&'a Probabilities>,
    /// `p_e` of every key, 0 if not given.
    pub p_erase: Option<&'a Probabilities>,
    /// What every step keeps of the memory, before it erases and writes; 1, all, if not given. The
    /// gate `alpha` of the gated delta rule.
    pub decay: Option<&'a Probabilities>,
    /// How it is computed; chosen from the sizes if not given.
    pub form: Option<Form>,
}

/// The matrix of every head: plain data of constant size.
#[derive(Clone, Debug)]
pub struct MemoryState {
    /// `[batch, n_heads, v_dim, head_dim]`: rows are values, columns keys.
    pub memory: Tensor,
    /// Whether anything was erased or decayed. What was then depends on the order of the writes, so
    /// such states do not merge.
    pub erased: bool,
}

impl<'a> AttentionMemory<'a> {
    /// Everything is written, nothing erased.
    pub fn new(layout: Layout) -> Self {
        Self { layout, ..Self::default() }
    }

    /// Sets [`AttentionMemory::state`].
    pub fn state(mut self, state: &'a MemoryState) -> Self {
        self.state = Some(state);
        self
    }

    /// Sets [`AttentionMemory::p_read`].
    pub fn p_read(mut self, p: &'a Probabilities) -> Self {
        self.p_read = Some(p);
        self
    }

    /// Sets [`AttentionMemory::p_write`].
    pub fn p_write(mut self, p: &'a Probabilities) -> Self {
        self.p_write = Some(p);
        self
    }

    /// Sets [`AttentionMemory::p_erase`].
    pub fn p_erase(mut self, p: &'a Probabilities) -> Self {
        self.p_erase = Some(p);
        self
    }

    /// Sets [`AttentionMemory::decay`].
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{AttentionMemory, Layout, Probabilities, attention_memory}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::cpu();
    /// // The gated delta rule: what is erased is what is written, of a memory of which half is kept.
    /// let half = Probabilities::new(&device, &[1, 1, 3], &[0.5; 3])?;
    /// let one = Probabilities::new(&device, &[1, 1, 3], &[1.0; 3])?;
    /// let memory = AttentionMemory::new(Layout::HeadMajor).p_write(&one).p_erase(&one).decay(&half);
    /// let k = Tensor::new(&device, &[1, 1, 3, 2], &[1.0, 0.0, 0.0, 1.0, 0.0, 1.0])?;
    /// let v = Tensor::new(&device, &[1, 1, 3, 1], &[8.0, 3.0, 5.0])?;
    /// assert_eq!(attention_memory(&k, &k, &v, &memory)?.state.memory.read()?, [2.0, 5.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn decay(mut self, decay: &'a Probabilities) -> Self {
        self.decay = Some(decay);
        self
    }

    /// Sets [`AttentionMemory::form`].
    pub fn form(mut self, form: Form) -> Self {
        self.form = Some(form);
        self
    }

    /// What it begins with.
    pub(super) fn memory(&self) -> Option<&'a Tensor> {
        self.state.map(|state| &state.memory)
    }

    /// Whether a write is a sum.
    pub(super) fn is_sum(&self) -> bool {
        self.p_erase.is_none() && self.decay.is_none()
    }

    /// Whether anything has been erased after these keys.
    pub(super) fn erases(&self, keys: Sizes) -> bool {
        self.state.is_some_and(|state| state.erased) || (!self.is_sum() && keys.n > 0)
    }
}

impl MemoryState {
    /// A matrix `[batch, n_heads, v_dim, head_dim]` from which nothing was erased.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::MemoryState};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let state = MemoryState::new(Tensor::new(&Device::cpu(), &[1, 2, 3, 4], &[0.0; 24])?);
    /// assert!(!state.erased);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(memory: Tensor) -> Self {
        Self { memory, erased: false }
    }

    /// Refuses a state of other keys and values.
    pub(super) fn check(&self, op: &'static str, keys: Sizes, v_dim: usize) -> Result<()> {
        let (found, expected) = (self.memory.shape(), memory_shape(keys, v_dim));
        let allowed = format_args!("{expected:?}: [batch, n_heads, v_dim, head_dim]");
        check_shape(*found == expected, op, "memory", found, allowed)
    }
}

/// The sizes of one call, checked. Head-major tokens are those of more batch elements, of one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub batch: usize,
    pub n: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub v_dim: usize,
}

impl Problem {
    pub fn new(layout: Layout, keys: Sizes, v_dim: usize) -> Self {
        let Sizes { batch, n_heads, n, dim: head_dim } = keys;
        let (batch, n_heads) = if layout.is_head_major() { (batch * n_heads, 1) } else { (batch, n_heads) };
        Self { batch, n, n_heads, head_dim, v_dim }
    }

    pub fn memory_shape(&self) -> [usize; 4] {
        [self.batch, self.n_heads, self.v_dim, self.head_dim]
    }

    /// Memories that there are.
    pub fn heads(&self) -> usize {
        self.batch * self.n_heads
    }
}

/// The sizes of the keys and the width of the values.
pub(super) fn check(
    op: &'static str,
    q: Option<&Tensor>,
    k: &Tensor,
    v: &Tensor,
    options: &AttentionMemory<'_>,
) -> Result<(Sizes, usize)> {
    options.layout.check_not_grouped(op)?;
    let (keys, v_dim) = options.layout.keys_values(op, k, v)?;
    // Without tokens small tensors can ask for a large memory.
    check_size(&memory_shape(keys, v_dim))?;
    if let Some(q) = q.map(Tensor::shape) {
        let rule = "every step has a query and a key, of equal width";
        check_shapes(q == k.shape(), op, ("q", q), ("k", k.shape()), rule)?;
    }
    if let Some(state) = options.state {
        state.check(op, keys, v_dim)?;
    }
    let AttentionMemory { p_read, p_write, p_erase, decay, .. } = *options;
    let p = [("p_read", p_read), ("p_write", p_write), ("p_erase", p_erase), ("decay", decay)];
    for (name, p) in p {
        check_probabilities(op, name, p, options.layout, keys)?;
    }
    let [p_read, p_write, p_erase, decay] = p.map(|(name, p)| (name, p.map(Probabilities::tensor)));
    let operands =
        [("k", Some(k)), ("q", q), ("v", Some(v)), ("state", options.memory()), p_read, p_write, p_erase, decay];
    check_operands(op, &operands, &[])?;
    Ok((keys, v_dim))
}

pub(super) fn check_probabilities(
    op: &'static str,
    name: &'static str,
    p: Option<&Probabilities>,
    layout: Layout,
    tokens: Sizes,
) -> Result<()> {
    let Some(found) = p.map(Probabilities::shape) else { return Ok(()) };
    let expected = layout.row_shape(tokens);
    let allowed = format_args!("{expected:?}, one for each token and head of {layout:?}");
    check_shape(found == expected, op, name, found, allowed)
}

/// Probabilities that are known to be on the CPU.
pub(super) fn numbers(p: Option<&Probabilities>) -> Option<&[f32]> {
    p.map(|p| p.tensor().cpu())
}

/// The shape of a memory of these keys and values.
pub(super) fn memory_shape(Sizes { batch, n_heads, dim, .. }: Sizes, v_dim: usize) -> [usize; 4] {
    [batch, n_heads, v_dim, dim]
}
