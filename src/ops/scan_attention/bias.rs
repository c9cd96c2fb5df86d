//! Additive attention biases, computed from coordinates inside the kernel.
//!
//! A bias is a sum of terms. Each term looks at some columns of the coordinates of a
//! query and of a key, measures a distance and turns it into a number for each head, so
//! the `n_queries x n_keys` matrix never exists (BSA-TNP, arXiv 2506.09163, section 3).

use std::{f32::consts::LOG2_E, ops::Range};

use super::{custom::CustomBias, strides::BiasStrides};
use crate::{
    error::{Error, Result, check_argument, check_limit, check_shape},
    ops::softmax::MASKED,
    tensor::{Tensor, check_finite},
};

const OP: &str = "scan_attention";

/// The most coordinates that one Euclidean distance or custom bias may look at.
pub const MAX_COORDINATES: usize = 16;

/// No built-in term adds more to a logit, or less; polynomials of an exponent of 100 included, sums
/// of many are finite.
pub(super) const LARGEST: f32 = (1_u128 << 113) as f32;

/// No center of a kernel is further out: its distance to the largest distance is still finite.
const LARGEST_CENTER: f32 = (1_u128 << 126) as f32;

/// How far a key is from a query. A coordinate that is not finite masks its pairs. Distances of
/// finite ones are finite: those beyond `2^127`, and squares beyond it, count as `2^127`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Distance {
    /// `sqrt(sum (q - k)^2)` over any number of coordinates.
    Euclidean,
    /// The central angle in **degrees** between two points given as `(longitude,
    /// latitude)` in degrees, to a few units in the last place of the angle between the points
    /// that are given. Degrees in f32 are up to 1.5e-5 apart, 0.8 m to either side on Earth.
    GreatCircle,
    /// `k - q` of one coordinate where the key is not later than the query, so it is
    /// **zero or negative**; a later key is masked.
    CausalTime,
}

/// What a distance `d` is turned into for head `h`: a sum over basis functions, with parameters
/// `a`, `b`, `c` of shape `[n_heads, n_basis]`.
///
/// A negative `b` makes a bias that grows with the distance. An exponential stops growing at
/// `2^90`, about `1e27`, and so does what a polynomial makes of it; and no term adds more than
/// `2^113`, about `1e34`, or less than minus that: pairs beyond are told apart no more. So a bias is
/// finite whatever its parameters, also where they are of both signs, and none undoes a mask; one
/// below half of [`MASKED`] leaves a pair without weight. Where `a` is zero, all is as if there were
/// no bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BiasKernel {
    /// `a d`, one number a head.
    Scalar,
    /// `sum a exp(-b d^2)`.
    Rbf,
    /// `sum a exp(-b (d - c)^2)`.
    Tisa,
    /// `sum a exp(-b d)`.
    Exponential,
    /// `sum a (1 + sqrt(3) b d) exp(-sqrt(3) b d)`, the Matérn kernel of smoothness 3/2. Where `b d`
    /// is negative, it falls below zero without bound.
    Matern32,
}

impl BiasKernel {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Scalar, Self::Rbf, Self::Tisa, Self::Exponential, Self::Matern32];

    /// The names of its parameters, in their order.
    ///
    /// ```
    /// assert_eq!(wgpu_attention::ops::BiasKernel::Rbf.parameters(), ["a", "b"]);
    /// ```
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Scalar => &["a"],
            Self::Rbf | Self::Exponential | Self::Matern32 => &["a", "b"],
            Self::Tisa => &["a", "b", "c"],
        }
    }

    /// Whether the exponent changes sign with the distance.
    #[cfg(feature = "gpu")]
    pub(super) fn is_odd(self) -> bool {
        match self {
            Self::Exponential | Self::Matern32 => true,
            Self::Scalar | Self::Rbf | Self::Tisa => false,
        }
    }
}

/// What one term adds to the logits.
#[derive(Clone, Debug)]
pub(crate) enum TermKind {
    /// A function of a distance. The parameters are `[n_heads, n_basis]`, row-major;
    /// those a kernel does not use are empty.
    Distance {
        distance: Distance,
        kernel: BiasKernel,
        a: Vec<f32>,
        b: Vec<f32>,
        c: Vec<f32>,
    },
    Custom(CustomBias),
}

/// One summand of a [`Bias`]: a function of some columns of the coordinates.
///
/// ```
/// use wgpu_attention::ops::BiasTerm;
///
/// // Two heads, of two basis functions each: near keys in the plane, whatever their height.
/// let term = BiasTerm::rbf(0..2, &[1.0, 0.5, 2.0, 0.0], &[0.1, 10.0, 0.2, 20.0]);
/// let of_height = term.over(2..3);
/// let (linear, slow) = (BiasTerm::scalar(0..2, &[-1.0, -2.0]), BiasTerm::exponential(0..2, &[1.0; 2], &[0.1; 2]));
/// let smooth = BiasTerm::matern32(0..2, &[1.0; 2], &[0.1; 2]);
/// let ring = BiasTerm::tisa(0..2, &[1.0; 2], &[5.0; 2], &[0.3; 2]); // largest at a distance of 0.3
/// ```
#[derive(Clone, Debug)]
pub struct BiasTerm {
    pub(crate) columns: Range<usize>,
    pub(crate) kind: TermKind,
}

impl BiasTerm {
    /// A built-in term over the given coordinate columns. The parameters are those that
    /// [`BiasKernel::parameters`] names, each `[n_heads, n_basis]`, row-major; too many or too few
    /// are refused where the term is used.
    ///
    /// ```
    /// use wgpu_attention::ops::{BiasKernel, BiasTerm, Distance};
    ///
    /// // Two heads on a sphere: `a exp(-b d)` of the angle in degrees.
    /// let (a, b) = ([1.0, 2.0], [0.1, 0.2]);
    /// let term = BiasTerm::built_in(0..2, Distance::GreatCircle, BiasKernel::Exponential, &[&a, &b]);
    /// ```
    pub fn built_in(columns: Range<usize>, distance: Distance, kernel: BiasKernel, parameters: &[&[f32]]) -> Self {
        let parameter = |i: usize| parameters.get(i).copied().unwrap_or_default();
        // What is more than any kernel has makes c too long.
        let c = parameters.get(2..).unwrap_or_default().concat();
        Self {
            columns,
            kind: TermKind::Distance { distance, kernel, a: parameter(0).to_vec(), b: parameter(1).to_vec(), c },
        }
    }

    /// `a_h d` over a Euclidean distance; `a` is `[n_heads]`.
    pub fn scalar(columns: Range<usize>, a: &[f32]) -> Self {
        Self::built_in(columns, Distance::Euclidean, BiasKernel::Scalar, &[a])
    }

    /// `sum_f a_hf exp(-b_hf d^2)` over a Euclidean distance; `a`, `b` are
    /// `[n_heads, n_basis]`.
    pub fn rbf(columns: Range<usize>, a: &[f32], b: &[f32]) -> Self {
        Self::built_in(columns, Distance::Euclidean, BiasKernel::Rbf, &[a, b])
    }

    /// `sum_f a_hf exp(-b_hf (d - c_hf)^2)` over a Euclidean distance; `a`, `b`, `c` are
    /// `[n_heads, n_basis]`.
    pub fn tisa(columns: Range<usize>, a: &[f32], b: &[f32], c: &[f32]) -> Self {
        Self::built_in(columns, Distance::Euclidean, BiasKernel::Tisa, &[a, b, c])
    }

    /// `sum_f a_hf exp(-b_hf d)` over a Euclidean distance; `a`, `b` are `[n_heads, n_basis]`.
    pub fn exponential(columns: Range<usize>, a: &[f32], b: &[f32]) -> Self {
        Self::built_in(columns, Distance::Euclidean, BiasKernel::Exponential, &[a, b])
    }

    /// `sum_f a_hf (1 + sqrt(3) b_hf d) exp(-sqrt(3) b_hf d)` over a Euclidean distance; `a`, `b`
    /// are `[n_heads, n_basis]`.
    pub fn matern32(columns: Range<usize>, a: &[f32], b: &[f32]) -> Self {
        Self::built_in(columns, Distance::Euclidean, BiasKernel::Matern32, &[a, b])
    }

    /// A term that the user wrote.
    pub fn custom(columns: Range<usize>, bias: CustomBias) -> Self {
        Self { columns, kind: TermKind::Custom(bias) }
    }

    /// The same term over other columns.
    pub fn over(&self, columns: Range<usize>) -> Self {
        Self { columns, kind: self.kind.clone() }
    }

    /// What a built-in term computes with, `[n_heads, n_basis]` of `a`, `-b log2 e`, `c` and the
    /// exponent at which its exponential stops growing. All are finite, and no sum of them
    /// overflows.
    pub(super) fn coefficients(&self, n_heads: usize) -> impl Iterator<Item = [f32; 4]> + '_ {
        let (a, b, c) = match &self.kind {
            TermKind::Distance { a, b, c, .. } => (&a[..], &b[..], &c[..]),
            TermKind::Custom(_) => (&[][..], &[][..], &[][..]),
        };
        let at = |values: &[f32], i: usize| values.get(i).copied().unwrap_or(0.0);
        // Matérn's polynomial is below 64 in size for exponents up to 90.
        let beside = match &self.kind {
            TermKind::Distance { kernel: BiasKernel::Matern32, .. } => 64.0,
            _ => 1.0,
        };
        let largest = LARGEST / beside / self.n_basis(n_heads).max(1) as f32;
        a.iter().enumerate().map(move |(i, a)| {
            let a = a.clamp(-largest, largest);
            // `a` times the exponential is at most `largest`.
            let most = (largest / a.abs()).log2().min(90.0);
            let b = (-at(b, i) * LOG2_E).clamp(f32::MIN, f32::MAX);
            [a, b, at(c, i).clamp(-LARGEST_CENTER, LARGEST_CENTER), most]
        })
    }

    /// The name of a custom term.
    pub(super) fn custom_name(&self) -> Option<&str> {
        match &self.kind {
            TermKind::Custom(custom) => Some(&custom.name),
            TermKind::Distance { .. } => None,
        }
    }

    /// Whether distances are those of a great circle.
    pub(crate) fn on_sphere(&self) -> bool {
        matches!(self.kind, TermKind::Distance { distance: Distance::GreatCircle, .. })
    }

    /// The number of basis functions, or 0 for a custom term.
    pub(crate) fn n_basis(&self, n_heads: usize) -> usize {
        match &self.kind {
            TermKind::Distance { a, .. } => a.len() / n_heads.max(1),
            TermKind::Custom(_) => 0,
        }
    }

    /// Of the shader for one query and one key: loop iterations, no fewer, and floating-point operations, roughly.
    ///
    /// # Errors
    /// A snippet that is not one.
    pub(crate) fn work(&self, n_heads: usize) -> Result<(usize, usize)> {
        match &self.kind {
            // One function after the other, for four queries at once, and the test that ends the loop.
            // Distances take no loops.
            TermKind::Distance { .. } => {
                let n_basis = self.n_basis(n_heads);
                Ok(((n_basis + 1).div_ceil(4), 10 * n_basis))
            }
            // The loop over queries, and the test that ends it.
            #[cfg(feature = "gpu")]
            TermKind::Custom(custom) => {
                let work = super::snippet::check(custom, self.columns.len())?;
                Ok((2 + work.iterations, 20 + work.operations))
            }
            #[cfg(not(feature = "gpu"))]
            TermKind::Custom(_) => Ok((0, 0)),
        }
    }

    /// Vectors of four parameters on a GPU.
    pub(crate) fn n_vectors(&self, n_heads: usize) -> usize {
        match &self.kind {
            TermKind::Distance { .. } => n_heads * self.n_basis(n_heads),
            TermKind::Custom(custom) => custom.params.len().div_ceil(4),
        }
    }

    fn check(&self, n_heads: usize, n_columns: usize) -> Result<()> {
        let columns = self.columns.clone();
        let width = columns.len();
        let exist = columns.start < columns.end && columns.end <= n_columns;
        let (found, allowed) = (format_args!("{columns:?}"), format_args!("a range within 0..{n_columns}"));
        check_argument(exist, OP, "bias columns", found, allowed)?;
        check_limit("coordinates in one bias term", width as u64, MAX_COORDINATES as u64)?;
        let (distance, kernel, a, b, c) = match &self.kind {
            TermKind::Custom(_) => return Ok(()),
            TermKind::Distance { distance, kernel, a, b, c } => (distance, kernel, a, b, c),
        };
        let wanted_width = match distance {
            Distance::Euclidean => width,
            Distance::GreatCircle => 2,
            Distance::CausalTime => 1,
        };
        let found = format_args!("{columns:?} ({width} columns)");
        let allowed = format_args!("{wanted_width} column(s) for {distance:?}");
        check_argument(width == wanted_width, OP, "bias columns", found, allowed)?;
        let n = a.len();
        let is_scalar = *kernel == BiasKernel::Scalar;
        let basis = if is_scalar { "1" } else { "n_basis" };
        let fits = n > 0 && n % n_heads == 0 && (!is_scalar || n == n_heads);
        let (found, allowed) = (format_args!("{n} numbers"), format_args!("n_heads ({n_heads}) x {basis}"));
        check_argument(fits, OP, "bias parameter a", found, allowed)?;
        for (i, (name, values)) in [("bias parameter b", b), ("bias parameter c", c)].into_iter().enumerate() {
            let (len, wanted) = (values.len(), if i + 1 < kernel.parameters().len() { n } else { 0 });
            let (found, allowed) = (format_args!("{len} numbers"), format_args!("{wanted} for {kernel:?}"));
            check_argument(len == wanted, OP, name, found, allowed)?;
        }
        let all = [("bias parameter a", a), ("bias parameter b", b), ("bias parameter c", c)];
        all.into_iter().try_for_each(|(name, values)| check_finite(name, values))
    }
}

/// A bias for one call of [`scan_attention`](super::scan_attention()): coordinates and the
/// terms computed from them, and optionally a matrix that already exists.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Bias, ScanAttention, scan_attention}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let tensor = |shape: &[usize], numbers: &[f32]| Tensor::new(&Device::cpu(), shape, numbers);
/// let (q, k) = (tensor(&[1, 1, 1, 1], &[0.0])?, tensor(&[1, 1, 2, 1], &[1.0, 2.0])?);
/// let matrix = tensor(&[1, 1, 1, 2], &[0.0, 3f32.ln()])?; // the second key weighs three times as much
/// let read = scan_attention(&q, &k, &k, &ScanAttention::default().bias(Bias::matrix(&matrix)))?;
/// assert!((read.values.read()?[0] - 1.75).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Bias<'a> {
    /// `[batch, n_queries, n_columns]`, or `[n_queries, n_columns]` where all batch elements have
    /// the same; needed where there are terms.
    pub q_coords: Option<&'a Tensor>,
    /// `[batch, n_keys, n_columns]` or `[n_keys, n_columns]`; needed where there are terms.
    pub k_coords: Option<&'a Tensor>,
    /// The terms, summed.
    pub terms: &'a [BiasTerm],
    /// A materialised bias `[batch, n_heads, n_queries, n_keys]` that is added too. It
    /// costs the quadratic memory that the terms avoid. Each of the first three dimensions may be
    /// 1 for numbers that are the same along it, and `[n_queries, n_keys]` is the same for all
    /// batch elements and heads; nothing is copied for that. A number that is not finite, or is
    /// below half of [`MASKED`], masks the pair.
    pub matrix: Option<&'a Tensor>,
}

impl<'a> Bias<'a> {
    /// A bias computed from coordinates.
    pub fn new(q_coords: &'a Tensor, k_coords: &'a Tensor, terms: &'a [BiasTerm]) -> Self {
        Self { q_coords: Some(q_coords), k_coords: Some(k_coords), terms, matrix: None }
    }

    /// A bias that the caller has already computed, `[batch, n_heads, n_queries, n_keys]` or what
    /// stands for that, see [`Bias::matrix`](struct@Bias#structfield.matrix).
    pub fn matrix(matrix: &'a Tensor) -> Self {
        Self::default().with_matrix(matrix)
    }

    /// Adds a bias that the caller has already computed to this one.
    pub fn with_matrix(mut self, matrix: &'a Tensor) -> Self {
        self.matrix = Some(matrix);
        self
    }

    /// Checks everything against the sizes of the attention; returns the number of
    /// coordinate columns, and where the numbers are.
    pub(super) fn check(
        &self,
        batch: usize,
        n_heads: usize,
        n_queries: usize,
        n_keys: usize,
    ) -> Result<(usize, BiasStrides)> {
        let mut strides = BiasStrides::default();
        if let Some(found) = self.matrix.map(Tensor::shape) {
            let shape = [batch, n_heads, n_queries, n_keys];
            strides.matrix = BiasStrides::of_matrix(found, shape).ok_or_else(|| {
                let expected = format!(
                    "{shape:?} ([batch, n_heads, n_queries, n_keys], of which the first three may be 1), or \
                     [n_queries, n_keys]"
                );
                Error::shape(OP, "bias.matrix", found, expected)
            })?;
        }
        let (q_coords, k_coords) = match (self.q_coords, self.k_coords) {
            (Some(q), Some(k)) => (q, k),
            _ if self.terms.is_empty() => return Ok((0, strides)),
            _ => {
                let allowed = "q_coords and k_coords where the bias has terms";
                return Err(Error::argument(OP, "bias coordinates", "none", allowed));
            }
        };
        let n_columns = q_coords.shape().last().copied().unwrap_or(0);
        for (name, coords, length, stride) in [
            ("bias.q_coords", q_coords, n_queries, &mut strides.q_coords),
            ("bias.k_coords", k_coords, n_keys, &mut strides.k_coords),
        ] {
            let (found, shape) = (coords.shape(), [batch, length, n_columns]);
            let is_shared = *found == shape[1..] || *found == [1, length, n_columns];
            let expected = format_args!("{shape:?} ([batch, length, n_columns]) or {:?}", &shape[1..]);
            check_shape(is_shared || *found == shape, OP, name, found, expected)?;
            *stride = if is_shared { 0 } else { length };
        }
        self.terms.iter().try_for_each(|term| term.check(n_heads, n_columns))?;
        Ok((n_columns, strides))
    }
}

/// Whether a logit marks a masked pair: the sentinel, or anything not finite.
#[inline]
pub(crate) fn is_masked(bias: f32) -> bool {
    !(bias > 0.5 * MASKED && bias < f32::INFINITY)
}
