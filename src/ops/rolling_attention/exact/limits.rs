//! How large scores and values may become, which says where the digits of exact sums lie.

use crate::error::{Error, Result, check_argument};

/// Bits of a digit of a weight: what an f32 holds.
pub(super) const DIGIT: u32 = 24;

/// Digits of a weight, and their bits.
pub(super) const DIGITS: usize = 8;
pub(super) const WEIGHT: i32 = DIGIT as i32 * DIGITS as i32;

/// A score below this, in base 2, is one of a weight of zero whatever the limits are.
pub(super) const LEAST_SCORE: f32 = -4_194_304.0; // -2^22

/// Limits of scores in base 2 are integers up to this.
const MOST_SCORE: f64 = 1_048_576.0; // 2^20

/// Values smaller than the limit by more than `2^SHIFT` are rounded like those that are just so.
pub(super) const SHIFT: i32 = 10;

/// What rounding in f32 may add to a score, as a share of it and by itself.
const SLACK: [f64; 2] = [1.0 / 1024.0, 1.0 / 64.0];

/// Powers of two: two states whose limits are the same have their digits at the same places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Weights are below `2^scores / 2`, of each row `[batch, n_heads, n_queries]`.
    pub scores: Vec<i32>,
    /// Values are below `2^value`.
    pub value: i32,
}

impl Limits {
    /// All of them, exactly, for a file of tensors: those of scores, then that of values and the bits below a limit.
    pub fn numbers(&self) -> Vec<f32> {
        self.scores.iter().chain([&self.value, &WEIGHT]).map(|limit| *limit as f32).collect()
    }

    /// Of the largest scores, as natural logarithms of weights, and the largest size of a value.
    pub fn new(op: &'static str, scores: impl Iterator<Item = f32>, value: f32) -> Result<Self> {
        let score = |score: f32| {
            let base_2 = f64::from(score) * std::f64::consts::LOG2_E;
            let limit = base_2 + SLACK[0] * base_2.abs() + SLACK[1];
            match limit.abs() <= MOST_SCORE {
                true => Ok(limit.ceil() as i32 + 1),
                false => Err(Error::argument(op, "a largest score", score, "a finite number of at most 7e5 in size")),
            }
        };
        let is_allowed = (0.0..=1e30).contains(&value);
        check_argument(is_allowed, op, "the largest value", value, "from 0 to 1e30")?;
        let value = exponent(value * (1.0 + SLACK[0] as f32)).max(-100);
        Ok(Self { scores: scores.map(score).collect::<Result<_>>()?, value })
    }
}

/// The least `e` with `x < 2^e`, for `x >= 0`; of what is subnormal or zero that of the least normal number.
pub(super) fn exponent(x: f32) -> i32 {
    (x.to_bits() >> 23) as i32 - 126
}

/// `2^e` of a normal number.
pub(super) fn power(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}
