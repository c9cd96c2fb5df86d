//! The CPU twin of `shaders/elementwise.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};

use super::problem::{Join, Map, Rows};
use crate::{
    error::Result,
    host::any,
    ops::linear::cpu::gelu_erf,
    parallel::*,
    simd::{load_some, store_some},
};

/// Numbers in a task: enough to be worth a thread.
const TASK: usize = 1 << 15;

/// The logistic function, without overflow.
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

pub(super) fn map(map: Map, x: &[f32]) -> Result<Vec<f32>> {
    match map {
        // This order of comparison keeps NaN.
        Map::Relu => each(x, |x| if x < 0.0 { 0.0 } else { x }),
        Map::Sigmoid => each(x, sigmoid),
        Map::Square => each(x, |x| x * x),
    }
}

fn each(x: &[f32], f: impl Fn(f32) -> f32 + Sync + Send) -> Result<Vec<f32>> {
    let mut y = any(&[x.len()])?;
    let tasks = y.par_chunks_mut(TASK).zip(x.par_chunks(TASK));
    tasks.for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)));
    Ok(y)
}

pub(super) fn join(level: Level, join: Join, rows: &Rows, a: &[f32], b: &[f32]) -> Result<Vec<f32>> {
    let Rows { scale, b_width, b_stride, .. } = *rows;
    let of_row = |row: usize| &b[row * b_stride..][..b_width];
    match join {
        Join::AddScaled => by_row(rows, a, |row, a, y| {
            y.iter_mut().zip(a).zip(of_row(row)).for_each(|((y, a), b)| *y = a + scale * b);
        }),
        Join::ScaleColumns => by_row(rows, a, |row, a, y| {
            y.iter_mut().zip(a).zip(of_row(row)).for_each(|((y, a), b)| *y = a * b);
        }),
        Join::Gate => by_row(rows, a, |row, a, y| {
            let dim = (a.len() / b_width).max(1);
            let heads = y.chunks_mut(dim).zip(a.chunks(dim)).zip(of_row(row));
            heads.for_each(|((y, a), b)| y.iter_mut().zip(a).for_each(|(y, a)| *y = a * b));
        }),
        Join::Keep => by_row(rows, a, |row, a, y| {
            if of_row(row)[0] == 0.0 {
                y.fill(0.0);
            } else {
                y.copy_from_slice(a);
            }
        }),
        Join::Columns => by_row(rows, a, |_, a, y| y.copy_from_slice(a)),
        Join::Concat => by_row(rows, a, |row, a, y| {
            let (left, right) = y.split_at_mut(a.len());
            left.copy_from_slice(a);
            right.copy_from_slice(of_row(row));
        }),
        Join::Widen => by_row(rows, a, |row, a, y| widen(a, of_row(row)[0], y)),
        Join::WidenBySquares => by_row(rows, a, |_, a, y| {
            let squares: f64 = a.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            widen(a, (f64::from(scale) * squares) as f32, y);
        }),
        Join::Geglu => dispatch!(level, simd => {
            let rows = Rows { a_used: rows.a_width, ..*rows };
            by_row(&rows, a, |_, a, y| simd.vectorize(
                #[inline(always)]
                || geglu(simd, a, y),
            ))
        }),
    }
}

/// A row, a number, and zeros.
fn widen(a: &[f32], number: f32, y: &mut [f32]) {
    let (left, right) = y.split_at_mut(a.len());
    left.copy_from_slice(a);
    right.fill(0.0);
    right[0] = number;
}

#[inline(always)]
fn geglu<S: Simd>(simd: S, a: &[f32], y: &mut [f32]) {
    let (value, gate) = a.split_at(y.len());
    let lanes = S::f32s::LEN;
    for ((y, value), gate) in y.chunks_mut(lanes).zip(value.chunks(lanes)).zip(gate.chunks(lanes)) {
        store_some::<S>(load_some(simd, value) * gelu_erf(simd, load_some(simd, gate)), y);
    }
}

/// Every row of the result, from its index and the columns of `a` that count.
fn by_row(rows: &Rows, a: &[f32], f: impl Fn(usize, &[f32], &mut [f32]) + Sync + Send) -> Result<Vec<f32>> {
    let mut y = any(&[rows.rows, rows.width])?;
    if y.is_empty() {
        return Ok(y);
    }
    let of_task = (TASK / rows.width).max(1);
    y.par_chunks_mut(of_task * rows.width).enumerate().for_each(|(task, y)| {
        for (i, y) in y.chunks_exact_mut(rows.width).enumerate() {
            let row = task * of_task + i;
            f(row, &a[row * rows.a_width + rows.a_first..][..rows.a_used], y);
        }
    });
    Ok(y)
}
