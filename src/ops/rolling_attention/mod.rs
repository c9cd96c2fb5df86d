//! Rolling attention: fixed queries read an endless stream of keys in constant memory (CMAB,
//! arXiv 2305.14567, section 3.1 and equation 4).
//!
//! A write is [`scan_attention`](crate::ops::scan_attention()) of the queries over the new keys
//! alone, merged with what was read before by the very merge that joins split keys: one launch
//! sequence, whether one key is new or ten thousand, and nothing comes back to the host.
//!
//! # Accuracy of long streams
//!
//! The paper keeps `(log-sum-exp, embedding)` and rewrites both at each update. In f32 such a
//! state stalls: after ten million keys the next one changes neither by as much as half a unit in
//! the last place. Here a state keeps `sum_j e^(l_j - m)` and `sum_j e^(l_j - m) v_j` against a
//! reference `m`, each sum as a pair of f32 numbers, 48 bits together. A write *adds* to them and
//! rounds at the 48th bit; `m` moves only when the log-sum-exp of a write exceeds it by 8, which
//! rounds the rest by 1e-7 and makes it weigh less than before by `e^8`. Errors of the writes are
//! those of attention over one block, and are averaged, not accumulated: the error of a stream
//! of `n` writes is at most that of the worst write (about `(1 + |l|) 1e-7`) plus `n 2^-48`.
//!
//! References are multiples of 8: the first at or above the log-sum-exp of the write that set
//! them. A merge of states takes the larger of their references, so that it adds without another
//! rounding where they are the same, and rounds the other state by 1e-7 where they are not. Any
//! number of states whose log-sum-exps differ by less than 8 has at most two references, and
//! what is merged into a state moves it once for every 8 that the largest rises, not each time.
//!
//! # Values
//!
//! A weight is at most `e^8`, and the sums are f32: `n` writes of values as large as `v` need
//! `n e^8 |v| < 3e38`. Values up to `1e20` leave room for `1e15` writes.

pub mod exact;
mod window;

use crate::{
    error::{Error, Result, check_shape, check_shapes},
    ops::{
        Attention, ScanAttention,
        layout::{Layout, Read, Sizes, check_mask, check_queries},
        merge_attention::{merge_states, read_state, state_width},
        scan_attention::{Problem, attend},
    },
    tensor::{Mask, Tensor, check_operands, check_size},
};

pub use exact::{ExactRolling, ExactState};
pub use window::{Merge, Window, leave_one_out};

const WRITE: &str = "RollingAttention::write";
const MERGE: &str = "RollingState::merge";
const READ: &str = "RollingState::read";
const READ_WITH: &str = "RollingAttention::read";

/// The queries that read, which are fixed when a memory is written, and how.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Layout, RollingAttention}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::cpu();
/// let tensor = |numbers: &[f32]| Tensor::new(&device, &[1, 1, numbers.len(), 1], numbers);
/// let memory = RollingAttention::new(Layout::HeadMajor, tensor(&[0.0])?).scale(1.0);
/// let state = memory.write(None, &tensor(&[0.3])?, &tensor(&[1.0])?, None)?;
/// let state = memory.write(Some(&state), &tensor(&[0.7, 0.1])?, &tensor(&[2.0, 6.0])?, None)?;
/// // A query of zero reads the mean of all the stream.
/// assert!((memory.read(&state)?.values.read()?[0] - 3.0).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RollingAttention {
    /// How heads lie in queries, keys and values.
    pub layout: Layout,
    /// `[batch, n_heads, n_queries, head_dim]` or `[batch, n_queries, n_heads * head_dim]`.
    pub queries: Tensor,
    /// What `q . k` is multiplied by; `1 / sqrt(head_dim)` if not given.
    pub scale: Option<f32>,
}

/// What the queries have read so far: plain data, whose size does not depend on how much that was.
#[derive(Clone, Debug)]
pub struct RollingState {
    /// `[batch, n_heads, n_queries, 3 + 2 v_dim]`, or `[batch, n_queries, n_heads, 3 + 2 v_dim]`
    /// if the queries are projected. A row is the reference `m`, then `sum_j e^(l_j - m)` as two
    /// numbers whose sum it is, then the large halves of `sum_j e^(l_j - m) v_j`, then the small
    /// ones. Before anything was read `m` is [`MASKED`](crate::ops::scan_attention::MASKED) and the sums are zero.
    pub rows: Tensor,
    /// The layout of the queries.
    pub layout: Layout,
}

impl RollingAttention {
    /// Attention of these queries.
    pub fn new(layout: Layout, queries: Tensor) -> Self {
        Self { layout, queries, scale: None }
    }

    /// Sets [`RollingAttention::scale`].
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Adds keys and their values, of the layout of the queries (and perhaps
    /// [fewer heads](Layout::Grouped)), to what was read before; without
    /// a state, begins one. Masked keys, `mask [batch, n_keys]`, are not read.
    ///
    /// The state that is given stays as it is. Any cut of the same keys into writes gives the
    /// same state up to rounding, see the [module](self). A value that is not finite and not
    /// masked makes its column of what its head reads NaN for good, and a key all of it, see [What is
    /// not finite](crate::ops#what-is-not-finite). Check what comes from outside. Values near the
    /// limit of f32 overflow in the sums, see [Values](self#values). A write of no keys leaves a state
    /// as it is, or begins one that reads as zeros.
    ///
    /// # Errors
    /// As [`scan_attention`](crate::ops::scan_attention()); keys or values of f16; a state of another shape or layout.
    ///
    /// ```
    /// use wgpu_attention::{Device, Mask, Tensor, ops::{Layout, RollingAttention}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::cpu();
    /// let k = Tensor::new(&device, &[1, 1, 2, 1], &[1.0, f32::NAN])?;
    /// let memory = RollingAttention::new(Layout::HeadMajor, Tensor::new(&device, &[1, 1, 1, 1], &[1.0])?);
    /// let state = memory.write(None, &k, &k, Some(&Mask::new(&device, &[1, 2], &[true, false])?))?;
    /// assert_eq!(memory.read(&state)?.values.read()?, [1.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn write(
        &self,
        state: Option<&RollingState>,
        k: &Tensor,
        v: &Tensor,
        mask: Option<&Mask>,
    ) -> Result<RollingState> {
        let layout = self.layout;
        // Before the work, so that an error costs nothing.
        let rows = state.map(|state| &state.rows);
        let mask_tensor = ("mask", mask.map(Mask::tensor));
        let operands = [("queries", Some(&self.queries)), ("k", Some(k)), ("v", Some(v)), ("state", rows), mask_tensor];
        check_operands(WRITE, &operands, &[])?;
        if let Some(state) = state {
            let (keys, v_dim) = layout.keys_values(WRITE, k, v)?;
            self.check_state(WRITE, state, v_dim)?;
            if k.is_empty() {
                check_queries(WRITE, (&self.queries, layout.sizes(WRITE, "queries", &self.queries)?), (k, keys))?;
                check_mask(WRITE, mask, keys.batch, keys.n)?;
                return Ok(state.clone());
            }
        }
        let options = ScanAttention { layout, scale: self.scale, key_mask: mask, ..Default::default() };
        let problem = Problem::new(&self.queries, k, v, &options)?;
        let read = attend(&problem, &self.queries, k, v, &options)?;
        let states: Vec<&Tensor> = state.iter().map(|state| &state.rows).collect();
        let mut shape = problem.lse_shape();
        shape.push(state_width(problem.v_dim));
        Ok(RollingState { rows: merge_states(&states, Some(&read), shape)?, layout })
    }

    /// What the queries read from all the keys that were written: [`RollingState::read`], of a
    /// state of these queries.
    ///
    /// # Errors
    /// A state of other queries.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{Layout, Read, RollingAttention}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let k = Tensor::new(&Device::cpu(), &[1, 1, 1, 2], &[3.0, 4.0])?;
    /// let memory = RollingAttention::new(Layout::HeadMajor, k.clone()).scale(1.0);
    /// let Read { values, log_sum_exp } = memory.read(&memory.write(None, &k, &k, None)?)?;
    /// assert_eq!(values.read()?, [3.0, 4.0]);
    /// assert!(log_sum_exp.is_some_and(|sum| sum.read().is_ok_and(|sum| (sum[0] - 25.0).abs() < 1e-5)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(&self, state: &RollingState) -> Result<Read> {
        self.check_state(READ_WITH, state, state.sizes(READ_WITH)?.dim)?;
        check_operands(READ_WITH, &[("queries", Some(&self.queries)), ("state", Some(&state.rows))], &[])?;
        state.read().map(Attention::into)
    }

    /// Refuses a state that these queries and values of this width did not write.
    fn check_state(&self, op: &'static str, state: &RollingState, v_dim: usize) -> Result<()> {
        self.layout.check_state(op, state.layout)?;
        let queries = self.layout.sizes(op, "queries", &self.queries)?;
        let mut shape = self.layout.row_shape(queries);
        shape.push(state_width(v_dim));
        let found = state.rows.shape();
        check_shape(found == shape, op, "state", found, format_args!("{shape:?}, of these queries and values"))
    }
}

impl RollingState {
    /// What the queries would have read from the keys of both, which must not overlap.
    /// Commutative to the bit, associative to rounding.
    ///
    /// # Errors
    /// States of different shapes, layouts or devices.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{Layout, RollingAttention}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let tensor = |x: f32| Tensor::new(&Device::cpu(), &[1, 1, 1, 1], &[x]);
    /// let memory = RollingAttention::new(Layout::HeadMajor, tensor(0.0)?);
    /// let a = memory.write(None, &tensor(1.0)?, &tensor(2.0)?, None)?;
    /// let b = memory.write(None, &tensor(1.0)?, &tensor(4.0)?, None)?;
    /// assert_eq!(a.merge(&b)?.read()?.values.read()?, [3.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge(&self, other: &Self) -> Result<Self> {
        self.sizes(MERGE)?;
        self.layout.check_state(MERGE, other.layout)?;
        let (a, b) = (self.rows.shape(), other.rows.shape());
        let rule = "both must be of the same batch, heads, queries and width";
        check_shapes(a == b, MERGE, ("one state", a), ("the other", b), rule)?;
        check_operands(MERGE, &[("one state", Some(&self.rows)), ("the other", Some(&other.rows))], &[])?;
        let rows = merge_states(&[&self.rows, &other.rows], None, self.rows.shape().to_vec())?;
        Ok(Self { rows, layout: self.layout })
    }

    /// What attention over all the keys reads: the embedding, in the layout of the queries, and
    /// the log-sum-exp. A row without a key reads as zeros. It needs no queries: those that read
    /// were there when the state was written.
    ///
    /// # Errors
    /// A shape that is not that of a state.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{Layout, RollingState}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// // Of one query: the reference, a sum of weights of 2, and of weighted values of 10.
    /// let rows = Tensor::new(&Device::cpu(), &[1, 1, 1, 5], &[0.0, 2.0, 0.0, 10.0, 0.0])?;
    /// let state = RollingState { rows, layout: Layout::HeadMajor };
    /// assert_eq!(state.read()?.values.read()?, [5.0]);
    /// assert_eq!(state.n_bytes(), 20);
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(&self) -> Result<Attention> {
        let (sizes, lse_shape) = (self.sizes(READ)?, self.rows.shape()[..3].to_vec());
        read_state(&self.rows, self.layout.shape(sizes), lse_shape)
    }

    /// Bytes that the state holds.
    pub fn n_bytes(&self) -> usize {
        size_of::<f32>() * self.rows.len()
    }

    /// The sizes of what it reads; a state may come from outside.
    fn sizes(&self, op: &'static str) -> Result<Sizes> {
        // Without queries a small tensor can have any sizes.
        let is_state = |batch: usize, n_heads: usize, width: usize| {
            let is_row = width >= state_width(1) && width % 2 == 1;
            n_heads > 0 && is_row && check_size(&[batch, n_heads, width]).is_ok()
        };
        match (self.layout.n_heads(), self.rows.shape()) {
            (None, &[batch, n_heads, n, width]) if is_state(batch, n_heads, width) => {
                Ok(Sizes { batch, n_heads, n, dim: (width - 3) / 2 })
            }
            (Some(n_heads), &[batch, n, heads, width]) if heads == n_heads && is_state(batch, n_heads, width) => {
                Ok(Sizes { batch, n_heads, n, dim: (width - 3) / 2 })
            }
            (_, found) => {
                let expected = format!(
                    "[batch, n_heads, n_queries, 3 + 2 v_dim] or [batch, n_queries, n_heads, 3 + 2 v_dim] with the \
                     heads of {:?}",
                    self.layout
                );
                Err(Error::shape(op, "rows", found, expected))
            }
        }
    }
}
