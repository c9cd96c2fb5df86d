//! A step at a time.

use fearless_simd::prelude::*;

use super::head::Head;
use crate::{
    error::Result,
    host::{collect, zeros},
    ops::attention_memory::problem::Problem,
    simd::{load_some, store_some},
};

/// Vectors of columns that stay in registers: enough to hide the latency of a multiply-add.
const WIDE: usize = 4;

/// What a head reads `[n, v_dim]` (nothing without queries), and its memory.
#[inline(always)]
pub(super) fn run<S: Simd>(simd: S, head: &Head<'_>, before: Option<&[f32]>) -> Result<(Vec<f32>, Vec<f32>)> {
    let Problem { n, head_dim, v_dim, .. } = *head.inputs.problem;
    let lanes = S::f32s::LEN;
    let width = v_dim.next_multiple_of(lanes);
    // Transposed, so that vectors run over the columns of what is read.
    let mut state = zeros(&[head_dim, width])?;
    if let Some(before) = before {
        for (i, &x) in before.iter().enumerate() {
            state[i % head_dim * width + i / head_dim] = x;
        }
    }
    let mut values = if head.inputs.q.is_some() { zeros(&[n, v_dim])? } else { Vec::new() };
    for step in 0..n {
        if let Some(decay) = head.inputs.decay {
            let kept = decay[head.token(step)];
            state.iter_mut().for_each(|m| *m *= kept);
        }
        let token = Step {
            k: head.k(step),
            q: head.inputs.q.map(|_| head.q(step)),
            p_read: head.p(head.inputs.p_read, step),
            p_write: head.p(head.inputs.p_write, step),
            p_erase: head.inputs.p_erase.map(|_| head.p(head.inputs.p_erase, step)),
            width,
        };
        let v = head.v(step);
        let mut none = [];
        let y = if values.is_empty() { &mut none[..] } else { &mut values[step * v_dim..][..v_dim] };
        let mut first = 0;
        while first < v_dim {
            let y = if y.is_empty() { &mut [][..] } else { &mut y[first..] };
            if width - first >= WIDE * lanes {
                token.columns::<S, WIDE>(simd, &mut state, first, &v[first..], y);
                first += WIDE * lanes;
            } else {
                token.columns::<S, 1>(simd, &mut state, first, &v[first..], y);
                first += lanes;
            }
        }
    }
    let len = v_dim * head_dim;
    let memory = collect(len, (0..len).map(|i| state[i % head_dim * width + i / head_dim]))?;
    Ok((values, memory))
}

struct Step<'a> {
    k: &'a [f32],
    q: Option<&'a [f32]>,
    p_read: f32,
    p_write: f32,
    p_erase: Option<f32>,
    width: usize,
}

impl Step<'_> {
    /// Writes, erases and reads `C` vectors of columns.
    #[inline(always)]
    fn columns<S: Simd, const C: usize>(&self, simd: S, state: &mut [f32], first: usize, v: &[f32], y: &mut [f32]) {
        let lanes = S::f32s::LEN;
        let mut x = [S::f32s::splat(simd, 0.0); C];
        for (x, v) in x.iter_mut().zip(v.chunks(lanes)) {
            *x = load_some(simd, v) * self.p_write;
        }
        if let Some(p_erase) = self.p_erase {
            let mut known = [S::f32s::splat(simd, 0.0); C];
            for (row, &k) in state.chunks_exact(self.width).zip(self.k) {
                let k = S::f32s::splat(simd, k);
                for (known, row) in known.iter_mut().zip(row[first..first + C * lanes].chunks_exact(lanes)) {
                    *known = k.mul_add(S::f32s::from_slice(simd, row), *known);
                }
            }
            for (x, known) in x.iter_mut().zip(known) {
                *x = known.mul_add(-p_erase, *x);
            }
        }
        let mut sums = [S::f32s::splat(simd, 0.0); C];
        for (d, row) in state.chunks_exact_mut(self.width).enumerate() {
            let k = S::f32s::splat(simd, self.k[d]);
            let q = S::f32s::splat(simd, self.q.map_or(0.0, |q| q[d]));
            let row = row[first..first + C * lanes].chunks_exact_mut(lanes);
            for ((row, x), sum) in row.zip(&x).zip(&mut sums) {
                let m = k.mul_add(*x, S::f32s::from_slice(simd, row));
                m.store_slice(row);
                *sum = q.mul_add(m, *sum);
            }
        }
        for (y, sum) in y.chunks_mut(lanes).zip(sums) {
            store_some::<S>(sum * self.p_read, y);
        }
    }
}
