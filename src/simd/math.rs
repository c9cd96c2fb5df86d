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
fn exp2_fraction<S: Simd>(simd: S, f: S::f32s) -> S::f32s {
    polynomial(simd, f, [1.0, 0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7])
}

/// `2^x` for `x <= 128`. Exactly 0 below -127, and in `[-127, -126.5]`.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits; 127 more make it
    // the exponent of a float.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    let x = x.max(-127.0);
    let rounded = x + ROUND;
    let scale: S::f32s = (rounded.bitcast::<S::u32s>() << 23).bitcast();
    exp2_fraction(simd, x - (rounded - ROUND)) * scale
}

/// `2^x` that saturates below at `2^-126` and above at `2^90`: cheaper than [`exp2`] where a
/// tiny number does as well as zero.
#[inline(always)]
pub(crate) fn exp2_saturating<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-126.0).min(90.0);
    let rounded = x + ROUND;
    let power = exp2_fraction(simd, x - (rounded - ROUND));
    (power.bitcast::<S::u32s>() + (rounded.bitcast::<S::u32s>() << 23)).bitcast()
}

/// `e^x` for `x` in `[-87, 87]`, clamped to that.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ROUND: f32 = 12_582_912.0 + 127.0;
    // ln 2 in two parts, the first with room for the multiple.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.max(-87.0).min(87.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, S::f32s::splat(simd, ROUND));
    let n = rounded - ROUND;
    let f = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let scale: S::f32s = (rounded.bitcast::<S::u32s>() << 23).bitcast();
    exp2_fraction(simd, f * std::f32::consts::LOG2_E) * scale
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
    let c = [0.0];
    let t = S::f32s::splat(simd, 1.0) / z.mul_add(0.4, S::f32s::splat(simd, 1.0));
    t * polynomial(simd, t, c)
}
