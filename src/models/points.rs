//! Observations that are alike in all models: numbers from outside, and checks of their sizes.

use std::ops::Range;

use crate::{
    device::Device,
    error::{Result, check_argument},
    tensor::{Mask, n_elements},
};

mod sealed {
    pub trait Sealed: Sized {
        fn numbers(slice: &[Self]) -> super::Numbers<'_>;
    }
}

/// What coordinates, and values that a prediction is asked about, are given as: `f32` or `f64`. A model takes its origin off them in f64 and rounds
/// to f32 after that, so that what lies far from zero (seconds since 1970, metres of a map projection)
/// keeps its differences; only what is f32 already has lost them before.
///
/// ```
/// use wgpu_attention::models::tnp_kr::Locations;
///
/// let (coarse, fine) = ([1.7e9f32, 1.7e9 + 50.0], [1.7e9f64, 1.7e9 + 50.0]);
/// assert_eq!(coarse[0], coarse[1]);
/// let (_, _) = (Locations::space(1, &coarse), Locations::space(1, &fine)); // either will do
/// ```
pub trait Coordinate: Copy + sealed::Sealed {}

impl Coordinate for f32 {}
impl Coordinate for f64 {}

impl sealed::Sealed for f32 {
    fn numbers(slice: &[f32]) -> Numbers<'_> {
        Numbers::F32(slice)
    }
}

impl sealed::Sealed for f64 {
    fn numbers(slice: &[f64]) -> Numbers<'_> {
        Numbers::F64(slice)
    }
}

/// Coordinates as they were given.
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl<'a> Numbers<'a> {
    pub fn new<T: Coordinate>(slice: &'a [T]) -> Self {
        T::numbers(slice)
    }

    pub fn len(self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F64(numbers) => numbers.len(),
        }
    }

    pub fn get(self, i: usize) -> f64 {
        match self {
            Self::F32(numbers) => f64::from(numbers[i]),
            Self::F64(numbers) => numbers[i],
        }
    }
}

pub(crate) fn check_batch(op: &'static str, batch: usize) -> Result<()> {
    check_argument(batch > 0, op, "batch", batch, "1 or more")
}

/// Refuses an input that does not fill its shape; `name` is that of its length, and `because` says
/// where the shape is from.
pub(crate) fn check_length(
    op: &'static str,
    name: &'static str,
    shape: &[usize],
    found: usize,
    because: impl std::fmt::Display,
) -> Result<()> {
    let expected = n_elements(shape);
    let allowed = format_args!("{expected}, which fills the shape {shape:?}{because}");
    check_argument(found == expected, op, name, found, allowed)
}

/// Which of some points exist, on the device, where not all do: `keep` is `[batch, n]`.
pub(crate) fn mask(device: &Device, keep: Option<&[bool]>, n: usize, range: &Range<usize>) -> Result<Option<Mask>> {
    let of_range = |keep: &[bool]| {
        let batch = keep.len() / n;
        let keep: Vec<bool> = keep.chunks(n).flat_map(|keep| &keep[range.clone()]).copied().collect();
        Mask::new(device, &[batch, range.len()], &keep)
    };
    keep.map(of_range).transpose()
}
