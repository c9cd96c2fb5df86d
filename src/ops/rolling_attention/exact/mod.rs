//! Rolling attention whose sums are integers, so that the same keys leave the same bits however they
//! were cut, ordered and merged, and can be taken out again.
//!
//! A [`RollingState`](crate::ops::RollingState) is a softmax state: its merge rounds, so that another
//! order gives other last bits, and it cannot be subtracted. Here nothing is rounded after a key was
//! turned into integers, and integers form a group: a merge is an addition, associative and commutative
//! to the bit, and a key is forgotten by subtracting what it added.
//!
//! # Derivation
//!
//! Reproducible sums (Demmel and Nguyen, IEEE Transactions on Computers 64, 2015) cut each term at places
//! that do not depend on other terms. There the places follow the largest term, which is not known before
//! the end; here they are fixed by limits that the caller knows before the first key: the largest score of
//! each row, and the largest value. (Where keys are projected from normalised tokens, the parameters say
//! so.) With fixed places no digit is ever dropped, and so none is missing when a term is subtracted.
//!
//! With a row's limit `2^E` of weights and `2^V` of values, a key of score `l` (in base 2) and values `v`:
//!
//! - `2^l` is computed in f32 as `m 2^n`, from the row's query and that key alone: the dot product adds
//!   its terms in the order of the dimensions, in every lane alike.
//! - `e` is the least integer with `|v_c| < 2^e` for all of the key's values, but at least `V - 10`. Values
//!   become the integers `round(v_c 2^(22-e))`, of up to 22 bits.
//! - `m 2^(n+e)`, below `2^(E+V)`, is cut into eight digits of 24 bits from there on; what is below
//!   `2^(E+V-192)` is dropped. Call the integer of all digits `d`.
//! - The sum of weights grows by `d 2^(V-e)`, in units of `2^(E-192)`; that of weighted values by
//!   `d round(v_c 2^(22-e))`, in units of `2^(E+V-192)` and `2^-22`.
//!
//! A digit times a value is below `2^46`, so that f64 adds 128 of them exactly, in any order and with or
//! without fused multiply-adds: the fast loop is a product of matrices of integers in f64. Its results go to
//! 64 bits and then to 256, which hold `2^41` keys.
//!
//! # Error
//!
//! Besides the scores, whose error is that of attention in f32 (about `(1 + |l|) 1e-7` of a weight), a value
//! is rounded by at most `2^-23 2^e`, which is `2^-22` of the largest of the key's, or `2^-33` of the limit if
//! that is more; and each weight is cut by less than `2^(E-182)`. The second makes `n` keys whose mean
//! weight is `w` err by at most `2^(E-182) / w`: a limit that is 157 bits, or 108 in natural logarithms, above
//! the mean costs nothing. A read refuses where this bound exceeds `2^-16`, 115 in natural logarithms above it, as
//! it does where the limits are of no use; it never returns such a number.
//!
//! # The same bits on different machines
//!
//! What is exact is so everywhere. Scores are f32: processors with the same instruction set (see
//! [`Device::cpu_with`](crate::Device::cpu_with)) give the same bits, others may differ in their last.

mod cpu;
mod limits;
mod pieces;

use std::sync::Arc;

use self::{
    cpu::{Beyond, Inputs, VALUE},
    limits::{Limits, SHIFT, WEIGHT, power},
    pieces::{MOST_PIECES, Wide},
};
use super::RollingAttention;
use crate::{
    device::Cpu,
    error::{Error, Result, check_argument, check_limit, check_shape, check_shapes},
    host::{collect, copy, filled, zeros},
    ops::{
        Attention, Layout,
        layout::{Sizes, check_mask, check_queries},
        softmax::MASKED,
    },
    tensor::{Mask, Storage, Tensor, check_operands},
    wide,
};

/// Keys of which sums have room in 256 bits.
const MOST_KEYS: u64 = 1 << 41;

const EXACT: &str = "RollingAttention::exact";
const WRITE: &str = "ExactRolling::write";
const FORGET: &str = "ExactRolling::forget";
const MERGE: &str = "ExactState::merge";
const WITHOUT: &str = "ExactState::without";
const READ: &str = "ExactState::read";

/// By how much the sum of weights may err in a read, as a power of two.
const MOST_ERROR: i32 = -16;

/// [`RollingAttention`] with exact sums, see the [module](self).
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Layout, RollingAttention}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let tensor = |numbers: &[f32]| Tensor::new(&Device::cpu(), &[1, 1, numbers.len(), 1], numbers);
/// // Keys of up to 5, read by a query of 2; values of up to 10.
/// let memory = RollingAttention::new(Layout::HeadMajor, tensor(&[2.0])?).scale(1.0).exact(&[10.0], 10.0)?;
/// let write = |k: &[f32], v: &[f32]| memory.write(None, &tensor(k)?, &tensor(v)?, None);
/// let a = write(&[0.3, -4.0], &[1.0, 2.0])?;
/// let b = write(&[4.5], &[7.0])?;
/// let all = write(&[4.5, -4.0, 0.3], &[7.0, 2.0, 1.0])?;
/// assert_eq!(a.merge(&b)?, all); // to the bit
/// assert_eq!(all.without(&b)?, a); // and back
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ExactRolling {
    layout: Layout,
    cpu: Cpu,
    /// Of the queries.
    sizes: Sizes,
    /// The queries as they came, which keys are compared with.
    rolling: Tensor,
    /// In base 2, head-major.
    queries: Arc<Vec<f32>>,
    limits: Arc<Limits>,
}

/// What the queries of an [`ExactRolling`] have read so far. Two states are equal if their bits are.
#[derive(Clone, Debug, PartialEq)]
pub struct ExactState {
    layout: Layout,
    cpu: Cpu,
    /// Of what is read.
    sizes: Sizes,
    /// Those that wrote it, see [`ExactRolling`].
    queries: Arc<Vec<f32>>,
    limits: Arc<Limits>,
    /// Keys of each batch element.
    n_keys: Vec<u64>,
    /// `[batch, n_heads, n_queries, 1 + v_dim]`: of weights and of weighted values.
    sums: Vec<Wide>,
}

impl RollingAttention {
    /// The same with exact sums, see [`ExactRolling`], on the CPU. `scores` are the largest scores (`q . k`
    /// times the scale, or biases above them) that a key may have, for each row `[batch, n_heads, n_queries]`
    /// (`[batch, n_queries, n_heads]` if the queries are projected); `value` is the largest size of a value. They
    /// may be larger than what comes, see the [module](super::exact#error).
    ///
    /// # Errors
    /// Queries on a GPU, which has no integers of 64 bits; limits that are not finite, or another number of
    /// them.
    pub fn exact(&self, scores: &[f32], value: f32) -> Result<ExactRolling> {
        let cpu = self.exact_on()?;
        check_operands(EXACT, &[("queries", Some(&self.queries))], &[])?;
        let sizes = self.layout.sizes(EXACT, "queries", &self.queries)?;
        let shape = self.layout.row_shape(sizes);
        let n_rows: usize = shape.iter().product();
        let expected = format_args!("{n_rows}, as many as rows {shape:?}");
        check_argument(scores.len() == n_rows, EXACT, "the number of scores", scores.len(), expected)?;
        let scale = self.scale.unwrap_or(1.0 / (sizes.dim as f32).sqrt()) * std::f32::consts::LOG2_E;
        let (all, strides) = (self.queries.cpu(), self.layout.strides(sizes));
        let of_scores = self.layout.strides(Sizes { dim: 1, ..sizes });
        let mut queries = zeros(&[sizes.batch, sizes.n_heads, sizes.n, sizes.dim])?;
        let mut in_order = zeros(&[sizes.batch, sizes.n_heads, sizes.n])?;
        let rows = queries.chunks_exact_mut(sizes.dim).zip(&mut in_order).zip(rows(sizes));
        for ((row, score), place) in rows {
            let from = &all[at(strides, place)..][..sizes.dim];
            row.iter_mut().zip(from).for_each(|(row, q)| *row = q * scale);
            *score = scores[at(of_scores, place)];
        }
        crate::tensor::check_finite("queries", &queries)?;
        let limits = Arc::new(Limits::new(EXACT, in_order.into_iter(), value)?);
        let rolling = self.queries.clone();
        Ok(ExactRolling { layout: self.layout, cpu, sizes, rolling, queries: Arc::new(queries), limits })
    }

    /// The processor that has the queries.
    pub(crate) fn exact_on(&self) -> Result<Cpu> {
        match self.queries.storage() {
            Storage::Cpu(cpu, _) => Ok(*cpu),
            #[cfg(feature = "gpu")]
            Storage::Gpu(..) => Err(Error::Unsupported {
                what: "an exact state",
                on: self.queries.device().to_string(),
                why: "shaders have no integers of 64 bits; use Device::cpu()",
            }),
        }
    }
}

impl ExactRolling {
    /// Adds keys and their values to what was read before; without a state, begins one. Masked keys are
    /// not read. The state that is given stays as it is.
    ///
    /// # Errors
    /// As [`RollingAttention::write`]; a key or a value that is not finite, or beyond the limits.
    pub fn write(&self, state: Option<&ExactState>, k: &Tensor, v: &Tensor, mask: Option<&Mask>) -> Result<ExactState> {
        self.sum(WRITE, state, k, v, mask)
    }

    /// The state without some keys that were written, in any order: [`ExactRolling::write`] undone, to the
    /// bit. Of keys that were never written nothing sensible is left.
    ///
    /// # Errors
    /// As [`ExactRolling::write`]; more keys than the state has.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{Layout, RollingAttention}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let tensor = |numbers: &[f32]| Tensor::new(&Device::cpu(), &[1, 1, numbers.len(), 1], numbers);
    /// let memory = RollingAttention::new(Layout::HeadMajor, tensor(&[1.0])?).exact(&[9.0], 9.0)?;
    /// let first = memory.write(None, &tensor(&[1.0])?, &tensor(&[2.0])?, None)?;
    /// let both = memory.write(Some(&first), &tensor(&[3.0])?, &tensor(&[4.0])?, None)?;
    /// assert_eq!(memory.forget(&both, &tensor(&[3.0])?, &tensor(&[4.0])?, None)?, first);
    /// # Ok(())
    /// # }
    /// ```
    pub fn forget(&self, state: &ExactState, k: &Tensor, v: &Tensor, mask: Option<&Mask>) -> Result<ExactState> {
        state.combine(FORGET, &self.sum(FORGET, None, k, v, mask)?, true)
    }

    fn sum(
        &self,
        op: &'static str,
        state: Option<&ExactState>,
        k: &Tensor,
        v: &Tensor,
        mask: Option<&Mask>,
    ) -> Result<ExactState> {
        let Self { layout, cpu, sizes, .. } = *self;
        let (keys, v_dim) = layout.keys_values(op, k, v)?;
        let mask_tensor = ("mask", mask.map(Mask::tensor));
        check_operands(op, &[("queries", Some(&self.rolling)), ("k", Some(k)), ("v", Some(v)), mask_tensor], &[])?;
        check_queries(op, (&self.rolling, sizes), (k, keys))?;
        check_mask(op, mask, keys.batch, keys.n)?;
        if let Some(state) = state {
            self.check(op, state, v_dim)?;
        }
        let inputs = Inputs {
            sizes,
            kv_heads: keys.n_heads,
            n_keys: keys.n,
            v_dim,
            queries: &self.queries,
            k: k.cpu(),
            k_strides: layout.strides(keys),
            v: v.cpu(),
            v_strides: layout.strides(Sizes { dim: v_dim, ..keys }),
            mask: mask.map(|mask| mask.tensor().cpu()),
            limits: &self.limits,
        };
        check_keys(&inputs)?;
        let (mut sums, before) = match state {
            Some(state) => (copy(&state.sums)?, copy(&state.n_keys)?),
            None => (zeros(&[sizes.batch, sizes.n_heads, sizes.n, 1 + v_dim])?, zeros(&[sizes.batch])?),
        };
        match cpu::add(cpu.0, &inputs, &mut sums)? {
            None => {}
            Some(Beyond::Score { row }) => {
                let limit = (self.limits.scores[row] - 1) as f32 * std::f32::consts::LN_2;
                let found = format!("above {limit} in row {row} of the queries");
                return Err(Error::argument(op, "a score", found, "up to the limit that was given for that row"));
            }
            Some(Beyond::Value { batch, key }) => {
                let found = format!("{:e} or more in key {key} of batch element {batch}", power(self.limits.value));
                return Err(Error::argument(op, "a value", found, "up to the limit that was given"));
            }
        }
        let counts = match mask {
            Some(mask) if keys.n > 0 => collect(sizes.batch, mask.counts().iter().copied())?,
            _ => filled(keys.n as u64, &[sizes.batch])?,
        };
        let n_keys = before.iter().zip(&counts).map(|(a, b)| together(*a, *b)).collect::<Result<_>>()?;
        let sizes = Sizes { dim: v_dim, ..sizes };
        let (queries, limits) = (self.queries.clone(), self.limits.clone());
        Ok(ExactState { layout, cpu, sizes, queries, limits, n_keys, sums })
    }

    /// Refuses a state that these queries and values of this width did not write.
    fn check(&self, op: &'static str, state: &ExactState, v_dim: usize) -> Result<()> {
        self.layout.check_state(op, state.layout)?;
        let (found, expected) = (self.layout.shape(state.sizes), Sizes { dim: v_dim, ..self.sizes });
        let expected_shape = format_args!("{:?}, of these queries and values", self.layout.shape(expected));
        check_shape(state.sizes == expected, op, "state", &found, expected_shape)?;
        check_same_queries(op, &self.queries, &state.queries)?;
        check_limits(op, &self.limits, &state.limits)
    }

    /// As [`ExactState::limits`].
    pub(crate) fn limits(&self) -> Vec<f32> {
        self.limits.numbers()
    }

    /// The state that [`ExactState::pieces`] gave, of values of this width and the same limits.
    pub(crate) fn of_pieces(&self, v_dim: usize, n_keys: &[u64], pieces: &[f32]) -> Option<ExactState> {
        let Self { layout, cpu, sizes, .. } = *self;
        let n = sizes.batch * sizes.n_heads * sizes.n * (1 + v_dim);
        let n_pieces = if pieces.len().is_multiple_of(n.max(1)) { pieces.len() / n.max(1) } else { 0 };
        if !(1..=MOST_PIECES).contains(&n_pieces)
            || n_keys.len() != sizes.batch
            || n_keys.iter().any(|n| *n > MOST_KEYS)
        {
            return None;
        }
        let sums = pieces.chunks_exact(n_pieces).map(pieces::of_pieces).collect::<Option<_>>()?;
        let sizes = Sizes { dim: v_dim, ..sizes };
        let (queries, limits) = (self.queries.clone(), self.limits.clone());
        Some(ExactState { layout, cpu, sizes, queries, limits, n_keys: n_keys.to_vec(), sums })
    }
}

/// Keys of two parts.
fn together(a: u64, b: u64) -> Result<u64> {
    let n = a.saturating_add(b);
    check_limit("keys of an exact state", n, MOST_KEYS)?;
    Ok(n)
}

impl ExactState {
    /// What the queries would have read from the keys of both, which must not overlap: associative and
    /// commutative to the bit.
    ///
    /// # Errors
    /// States of other queries, sizes or limits; more than `2^41` keys.
    pub fn merge(&self, other: &Self) -> Result<Self> {
        self.combine(MERGE, other, false)
    }

    /// What is left without the keys of the other state, all of which are in this one: a merge undone, to
    /// the bit.
    ///
    /// # Errors
    /// States of other queries, sizes or limits; more keys than there are.
    pub fn without(&self, other: &Self) -> Result<Self> {
        self.combine(WITHOUT, other, true)
    }

    fn combine(&self, op: &'static str, other: &Self, take_off: bool) -> Result<Self> {
        self.layout.check_state(op, other.layout)?;
        let (a, b) = (self.layout.shape(self.sizes), self.layout.shape(other.sizes));
        let rule = "both must be of the same batch, heads, queries and width";
        check_shapes(self.sizes == other.sizes, op, ("one state", &a), ("the other", &b), rule)?;
        check_same_queries(op, &self.queries, &other.queries)?;
        check_limits(op, &self.limits, &other.limits)?;
        let mut sums = copy(&self.sums)?;
        let combine = if take_off { wide::subtract } else { wide::add };
        sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| combine(sum, other));
        let mut n_keys = copy(&self.n_keys)?;
        for (n, &other) in n_keys.iter_mut().zip(&other.n_keys) {
            *n = match take_off {
                true => {
                    let allowed = format_args!("at most {n}, which is as many as there are");
                    check_argument(other <= *n, op, "keys to forget", other, allowed)?;
                    *n - other
                }
                false => together(*n, other)?,
            };
        }
        Ok(Self { n_keys, sums, ..self.clone() })
    }

    /// What attention over all the keys reads, in the layout of the queries, and its log-sum-exp. Rows of a
    /// batch element without keys read as zeros.
    ///
    /// # Errors
    /// Limits so far above what came that digits are missing, see the [module](self#error); keys were
    /// forgotten that had not been written.
    pub fn read(&self) -> Result<Attention> {
        let Self { layout, cpu, sizes, .. } = *self;
        let mut values = zeros(&[sizes.batch, sizes.n_heads, sizes.n, sizes.dim])?;
        let mut log_sum_exp = filled(MASKED, &[sizes.batch, sizes.n_heads, sizes.n])?;
        let (strides, of_lse) = (layout.strides(sizes), layout.strides(Sizes { dim: 1, ..sizes }));
        let sums = self.sums.chunks_exact(1 + sizes.dim).zip(&self.limits.scores).zip(rows(sizes));
        for ((sums, &limit), [b, h, r]) in sums.filter(|(_, [b, ..])| self.n_keys[*b] > 0) {
            let weight = wide::to_f64(&sums[0]);
            let error = self.n_keys[b] as f64 * power(SHIFT);
            if weight < 0.0 {
                let found = format!("some without which head {h} of query {r} has no weight left");
                return Err(Error::argument(READ, "the keys that were taken out", found, "keys that had been written"));
            }
            if weight * power(MOST_ERROR) < error {
                let mean = (weight / self.n_keys[b] as f64).log2() + f64::from(limit - WEIGHT);
                let found = format!("2^{limit} in head {h} of query {r}, where the mean weight is about 2^{mean:.0}");
                let allowed = "closer to what comes, of keys that were written (and only those forgotten)";
                return Err(Error::argument(READ, "the limit of weights", found, allowed));
            }
            let factor = power(self.limits.value - VALUE) / weight;
            let to = &mut values[at(strides, [b, h, r])..][..sizes.dim];
            to.iter_mut().zip(&sums[1..]).for_each(|(to, sum)| *to = (wide::to_f64(sum) * factor) as f32);
            let log = weight.ln() + f64::from(limit - WEIGHT) * std::f64::consts::LN_2;
            log_sum_exp[at(of_lse, [b, h, r])] = log as f32;
        }
        Ok(Attention {
            values: Tensor::from_cpu(cpu, layout.shape(sizes), values),
            log_sum_exp: Tensor::from_cpu(cpu, layout.row_shape(sizes), log_sum_exp),
        })
    }

    /// The batch `n` times, one after another.
    pub(crate) fn repeat(&self, n: usize) -> Self {
        let scores = self.limits.scores.repeat(n);
        Self {
            sizes: Sizes { batch: self.sizes.batch * n, ..self.sizes },
            queries: Arc::new(self.queries.repeat(n)),
            limits: Arc::new(Limits { scores, ..*self.limits }),
            n_keys: self.n_keys.repeat(n),
            sums: self.sums.repeat(n),
            ..self.clone()
        }
    }

    /// Keys that were written, in each batch element.
    pub fn n_keys(&self) -> &[u64] {
        &self.n_keys
    }

    /// Bytes that the state holds.
    pub fn n_bytes(&self) -> usize {
        size_of_val(&*self.sums)
    }

    /// What says where the digits of the sums lie, in numbers that are exact in f32.
    pub(crate) fn limits(&self) -> Vec<f32> {
        self.limits.numbers()
    }

    /// All sums in as few pieces of 24 bits as hold the largest, `[sums, pieces]`, which are exact in f32:
    /// smaller than in memory, and the same numbers for the same keys.
    pub(crate) fn pieces(&self) -> Result<(usize, Vec<f32>)> {
        let n = self.sums.iter().map(pieces::n_pieces).max().unwrap_or(1);
        let pieces = self.sums.iter().flat_map(|sum| (0..n).map(|i| pieces::piece(sum, i)));
        Ok((n, collect(self.sums.len() * n, pieces)?))
    }
}

/// Batch element, head and row, head-major.
fn rows(sizes: Sizes) -> impl Iterator<Item = [usize; 3]> {
    let Sizes { batch, n_heads, n, .. } = sizes;
    (0..batch).flat_map(move |b| (0..n_heads).flat_map(move |h| (0..n).map(move |r| [b, h, r])))
}

/// Where what belongs to a batch element, head and row begins.
fn at(strides: [usize; 3], place: [usize; 3]) -> usize {
    strides.into_iter().zip(place).map(|(stride, i)| stride * i).sum()
}

fn check_same_queries(op: &'static str, a: &Arc<Vec<f32>>, b: &Arc<Vec<f32>>) -> Result<()> {
    let is_same = Arc::ptr_eq(a, b) || a == b;
    check_argument(is_same, op, "the queries of the state", "others", "those that read its keys")
}

fn check_limits(op: &'static str, a: &Arc<Limits>, b: &Arc<Limits>) -> Result<()> {
    let is_same = Arc::ptr_eq(a, b) || a == b;
    check_argument(is_same, op, "the limits of the state", "others", "those that its digits were placed by")
}

/// Refuses a key or value that exists and is not finite.
fn check_keys(inputs: &Inputs<'_>) -> Result<()> {
    for (name, numbers) in [("k", inputs.k), ("v", inputs.v)] {
        if numbers.iter().all(|x| x.is_finite()) {
            continue;
        }
        let (strides, width) = match name {
            "k" => (inputs.k_strides, inputs.sizes.dim),
            _ => (inputs.v_strides, inputs.v_dim),
        };
        let of = Sizes { n_heads: inputs.kv_heads, n: inputs.n_keys, ..inputs.sizes };
        for [b, h, r] in rows(of) {
            let exists = inputs.mask.is_none_or(|mask| mask[b * inputs.n_keys + r] != 0.0);
            let first = at(strides, [b, h, r]);
            let wrong = numbers[first..][..width].iter().position(|x| !x.is_finite());
            if let Some(i) = wrong.filter(|_| exists) {
                return Err(Error::NonFinite { name: name.into(), index: first + i, value: numbers[first + i] });
            }
        }
    }
    Ok(())
}
