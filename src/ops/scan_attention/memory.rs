//! Scan attention as a memory: what it keeps are the keys and values themselves.

use super::{
    bias::{Bias, BiasTerm},
    problem::ScanAttention,
    scan_attention,
};
use crate::{
    error::{Error, Result, check_argument, check_shape, check_shapes},
    ops::{
        concat,
        layout::{Layout, Read, Sizes, check_mask},
        softmax::Attention,
    },
    tensor::{DType, Mask, Tensor, check_operands},
};

const WRITE: &str = "ScanMemory::write";
const READ: &str = "ScanMemory::read";
const MERGE: &str = "ScanState::merge";

/// Queries or keys with the coordinates that biases are computed from: `(&k, &coords)`, or `&k`
/// where there are none.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// In the layout of the memory.
    pub rows: &'a Tensor,
    /// `[batch, n, n_columns]`.
    pub coords: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for Placed<'a> {
    fn from(rows: &'a Tensor) -> Self {
        Self { rows, coords: None }
    }
}

impl<'a> From<(&'a Tensor, &'a Tensor)> for Placed<'a> {
    fn from((rows, coords): (&'a Tensor, &'a Tensor)) -> Self {
        Self { rows, coords: Some(coords) }
    }
}

/// How to write and read keys and values.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{BiasTerm, Layout, ScanMemory}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::cpu();
/// let tensor = |n: usize, dim: usize| Tensor::new(&device, &[1, n, dim], &vec![0.5; n * dim]);
/// // Two heads; near keys count more, for the second head even more so.
/// let layout = Layout::Projected { n_heads: 2 };
/// let memory = ScanMemory::new(layout).terms(&[BiasTerm::rbf(0..2, &[1.0, 2.0], &[0.5, 0.5])]);
/// let state = memory.write(None, (&tensor(5, 8)?, &tensor(5, 2)?), &tensor(5, 6)?, None)?;
/// let state = memory.write(Some(&state), (&tensor(3, 8)?, &tensor(3, 2)?), &tensor(3, 6)?, None)?;
/// assert_eq!(state.keys.shape(), [1, 8, 8]);
/// let read = memory.read((&tensor(4, 8)?, &tensor(4, 2)?), &state)?;
/// assert_eq!(read.values.shape(), [1, 4, 6]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScanMemory {
    /// How heads lie in queries, keys and values.
    pub layout: Layout,
    /// What `q . k` is multiplied by; `1 / sqrt(head_dim)` if not given.
    pub scale: Option<f32>,
    /// Biases that are computed from coordinates, summed.
    pub terms: Vec<BiasTerm>,
    /// A bias `[batch, n_heads, n_queries, n_keys]`, or what stands for that, that a read adds, see
    /// [`Bias::matrix`](struct@Bias#structfield.matrix).
    pub matrix: Option<Tensor>,
}

/// The keys that were written and their values: plain data, of [f16](DType) where what was written is.
#[derive(Clone, Debug)]
pub struct ScanState {
    /// `[batch, n_heads, n, head_dim]` or `[batch, n, n_heads * head_dim]`; they may have fewer heads
    /// than the queries that read them, see [`Layout::Grouped`].
    pub keys: Tensor,
    /// The same sizes, of width `v_dim`.
    pub values: Tensor,
    /// Where the keys are, `[batch, n, n_columns]`.
    pub coords: Option<Tensor>,
    /// Which keys exist, `[batch, n]`; all if not given.
    pub mask: Option<Mask>,
    /// The layout of keys and values.
    pub layout: Layout,
}

impl ScanMemory {
    /// Plain softmax attention.
    pub fn new(layout: Layout) -> Self {
        Self { layout, ..Self::default() }
    }

    /// Sets [`ScanMemory::scale`].
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Sets [`ScanMemory::terms`]. Keys and queries then need coordinates.
    pub fn terms(mut self, terms: &[BiasTerm]) -> Self {
        self.terms = terms.to_vec();
        self
    }

    /// Sets [`ScanMemory::matrix`].
    pub fn matrix(mut self, matrix: &Tensor) -> Self {
        self.matrix = Some(matrix.clone());
        self
    }

    /// Adds keys, with their coordinates if there are any, and values to what was written before;
    /// without a state, begins one. Masked keys, `mask [batch, n]`, are kept but never read.
    ///
    /// The state that is given stays as it is. A write to a state copies what it holds: collect
    /// small writes. A write of no keys leaves a state as it is, or begins one that reads as zeros.
    ///
    /// # Errors
    /// Shapes that do not fit each other, the layout or the state; coordinates that are missing
    /// here and not there; keys or values of f16 here and not there; different devices; on a GPU, a
    /// state larger than one binding.
    ///
    /// ```
    /// use wgpu_attention::{Device, Mask, Tensor, ops::{Layout, ScanMemory}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::cpu();
    /// let memory = ScanMemory::new(Layout::HeadMajor);
    /// let k = Tensor::new(&device, &[1, 1, 2, 1], &[1.0, 2.0])?;
    /// let state = memory.write(None, &k, &k, None)?;
    /// let mask = Mask::new(&device, &[1, 2], &[true, false])?;
    /// let state = memory.write(Some(&state), &k, &k, Some(&mask))?;
    /// assert_eq!(state.keys.read()?, [1.0, 2.0, 1.0, 2.0]); // the last one is masked
    /// # Ok(())
    /// # }
    /// ```
    pub fn write<'a>(
        &self,
        state: Option<&ScanState>,
        k: impl Into<Placed<'a>>,
        v: &Tensor,
        mask: Option<&Mask>,
    ) -> Result<ScanState> {
        let Placed { rows: k, coords } = k.into();
        let written = ScanState {
            keys: k.clone(),
            values: v.clone(),
            coords: coords.cloned(),
            mask: mask.cloned(),
            layout: self.layout,
        };
        written.check(WRITE)?;
        if coords.is_none() && !self.terms.is_empty() {
            let allowed = "those of the keys, (&k, &coords), where there are bias terms";
            return Err(coordinates(WRITE, "none".into(), allowed));
        }
        match state {
            Some(state) => state.join(WRITE, ["the state", "what is written"], &written),
            None => Ok(written),
        }
    }

    /// Reads with queries, with their coordinates if there are bias terms: as
    /// [`scan_attention`](crate::ops::scan_attention()) over all keys that were written. A row
    /// without a valid key reads as zeros, and its log-sum-exp is
    /// [`MASKED`](crate::ops::scan_attention::MASKED).
    ///
    /// # Errors
    /// As [`scan_attention`](crate::ops::scan_attention()); a state of another layout.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{Layout, Read, ScanMemory}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::cpu();
    /// let memory = ScanMemory::new(Layout::HeadMajor);
    /// let k = Tensor::new(&device, &[1, 1, 2, 1], &[0.0, 0.0])?;
    /// let state = memory.write(None, &k, &Tensor::new(&device, &[1, 1, 2, 1], &[1.0, 3.0])?, None)?;
    /// let q = Tensor::new(&device, &[1, 1, 1, 1], &[1.0])?;
    /// let Read { values, log_sum_exp } = memory.read(&q, &state)?;
    /// assert_eq!(values.read()?, [2.0]); // the mean, where all keys are alike
    /// assert!(log_sum_exp.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn read<'a>(&self, q: impl Into<Placed<'a>>, state: &ScanState) -> Result<Read> {
        let Placed { rows: q, coords } = q.into();
        self.layout.check_state(READ, state.layout)?;
        // Coordinates without biases say nothing.
        let has_terms = !self.terms.is_empty();
        let bias = Bias {
            q_coords: coords.filter(|_| has_terms),
            k_coords: state.coords.as_ref().filter(|_| has_terms),
            terms: &self.terms,
            matrix: self.matrix.as_ref(),
        };
        let options = ScanAttention {
            layout: self.layout,
            scale: self.scale,
            key_mask: state.mask.as_ref(),
            bias: Some(bias),
            n_splits: None,
        };
        scan_attention(q, &state.keys, &state.values, &options).map(Attention::into)
    }
}

impl ScanState {
    /// The keys of this state and those of another, side by side: what writing both would have
    /// kept. It reads the same in either order, to rounding.
    ///
    /// # Errors
    /// States of another layout, batch, heads or width, or only one of them with coordinates;
    /// different devices; on a GPU, a state larger than one binding.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{Layout, ScanMemory}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let memory = ScanMemory::new(Layout::HeadMajor);
    /// let k = Tensor::new(&Device::cpu(), &[1, 2, 3, 4], &[0.1; 24])?;
    /// let state = memory.write(None, &k, &k, None)?;
    /// assert_eq!(state.merge(&state)?.keys.shape(), [1, 2, 6, 4]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn merge(&self, other: &Self) -> Result<Self> {
        self.join(MERGE, ["one state", "the other"], other)
    }

    fn join(&self, op: &'static str, names: [&'static str; 2], other: &Self) -> Result<Self> {
        other.layout.check_state(op, self.layout)?;
        let (sizes, other_sizes) = (self.check(op)?, other.check(op)?);
        check_operands(op, &[(names[0], Some(&self.keys)), (names[1], Some(&other.keys))], &names)?;
        let axis = if self.layout.is_head_major() { 2 } else { 1 };
        let keys = append(op, names, [&self.keys, &other.keys], axis)?;
        let values = append(op, names, [&self.values, &other.values], axis)?;
        let coords = match (&self.coords, &other.coords) {
            (Some(a), Some(b)) => Some(append(op, names, [a, b], 1)?),
            (None, None) => None,
            (a, _) => {
                let found = format!("none of {}", names[usize::from(a.is_some())]);
                return Err(coordinates(op, found, "of both or of neither"));
            }
        };
        let mask = match (&self.mask, &other.mask) {
            (None, None) => None,
            (mask, _) if other.keys.is_empty() => mask.clone(),
            (_, mask) if self.keys.is_empty() => mask.clone(),
            _ => {
                let (a, b) = (self.full_mask(sizes)?, other.full_mask(other_sizes)?);
                let counts = a.counts().iter().zip(b.counts()).map(|(a, b)| a + b).collect();
                Some(Mask::computed(append(op, names, [a.tensor(), b.tensor()], 1)?, counts))
            }
        };
        Ok(Self { keys, values, coords, mask, layout: self.layout })
    }

    /// The sizes of the keys; a state may come from outside.
    fn check(&self, op: &'static str) -> Result<Sizes> {
        let (sizes, _) = self.layout.keys_values(op, &self.keys, &self.values)?;
        let (coords, mask) = (self.coords.as_ref(), self.mask.as_ref());
        check_mask(op, mask, sizes.batch, sizes.n)?;
        check_coords(op, coords, sizes)?;
        let (keys, values) = (("keys", Some(&self.keys)), ("values", Some(&self.values)));
        check_operands(op, &[keys, values, ("coords", coords), ("mask", mask.map(Mask::tensor))], &["keys", "values"])?;
        Ok(sizes)
    }

    fn full_mask(&self, Sizes { batch, n, .. }: Sizes) -> Result<Mask> {
        match &self.mask {
            Some(mask) => Ok(mask.clone()),
            None => Mask::full(&self.keys.device(), batch, n),
        }
    }
}

fn check_coords(op: &'static str, coords: Option<&Tensor>, Sizes { batch, n, .. }: Sizes) -> Result<()> {
    let Some(found) = coords.map(Tensor::shape) else { return Ok(()) };
    let fits = matches!(*found, [b, length, columns] if [b, length] == [batch, n] && columns > 0);
    let expected = format_args!("[batch, n, n_columns] = [{batch}, {n}, 1 or more]");
    check_shape(fits, op, "coords", found, expected)
}

fn coordinates(op: &'static str, found: String, allowed: &str) -> Error {
    Error::argument(op, "coordinates", found, allowed)
}

/// The rows of one tensor and then those of another, along a dimension that both have.
fn append(
    op: &'static str,
    [left_name, right_name]: [&'static str; 2],
    [a, b]: [&Tensor; 2],
    axis: usize,
) -> Result<Tensor> {
    let mut shape = b.shape().to_vec();
    shape[axis] = a.shape()[axis];
    let rule = "all sizes but the length must be equal: batch, heads and width";
    check_shapes(shape == a.shape(), op, (left_name, a.shape()), (right_name, b.shape()), rule)?;
    let found = [a, b].map(Tensor::dtype);
    check_argument(
        found[0] == found[1],
        op,
        right_name,
        format_args!("of {:?}", found[1]),
        format_args!("{:?}, as that of {left_name}", found[0]),
    )?;
    if a.is_empty() || b.is_empty() {
        return Ok(if b.is_empty() { a.clone() } else { b.clone() });
    }
    shape[axis] += b.shape()[axis];
    let outer = shape[..axis].iter().product();
    let flat = |x: &Tensor| x.to_f32()?.reshape(&[outer, x.len() / outer]);
    let joined = concat(&flat(a)?, 0..a.len() / outer, &flat(b)?)?.reshape(&shape)?;
    // Halves come back as they were.
    if found[0] == DType::F16 { joined.to_f16() } else { Ok(joined) }
}
