//! Biases of the user's own, and what their snippets may be.

use std::{fmt, sync::Arc};

/// Bytes of the snippet of a [`CustomBias`].
pub const MAX_SNIPPET_BYTES: usize = 4096;

/// Operators and brackets in one statement of the snippet of a [`CustomBias`].
pub const MAX_SNIPPET_OPERATORS: usize = 80;

/// Blocks in the snippet of a [`CustomBias`].
pub const MAX_SNIPPET_BLOCKS: usize = 64;

/// Blocks in each other in the snippet of a [`CustomBias`]; an `else if` is within the `if` before it.
pub const MAX_SNIPPET_NESTING: usize = 10;

/// Brackets in each other in the snippet of a [`CustomBias`].
pub const MAX_SNIPPET_BRACKETS: usize = 16;

/// Bytes of all variables and arrays in the snippet of a [`CustomBias`].
pub const MAX_SNIPPET_ARRAY: u32 = 1024;

/// Loop iterations of the snippet of a [`CustomBias`] for one pair.
pub const MAX_SNIPPET_ITERATIONS: usize = 1 << 16;

/// Floating-point operations of the snippet of a [`CustomBias`] for one pair, roughly; a function counts as ten.
pub const MAX_SNIPPET_OPERATIONS: usize = 1 << 22;

/// The bias of one pair on the CPU: `(q_coord, k_coord, head, params) -> bias`.
pub type BiasFn = dyn Fn(&[f32], &[f32], usize, &[f32]) -> f32 + Send + Sync;

/// A bias that the user wrote, once in WGSL and once in Rust.
///
/// The WGSL is the body of
/// `fn(q_coord: array<f32, C>, k_coord: array<f32, C>, head: u32) -> f32`, where `C` is the
/// number of columns the term looks at; `params(i)` reads parameter `i: u32`. To read one past the
/// end is a mistake: the Rust twin panics, which the call returns as an error, and WGSL, which
/// cannot, reads `MASKED`. Return `MASKED` to mask the pair.
///
/// The snippet is read before use, on the CPU too (in a build with the feature `gpu`), compiled
/// with all run-time checks on, and must be one that compiles in reasonable time, ends, and
/// touches nothing but its arguments:
///
/// * it declares nothing outside of the function (no functions, types, aliases, constants of the
///   module or attributes), and computes with numbers, vectors and arrays: no barriers, atomics,
///   textures or derivatives;
/// * its loops count from one literal to another, as `for (var i = 0u; i < 8u; i++)` does, and
///   nothing else changes the counter; nested and one after the other they turn at most
///   [`MAX_SNIPPET_ITERATIONS`] times for a pair, with [`MAX_SNIPPET_OPERATIONS`] at most. A software adapter ends an invocation after
///   32,767: there the keys are cut into shorter launches, and what does not fit for 64 keys
///   (about 1,000 turns a pair) is [`Error::LimitExceeded`](crate::Error::LimitExceeded);
/// * it is at most [`MAX_SNIPPET_BYTES`] long, with [`MAX_SNIPPET_OPERATORS`] operators and brackets
///   in a statement, [`MAX_SNIPPET_BLOCKS`] blocks, at most [`MAX_SNIPPET_NESTING`] of them and
///   [`MAX_SNIPPET_BRACKETS`] brackets in each other, and [`MAX_SNIPPET_ARRAY`] bytes of variables and
///   arrays, whose lengths are literals.
///
/// A device keeps the pipelines of a few such texts, see [`Device::trim`](crate::Device::trim);
/// numbers that change belong into [`CustomBias::params`] and not into the text.
///
/// ```
/// use std::sync::Arc;
/// use wgpu_attention::{Device, Tensor, ops::{Bias, BiasTerm, CustomBias, ScanAttention, scan_attention}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// // -slope |q - k|, a slope for each head.
/// let alibi = CustomBias {
///     name: "alibi".into(),
///     wgsl: "return -params(head) * abs(q_coord[0] - k_coord[0]);".into(),
///     cpu: Arc::new(|q, k, head, params| -params[head] * (q[0] - k[0]).abs()),
///     params: vec![9.0],
/// };
/// let device = Device::best();
/// let tensor = |shape: &[usize], numbers: &[f32]| Tensor::new(&device, shape, numbers);
/// let (q, k) = (tensor(&[1, 1, 1, 1], &[0.0])?, tensor(&[1, 1, 2, 1], &[0.0, 0.0])?);
/// let v = tensor(&[1, 1, 2, 1], &[1.0, 2.0])?;
/// let (here, there) = (tensor(&[1, 1, 1], &[3.0])?, tensor(&[1, 2, 1], &[3.0, 4.0])?);
/// let terms = [BiasTerm::custom(0..1, alibi)];
/// let options = ScanAttention::default().bias(Bias::new(&here, &there, &terms));
/// assert!((scan_attention(&q, &k, &v, &options)?.values.read()?[0] - 1.0).abs() < 0.001);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CustomBias {
    /// A name for error messages.
    pub name: String,
    /// The body of the WGSL function.
    pub wgsl: String,
    /// The same function in Rust; [`MASKED`](super::MASKED) or anything not finite masks the pair. If it panics,
    /// the call returns an error.
    pub cpu: Arc<BiasFn>,
    /// Numbers that both read.
    pub params: Vec<f32>,
}

impl fmt::Debug for CustomBias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomBias")
            .field("name", &self.name)
            .field("wgsl", &self.wgsl)
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}
