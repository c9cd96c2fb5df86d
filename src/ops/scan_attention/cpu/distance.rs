//! Coordinates in columns, and the distances between some queries and a block of keys.

use std::ops::Range;

use fearless_simd::prelude::*;

use super::super::bias::{BiasKernel, Distance};
use crate::{parallel::*, simd::math::atan_unit};

/// Packed columns of a point on the sphere: a unit vector and what its rounding left over, so
/// that the difference of two close points keeps its digits.
pub(super) const SPHERE_COLUMNS: usize = 6;

/// How a term turns its coordinates into packed columns.
#[derive(Clone, Debug)]
pub(super) enum Packed {
    Copied(Range<usize>),
    Sphere(usize),
}

impl Packed {
    pub fn new(distance: Distance, columns: &Range<usize>) -> Self {
        match distance {
            Distance::GreatCircle => Self::Sphere(columns.start),
            Distance::Euclidean | Distance::CausalTime => Self::Copied(columns.clone()),
        }
    }

    pub fn width(&self) -> usize {
        match self {
            Self::Copied(columns) => columns.len(),
            Self::Sphere(_) => SPHERE_COLUMNS,
        }
    }

    fn push(&self, point: &[f32], to: &mut Vec<f32>) {
        match self {
            Self::Copied(columns) => to.extend_from_slice(&point[columns.clone()]),
            Self::Sphere(first) => to.extend(unit_vector(point[*first], point[first + 1])),
        }
    }
}

/// Packs points `[n, n_columns]` as `[n, width]`. A point that is not `valid` becomes zeros.
pub(super) fn pack(points: &[f32], n_columns: usize, valid: &[bool], terms: &[Packed]) -> Vec<f32> {
    const POINTS: usize = 1024;
    let width: usize = terms.iter().map(Packed::width).sum();
    if width == 0 {
        return Vec::new();
    }
    let pieces: Vec<Vec<f32>> = points
        .par_chunks(POINTS * n_columns)
        .zip(valid.par_chunks(POINTS))
        .map(|(points, valid)| {
            let mut packed = Vec::with_capacity(valid.len() * width);
            for (point, &valid) in points.chunks_exact(n_columns).zip(valid) {
                if valid {
                    terms.iter().for_each(|term| term.push(point, &mut packed));
                } else {
                    packed.resize(packed.len() + width, 0.0);
                }
            }
            packed
        })
        .collect();
    pieces.concat()
}

/// The point at a longitude and latitude in degrees: a vector of length one in f32, and the
/// part that f32 does not hold.
fn unit_vector(longitude: f32, latitude: f32) -> [f32; SPHERE_COLUMNS] {
    let (lon_sin, lon_cos) = sin_cos_degrees(longitude);
    let (lat_sin, lat_cos) = sin_cos_degrees(latitude);
    let exact = [lat_cos * lon_cos, lat_cos * lon_sin, lat_sin];
    let [x, y, z] = exact.map(|x| x as f32);
    let [dx, dy, dz] = exact.map(|x| (x - f64::from(x as f32)) as f32);
    [x, y, z, dx, dy, dz]
}

/// Sine and cosine, exact at multiples of 90 degrees.
fn sin_cos_degrees(degrees: f32) -> (f64, f64) {
    let degrees = f64::from(degrees) % 360.0;
    let quarter = (degrees / 90.0).round();
    let (sin, cos) = libm::sincos((degrees - 90.0 * quarter).to_radians());
    match quarter as i32 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// No distance, and no square of one, is larger: what is further counts as this far.
pub(super) const FAR: f32 = (1_u128 << 127) as f32;

/// Distances of one query to keys `k [width, stride]`, or their squares for
/// [`BiasKernel::Rbf`]; infinite where the pair is masked, else [`FAR`] at most. Returns the largest
/// magnitude, lane by lane.
#[inline(always)]
pub(super) fn distances<S: Simd>(
    simd: S,
    distance: Distance,
    kernel: BiasKernel,
    q: &[f32],
    k: &[f32],
    stride: usize,
    out: &mut [f32],
) -> S::f32s {
    let lanes = S::f32s::LEN;
    let infinity = S::f32s::splat(simd, f32::INFINITY);
    let mut largest = S::f32s::splat(simd, 0.0);
    for (i, out) in out.chunks_exact_mut(lanes).enumerate() {
        let column = |c: usize| S::f32s::from_slice(simd, &k[c * stride + i * lanes..][..lanes]);
        let d = match distance {
            Distance::Euclidean => {
                let square = square(simd, q, column, 1.0);
                if kernel == BiasKernel::Rbf {
                    square.min(FAR)
                } else if square.simd_gt(FAR).any_true() {
                    // Small enough that squares of any coordinates can be summed.
                    const UNIT: f32 = 1.0 / (1_u128 << 70) as f32;
                    let far = (self::square(simd, q, column, UNIT).sqrt() * (1.0 / UNIT)).min(FAR);
                    square.simd_gt(FAR).select(far, square.sqrt())
                } else {
                    square.sqrt()
                }
            }
            Distance::CausalTime => {
                let d = column(0) - q[0];
                let kept = d.simd_le(0.0);
                let d = if kernel == BiasKernel::Rbf { (d * d).min(FAR) } else { d.max(-FAR) };
                kept.select(d, infinity)
            }
            Distance::GreatCircle => {
                let k = [column(0), column(1), column(2), column(3), column(4), column(5)];
                let d = great_circle(simd, q, &k);
                if kernel == BiasKernel::Rbf { d * d } else { d }
            }
        };
        largest = largest.max(d.abs());
        d.store_slice(out);
    }
    largest
}

/// The squared distance, in units of which one is `unit` of those of the coordinates.
#[inline(always)]
fn square<S: Simd>(simd: S, q: &[f32], column: impl Fn(usize) -> S::f32s, unit: f32) -> S::f32s {
    let mut square = S::f32s::splat(simd, 0.0);
    for (c, &q) in q.iter().enumerate() {
        let difference = if unit == 1.0 { column(c) - q } else { column(c) * unit - q * unit };
        square = difference.mul_add(difference, square);
    }
    square
}

/// The central angle in degrees of points packed by [`unit_vector`]: `2 atan(|u - v| / |u + v|)`,
/// which keeps its digits everywhere, unlike the arc cosine.
#[inline(always)]
fn great_circle<S: Simd>(simd: S, q: &[f32], k: &[S::f32s; SPHERE_COLUMNS]) -> S::f32s {
    const HALF_TURN: f32 = 180.0;
    let mut across = S::f32s::splat(simd, 0.0);
    let mut along = S::f32s::splat(simd, 0.0);
    for c in 0..3 {
        let difference = (k[c] - q[c]) + (k[c + 3] - q[c + 3]);
        let sum = (k[c] + q[c]) + (k[c + 3] + q[c + 3]);
        across = difference.mul_add(difference, across);
        along = sum.mul_add(sum, along);
    }
    let obtuse = across.simd_gt(along);
    let tangent = (across.min(along) / across.max(along)).sqrt();
    let angle = atan_unit(simd, tangent) * (2.0 * HALF_TURN / std::f32::consts::PI);
    obtuse.select(S::f32s::splat(simd, HALF_TURN) - angle, angle)
}
