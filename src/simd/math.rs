//! Elementary functions by polynomials, to about two units in the last place.

use fearless_simd::prelude::*;

/// Evaluates `c[0] + c[1] x + ...`.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, c: [f32; N]) -> S::f32s {
    let mut sum = S::f32s::splat(simd, c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = sum.mul_add(x, S::f32s::splat(simd, c[i]));
    }
    sum
}

/// `2^f` for `f` in `[-1/2, 1/2]`, exactly 1 at 0. Minimax fit of the relative error, 1.1e-7.
#[inline(always)]
#[allow(clippy::approx_constant)] // the fit's own, not quite ln 2
fn exp2_fraction<S: Simd>(simd: S, f: S::f32s) -> S::f32s {
    polynomial(simd, f, [1.0, 0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7])
}

/// Powers of two below this are taken for zero, or for this: what is multiplied by them stays
/// clear of subnormal numbers, which are slow.
const LEAST_POWER: f32 = -96.0;

/// `2^x` for `x <= 127`; exactly 0 below [`LEAST_POWER`]; NaN stays.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // This order of comparison keeps NaN.
    let least = x.simd_lt(LEAST_POWER);
    least.select(S::f32s::splat(simd, 0.0), exp2_in_range(simd, x))
}

/// `2^x` that saturates below at `2^-96` and above at `2^most`: cheaper than [`exp2`] where a
/// tiny number does as well as zero.
#[inline(always)]
pub(crate) fn exp2_saturating<S: Simd>(simd: S, x: S::f32s, most: f32) -> S::f32s {
    exp2_in_range(simd, saturated(simd, x, most))
}

/// The exponent that [`exp2_saturating`] takes instead of `x`.
#[inline(always)]
pub(crate) fn saturated<S: Simd>(_: S, x: S::f32s, most: f32) -> S::f32s {
    x.max(LEAST_POWER).min(most)
}

/// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, from where [`power_of_rounded`] takes it to the
/// exponent, whose bias is added too.
const ROUND: f32 = 12_582_912.0 + 127.0;

/// `2^n` of `n + ROUND` for an integer `n` in `[-126, 127]`.
#[inline(always)]
fn power_of_rounded<S: Simd>(_: S, rounded: S::f32s) -> S::f32s {
    (rounded.bitcast::<S::u32s>() << 23).bitcast()
}

/// `2^x` for integers in `[-126, 127]`.
#[inline(always)]
pub(crate) fn power_of_two<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    power_of_rounded(simd, x + ROUND)
}

/// `2^x` for `x` in `[-126, 127]`; NaN for NaN, whatever its bits; anything for others.
#[inline(always)]
fn exp2_in_range<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let rounded = x + ROUND;
    exp2_fraction(simd, x - (rounded - ROUND)) * power_of_rounded(simd, rounded)
}

/// `2^x` as a number near one and the exponent of a power of two that it is to be multiplied by, an
/// integer: for an `x` whose power leaves the range of f32.
#[inline(always)]
pub(crate) fn exp2_parts<S: Simd>(simd: S, x: S::f32s) -> [S::f32s; 2] {
    let exponent = x.round_ties_even();
    [exp2_fraction(simd, x - exponent), exponent]
}

/// `e^x` for `x` in `[-87, 87]`, clamped to that.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // ln 2 in two parts, the first with room for the multiple.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.max(-87.0).min(87.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, S::f32s::splat(simd, ROUND));
    let n = rounded - ROUND;
    let f = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    exp2_fraction(simd, f * std::f32::consts::LOG2_E) * power_of_rounded(simd, rounded)
}

/// `e^x` for every `x`: zero below -87, infinite where it overflows, NaN stays.
#[inline(always)]
pub(crate) fn exp_unclamped<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const LARGEST: f32 = 88.722_84;
    let large = exp(simd, x - 2.0) * (std::f32::consts::E * std::f32::consts::E);
    let y = x.simd_gt(87.0).select(large, exp(simd, x));
    let y = x.simd_gt(LARGEST).select(S::f32s::splat(simd, f32::INFINITY), y);
    let y = x.simd_lt(-87.0).select(S::f32s::splat(simd, 0.0), y);
    x.simd_eq(x).select(y, x)
}

/// `atan(x)` for `x` in `[0, 1]`.
#[inline(always)]
pub(crate) fn atan_unit<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Minimax fit of (atan(x) / x - 1) / x^2 in x^2, relative error of the whole 1.8e-8.
    let c = [
        -0.333_331_53,
        0.199_937_73,
        -0.142_110_56,
        0.106_660_046,
        -0.075_522_15,
        0.043_211_866,
        -0.016_367_93,
        0.002_920_693,
    ];
    let square = x * x;
    (x * square).mul_add(polynomial(simd, square, c), x)
}

/// `e^(z^2) erfc(z)` for `z >= 0`.
#[inline(always)]
pub(crate) fn scaled_erfc<S: Simd>(simd: S, z: S::f32s) -> S::f32s {
    // Minimax fit of the relative error in t = 1 / (1 + 0.4 z) over z <= 11, 2.2e-9.
    let c = [
        0.225_683_26,
        0.225_493_39,
        0.209_543_33,
        0.160_179_9,
        0.162_488_88,
        -0.023_583_578,
        0.130_446_63,
        -0.055_713_948,
        -0.101_982_04,
        0.087_477_66,
        -0.020_033_48,
    ];
    let t = S::f32s::splat(simd, 1.0) / z.mul_add(0.4, S::f32s::splat(simd, 1.0));
    t * polynomial(simd, t, c)
}

#[cfg(test)]
mod tests {
    use fearless_simd::{Level, dispatch};

    use super::*;
    use crate::simd::{levels, load_some};

    /// Applies a function of one vector to every number.
    macro_rules! map {
        ($level:expr, $x:expr, $function:ident) => {{
            let (level, x): (Level, &[f32]) = ($level, $x);
            let one = |x: &f32| dispatch!(level, simd => $function(simd, load_some(simd, &[*x])).as_slice()[0]);
            x.iter().map(one).collect::<Vec<f32>>()
        }};
    }

    #[inline(always)]
    fn exp2_up_to_90<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
        exp2_saturating(simd, x, 90.0)
    }

    /// From `low` to `high`, both included.
    fn grid(low: f32, high: f32) -> Vec<f32> {
        const N: usize = 20_000;
        (0..=N).map(|i| low + (high - low) * (i as f32 / N as f32)).collect()
    }

    fn relative_error(x: &[f32], found: &[f32], truth: impl Fn(f64) -> f64) -> f64 {
        let one = |(&x, &y): (&f32, &f32)| (f64::from(y) / truth(f64::from(x)) - 1.0).abs();
        x.iter().zip(found).map(one).fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_accurate() {
        // Two units in the last place.
        const ALLOWED: f64 = 2.4e-7;
        for level in levels() {
            let x = grid(-96.0, 0.0);
            assert!(relative_error(&x, &map!(level, &x, exp2), f64::exp2) < ALLOWED);
            let x = grid(-96.0, 90.0);
            assert!(relative_error(&x, &map!(level, &x, exp2_up_to_90), f64::exp2) < ALLOWED);
            let x = grid(-87.0, 87.0);
            assert!(relative_error(&x, &map!(level, &x, exp), f64::exp) < ALLOWED);
            let x = grid(-87.0, 88.72);
            assert!(relative_error(&x, &map!(level, &x, exp_unclamped), f64::exp) < 2.0 * ALLOWED);
            let x = grid(1e-6, 1.0);
            assert!(relative_error(&x, &map!(level, &x, atan_unit), f64::atan) < ALLOWED);
            let x = grid(0.0, 5.0);
            let truth = |z: f64| (z * z).exp() * libm::erfc(z);
            assert!(relative_error(&x, &map!(level, &x, scaled_erfc), truth) < 2.0 * ALLOWED);
        }
    }

    #[test]
    fn functions_saturate() {
        for level in levels() {
            assert_eq!(map!(level, &[0.0, -96.5, -1e4, -1e30, f32::NEG_INFINITY], exp2), [1.0, 0.0, 0.0, 0.0, 0.0]);
            // Of either sign and of any payload.
            let nans = [0x7fc0_0000, 0xffc0_0000, 0x7fc0_0001, 0x7fff_ffff, 0x7f80_0001].map(f32::from_bits);
            assert!(map!(level, &nans, exp2).iter().all(|x| x.is_nan()));
            let found = map!(level, &[0.0, 90.0, 1e30, f32::INFINITY, -1e30, f32::NEG_INFINITY], exp2_up_to_90);
            let (most, least) = (90f32.exp2(), LEAST_POWER.exp2());
            assert_eq!(found, [1.0, most, most, most, least, least]);
            let found = map!(level, &[f32::INFINITY, f32::NEG_INFINITY], exp);
            assert!(found[0].is_finite() && found[0] > 6e37 && found[1] < 2e-38, "{found:?}");
            let found = map!(level, &[88.73, 1e30, f32::INFINITY, -88.0, f32::NEG_INFINITY], exp_unclamped);
            assert_eq!(found, [f32::INFINITY, f32::INFINITY, f32::INFINITY, 0.0, 0.0]);
            assert!(map!(level, &[f32::NAN], exp_unclamped)[0].is_nan());
            assert_eq!(map!(level, &[0.0], atan_unit), [0.0]);
        }
    }
}
