//! Sums of numbers without rounding: the same of any order and cut.

use serde::{Deserialize, Serialize};

use crate::wide;

/// The unit is `2^LOWEST`, below the last bit of any product of two f32 numbers.
const LOWEST: i32 = -384;

/// Words of a sum, which holds `2^63` such products.
const WORDS: usize = 11;

/// An integer in units of `2^LOWEST`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExactSum([u64; WORDS]);

impl ExactSum {
    /// Of products of two f32 numbers.
    pub fn new(terms: impl Iterator<Item = f64>) -> Self {
        let mut sum = [0; WORDS];
        for x in terms.filter(|x| *x != 0.0) {
            // No such product is subnormal in f64.
            let bits = x.to_bits();
            let mantissa = (bits & ((1 << 52) - 1) | 1 << 52) as i64;
            let exponent = (bits >> 52 & 0x7ff) as i32 - 1075;
            wide::add_shifted(&mut sum, if x < 0.0 { -mantissa } else { mantissa }, (exponent - LOWEST) as u32);
        }
        Self(sum)
    }

    /// With the terms of both.
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.0;
        wide::add(&mut sum, &other.0);
        Self(sum)
    }

    /// Without the terms of the other.
    pub fn minus(&self, other: &Self) -> Self {
        let mut sum = self.0;
        wide::subtract(&mut sum, &other.0);
        Self(sum)
    }

    /// The nearest f64, to a unit in its last place.
    pub fn value(&self) -> f64 {
        // In two steps, both of which are in range.
        let half = 2f64.powi(LOWEST / 2);
        wide::to_f64(&self.0) * half * half
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_in_any_cut() {
        let numbers = [1.0, -1e30, 3.5, 1e-40, -2.25, 1e30, f32::MAX, -f32::MAX, f32::from_bits(1), -7e-12];
        let numbers: Vec<f64> = numbers.iter().map(|x| f64::from(*x)).collect();
        let whole = ExactSum::new(numbers.iter().copied());
        assert_eq!(whole.value(), 2.25 - f64::from(7e-12f32));
        for cut in 0..numbers.len() {
            let (a, b) = (ExactSum::new(numbers[cut..].iter().copied()), ExactSum::new(numbers[..cut].iter().copied()));
            assert_eq!(a.plus(&b), whole);
            assert_eq!(whole.minus(&b), a);
        }
        let squares = ExactSum::new(numbers.iter().map(|x| x * x));
        let truth = 2.0 * f64::from(f32::MAX).powi(2);
        assert!((squares.value() - truth).abs() <= 1e-15 * truth, "{}", squares.value());
        let tiny = f64::from(f32::from_bits(1)).powi(2);
        assert_eq!(ExactSum::new([tiny, -3.0 * tiny].into_iter()).value(), -2.0 * tiny);
    }
}
