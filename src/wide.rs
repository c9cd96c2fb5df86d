//! Integers of several words, two's complement, the lowest 64 bits first: sums of which nothing is rounded.

/// Adds `x 2^shift`, which begins within the words.
#[inline]
pub(crate) fn add_shifted<const N: usize>(sum: &mut [u64; N], x: i64, shift: u32) {
    let (first, rest) = ((shift / 64) as usize, shift % 64);
    let low = i128::from(x) << rest;
    // The sign goes on above.
    let mut term = [(x >> 63) as u64; N];
    term[..first].fill(0);
    term[first..].iter_mut().zip([low as u64, (low >> 64) as u64]).for_each(|(word, low)| *word = low);
    add(sum, &term);
}

#[inline]
pub(crate) fn add<const N: usize>(sum: &mut [u64; N], term: &[u64; N]) {
    let mut carry = false;
    for (sum, term) in sum.iter_mut().zip(term) {
        let (with, a) = sum.overflowing_add(*term);
        let (with, b) = with.overflowing_add(u64::from(carry));
        (*sum, carry) = (with, a || b);
    }
}

pub(crate) fn subtract<const N: usize>(sum: &mut [u64; N], term: &[u64; N]) {
    add(sum, &negative(term));
}

fn negative<const N: usize>(x: &[u64; N]) -> [u64; N] {
    let mut negative = x.map(|word| !word);
    let mut one = [0; N];
    one[0] = 1;
    add(&mut negative, &one);
    negative
}

pub(crate) fn is_negative<const N: usize>(x: &[u64; N]) -> bool {
    x[N - 1] >> 63 == 1
}

/// The nearest f64, to a unit in its last place.
pub(crate) fn to_f64<const N: usize>(x: &[u64; N]) -> f64 {
    const WORD: f64 = (1u128 << 64) as f64;
    let size = if is_negative(x) { negative(x) } else { *x };
    let size = size.iter().rev().fold(0.0, |sum, &word| sum * WORD + word as f64);
    if is_negative(x) { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(x: i128) -> [u64; 3] {
        [x as u64, (x >> 64) as u64, (x >> 127) as u64]
    }

    #[test]
    fn sums_are_those_of_integers() {
        let numbers = [0, 1, -1, 5, i64::MAX, i64::MIN, -123_456_789_012];
        for a in numbers {
            for b in numbers {
                for shift in [0, 1, 24, 48, 63] {
                    let mut sum = wide(i128::from(b));
                    add_shifted(&mut sum, a, shift);
                    let truth = i128::from(b) + (i128::from(a) << shift);
                    assert_eq!(sum, wide(truth), "{a} 2^{shift} + {b}");
                    let size = to_f64(&sum);
                    assert!((size - truth as f64).abs() <= 2e-16 * size.abs(), "{truth} becomes {size}");
                    subtract(&mut sum, &wide(i128::from(b)));
                    assert_eq!(sum, wide(i128::from(a) << shift));
                }
            }
        }
        for shift in [72, 130, 190] {
            let mut sum = [0; 3];
            add_shifted(&mut sum, -1, shift);
            assert_eq!(to_f64(&sum), -(2f64.powi(shift as i32)));
            add_shifted(&mut sum, 1, shift);
            assert_eq!(sum, [0; 3]);
        }
    }
}
