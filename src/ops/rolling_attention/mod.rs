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

use crate::{
    error::{Error, Result},
    ops::{
        Attention, ScanAttention,
        merge_attention::{merge_states, read_state, state_width},
        scan_attention::{Problem, scan_attention},
    },
    tensor::{Mask, Tensor, check_same_device},
};

const WRITE: &str = "RollingAttention::write";
const MERGE: &str = "RollingState::merge";
const READ: &str = "RollingState::read";

/// The queries that read, and how.
///
/// Tensors are head-major `[batch, n_heads, n, dim]` or as a projection leaves them
/// `[batch, n, n_heads * dim]`, as in [`scan_attention`](crate::ops::scan_attention()).
#[derive(Clone, Debug)]
pub struct RollingAttention {
    /// `[batch, n_heads, n_queries, head_dim]` or `[batch, n_queries, n_heads * head_dim]`.
    pub queries: Tensor,
    /// The number of heads; needed for the projected layout.
    pub n_heads: Option<usize>,
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
    /// Which of the two layouts it is.
    pub head_major: bool,
}

impl RollingAttention {
    /// Adds keys and their values, of the layout of the queries, to what was read before; without
    /// a state, begins one. Masked keys, `mask [batch, n_keys]`, are not read.
    ///
    /// The state that is given stays as it is. Any cut of the same keys into writes gives the
    /// same state up to rounding, see the [module](self). A value that is not finite and not
    /// masked makes what its head reads not finite for good; such a key may do so, or have no
    /// weight. Check what comes from outside. Values near the limit of f32 overflow in the sums,
    /// see [Values](self#values).
    ///
    /// # Errors
    /// As [`scan_attention`](crate::ops::scan_attention()); a state of another shape; on a GPU,
    /// a state larger than one binding.
    pub fn write(
        &self,
        state: Option<&RollingState>,
        k: &Tensor,
        v: &Tensor,
        mask: Option<&Mask>,
    ) -> Result<RollingState> {
        let options = ScanAttention { n_heads: self.n_heads, scale: self.scale, key_mask: mask, ..Default::default() };
        let head_major = self.queries.shape().len() == 4;
        // Before the work, so that an error costs nothing.
        check_same_device(WRITE, &self.queries, &[Some(k), Some(v), state.map(|state| &state.rows)])?;
        let problem = Problem::new(&self.queries, k, v, &options)?;
        let mut shape = problem.lse_shape();
        shape.push(state_width(problem.v_dim));
        if let Some(state) = state
            && (state.rows.shape() != shape || state.head_major != head_major)
        {
            return Err(Error::Shape {
                op: WRITE,
                name: "state",
                found: state.rows.shape().to_vec(),
                expected: format!("{shape:?}, head_major {head_major}: what these queries and values write"),
            });
        }
        let read = scan_attention(&self.queries, k, v, &options)?;
        let states: Vec<&Tensor> = state.iter().map(|state| &state.rows).collect();
        Ok(RollingState { rows: merge_states(&states, Some(&read), shape)?, head_major })
    }
}

impl RollingState {
    /// What the queries would have read from the keys of both, which must not overlap.
    /// Commutative to the bit, associative to rounding.
    ///
    /// # Errors
    /// States of different shapes or on different devices.
    pub fn merge(&self, other: &Self) -> Result<Self> {
        self.v_dim(MERGE)?;
        if self.rows.shape() != other.rows.shape() || self.head_major != other.head_major {
            return Err(Error::ShapeMismatch {
                op: MERGE,
                left_name: "one state",
                left: self.rows.shape().to_vec(),
                right_name: "the other",
                right: other.rows.shape().to_vec(),
                rule: "both must be of the same layout, batch, heads, queries and width",
            });
        }
        check_same_device(MERGE, &self.rows, &[Some(&other.rows)])?;
        let rows = merge_states(&[&self.rows, &other.rows], None, self.rows.shape().to_vec())?;
        Ok(Self { rows, head_major: self.head_major })
    }

    /// What attention over all the keys reads: the embedding, in the layout of the queries, and
    /// the log-sum-exp. A row without a key reads as zeros.
    ///
    /// # Errors
    /// A shape that is not that of a state.
    pub fn read(&self) -> Result<Attention> {
        let v_dim = self.v_dim(READ)?;
        let lse_shape = self.rows.shape()[..3].to_vec();
        let mut values_shape = lse_shape.clone();
        if self.head_major {
            values_shape.push(v_dim);
        } else {
            values_shape[2] *= v_dim;
        }
        read_state(&self.rows, values_shape, lse_shape)
    }

    /// Bytes that the state holds.
    pub fn n_bytes(&self) -> usize {
        size_of::<f32>() * self.rows.len()
    }

    /// The width of a value.
    fn v_dim(&self, op: &'static str) -> Result<usize> {
        match *self.rows.shape() {
            [_, _, _, width] if !self.rows.shape().contains(&0) && width >= state_width(1) && width % 2 == 1 => {
                Ok((width - 3) / 2)
            }
            _ => Err(Error::Shape {
                op,
                name: "rows",
                found: self.rows.shape().to_vec(),
                expected: "[batch, n_heads, n_queries, 3 + 2 v_dim] or [batch, n_queries, n_heads, 3 + 2 v_dim], \
                           nothing empty"
                    .into(),
            }),
        }
    }
}
