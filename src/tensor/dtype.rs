//! Numbers that are stored in 16 bits.

use std::sync::Arc;

use half::{f16, slice::HalfFloatSliceExt};

use crate::{
    error::{Error, Result},
    host::{self, Kept},
};

/// What the numbers of a tensor are stored as.
///
/// f16 halves the memory, and the traffic, of what is read most. These operands may be of it, on every
/// device; all others are f32, and an operation refuses what it does not read:
///
/// | operation | operands |
/// |---|---|
/// | [`linear`](crate::ops::linear()) | `weight` |
/// | [`scan_attention`](crate::ops::scan_attention()), [`ScanMemory`](crate::ops::ScanMemory) | `k`, `v` |
///
/// It is a form of storage alone: numbers are widened when they are read, and all sums are f32. So a result
/// is as exact as that of f32 operands with the numbers that were stored. These differ from what was
/// rounded by at most `2^-11` of each where it is `2^-14` or larger, and by `2^-25` where it is smaller.
///
/// ```
/// use wgpu_attention::{DType, Device, Tensor, f16};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let x = Tensor::new(&Device::best(), &[3], &[1.0, 0.1, 65_504.0])?;
/// let half = x.to_f16()?;
/// assert_eq!((half.dtype(), half.shape()), (DType::F16, &[3][..]));
/// assert_eq!(half.read()?, [1.0, f16::from_f32(0.1).to_f32(), 65_504.0]); // always f32 on the host
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits: 11 digits in base 2, up to 65,504.
    F16,
}

impl DType {
    /// Words of 32 bits that so many numbers take.
    #[cfg(feature = "gpu")]
    pub(crate) fn words(self, n: usize) -> usize {
        match self {
            Self::F32 => n,
            Self::F16 => n.div_ceil(2),
        }
    }

    /// So many numbers of the words of a buffer.
    #[cfg(feature = "gpu")]
    pub(super) fn numbers_of(self, words: Vec<f32>, n: usize) -> Result<Vec<f32>> {
        match self {
            Self::F32 => Ok(words),
            Self::F16 => {
                let halves = |word: f32| {
                    let bits = word.to_bits();
                    [bits as u16, (bits >> 16) as u16].map(|bits| f16::from_bits(bits).to_f32())
                };
                host::collect(n, words.into_iter().flat_map(halves).take(n))
            }
        }
    }
}

/// Numbers on the CPU.
#[derive(Clone)]
pub(crate) enum Numbers {
    F32(Arc<Kept>),
    F16(Arc<Vec<f16>>),
}

impl Numbers {
    /// A copy.
    pub(crate) fn to_f32(&self) -> Result<Vec<f32>> {
        match self {
            Self::F32(data) => host::copy(data),
            Self::F16(data) => {
                let mut numbers = host::zeros(&[data.len()])?;
                data.convert_to_f32_slice(&mut numbers);
                Ok(numbers)
            }
        }
    }
}

/// The nearest halves.
pub(super) fn narrow(numbers: &[f32]) -> Result<Vec<f16>> {
    let mut halves = host::filled(f16::ZERO, &[numbers.len()])?;
    halves.convert_from_f32_slice(numbers);
    Ok(halves)
}

/// Refuses the first finite number that is beyond f16.
pub(crate) fn check_f16(op: &'static str, numbers: &[f32]) -> Result<()> {
    let largest = f16::MAX.to_f32();
    match numbers.iter().position(|x| x.is_finite() && x.abs() > largest) {
        None => Ok(()),
        Some(i) => {
            let (found, allowed) = (format!("{} at {i}", numbers[i]), format!("-{largest} to {largest}"));
            Err(Error::argument(op, "number", found, allowed))
        }
    }
}
