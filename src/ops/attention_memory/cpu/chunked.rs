//! A chunk of steps at a time, everything but a small forward substitution as products of
//! matrices; see the head of [`crate::ops::attention_memory`].

use fearless_simd::prelude::*;

use super::head::{Head, pack_memory, store_row, unpack_memory};
use crate::{
    error::Result,
    host::zeros,
    ops::attention_memory::{plan::CHUNK, problem::Problem},
    simd::{
        load_some,
        tile::{Panel, Panels, ROWS, VECTORS, product, with_vectors},
        transpose::transpose,
    },
};

/// What a head reads `[n, v_dim]` (nothing without queries), and its memory.
#[inline(always)]
pub(super) fn run<S: Simd>(simd: S, head: &Head<'_>, before: Option<&[f32]>) -> Result<(Vec<f32>, Vec<f32>)> {
    let Problem { n, head_dim, v_dim, .. } = *head.inputs.problem;
    let panels = Panels::new(simd, v_dim);
    let mut memory = match before {
        Some(before) => pack_memory(before, head_dim, panels)?,
        None => zeros(&[head_dim, panels.width])?,
    };
    let has_query = head.inputs.q.is_some();
    let mut values = if has_query { zeros(&[n, v_dim])? } else { Vec::new() };
    let mut chunk = Chunk::new(head)?;
    for first in (0..n).step_by(CHUNK) {
        chunk.begin(simd, first, CHUNK.min(n - first));
        let y = if has_query { &mut values[first * v_dim..][..chunk.len * v_dim] } else { &mut [][..] };
        for panel in panels.iter() {
            let memory = &mut memory[panel.first * head_dim..][..panel.width * head_dim];
            with_vectors!(panel, C => {
                chunk.panel::<S, C>(simd, &panel, memory, y);
            });
        }
    }
    Ok((values, unpack_memory(&memory, head_dim, panels)?))
}

struct Chunk<'a> {
    head: &'a Head<'a>,
    first: usize,
    len: usize,
    /// The keys, transposed: `[head_dim, CHUNK]`.
    keys: Vec<f32>,
    /// The same in panels.
    packed_keys: Vec<f32>,
    /// `p_e (k_t . k_i)`, row t; valid below the diagonal.
    products: Vec<f32>,
    /// `q_t . k_i`, row t; valid up to the diagonal.
    scores: Vec<f32>,
    /// What the steps write to a panel of columns, `[CHUNK, width]`.
    written: Vec<f32>,
    zeros: Vec<f32>,
    /// With a decay: what step t leaves of what was there before the chunk, and, row t, of what
    /// step i wrote.
    kept: [f32; CHUNK],
    kept_of: Vec<f32>,
}

impl<'a> Chunk<'a> {
    fn new(head: &'a Head<'a>) -> Result<Self> {
        let head_dim = head.inputs.problem.head_dim;
        Ok(Self {
            head,
            first: 0,
            len: 0,
            keys: zeros(&[head_dim, CHUNK])?,
            packed_keys: zeros(&[head_dim, CHUNK])?,
            products: vec![0.0; CHUNK * CHUNK],
            scores: vec![0.0; CHUNK * CHUNK],
            written: vec![0.0; CHUNK * VECTORS * crate::simd::MOST_LANES],
            zeros: zeros(&[head_dim])?,
            kept: [1.0; CHUNK],
            kept_of: vec![1.0; CHUNK * CHUNK],
        })
    }

    /// Steps `i..` of the chunk, [`ROWS`] of them; those past the end repeat the last one.
    #[inline(always)]
    fn rows(&self, i: usize, row: impl Fn(usize) -> &'a [f32]) -> [&'a [f32]; ROWS] {
        let mut rows = [&[][..]; ROWS];
        for (r, to) in rows.iter_mut().enumerate() {
            *to = row(self.first + (i + r).min(self.len - 1));
        }
        rows
    }

    /// All that does not depend on the memory.
    #[inline(always)]
    fn begin<S: Simd>(&mut self, simd: S, first: usize, len: usize) {
        (self.first, self.len) = (first, len);
        let lanes = S::f32s::LEN;
        let head_dim = self.head.inputs.problem.head_dim;
        for i in (0..CHUNK).step_by(lanes) {
            let (head, zeros) = (self.head, &self.zeros);
            let row = |r: usize| if i + r < len { head.k(first + i + r) } else { &zeros[..] };
            transpose(simd, row, head_dim, &mut self.keys[i..], CHUNK);
        }
        let panels = Panels::new(simd, CHUNK);
        for panel in panels.iter() {
            let packed = &mut self.packed_keys[panel.first * head_dim..][..panel.width * head_dim];
            panel.pack(simd, |d| &self.keys[d * CHUNK..][..CHUNK], packed);
        }
        let has_erase = self.head.inputs.p_erase.is_some();
        let has_query = self.head.inputs.q.is_some();
        for i in (0..len).step_by(ROWS) {
            // Nothing above the diagonal is needed.
            for panel in panels.iter().filter(|panel| panel.first < i + ROWS) {
                if panel.width == lanes {
                    self.triangles::<S, 1>(simd, i, &panel, has_erase, has_query);
                } else {
                    self.triangles::<S, VECTORS>(simd, i, &panel, has_erase, has_query);
                }
            }
        }
        if let Some(decay) = self.head.inputs.decay {
            self.decay(decay);
        }
    }

    /// Lets what each step wrote decay until it is erased or read.
    fn decay(&mut self, decay: &[f32]) {
        let mut all = 1.0;
        for t in 0..self.len {
            let decay = decay[self.head.token(self.first + t)];
            all *= decay;
            self.kept[t] = all;
            for i in 0..t {
                // Products and no quotients: a decay may be zero.
                let kept = decay * self.kept_of[(t - 1) * CHUNK + i];
                self.kept_of[t * CHUNK + i] = kept;
                self.products[t * CHUNK + i] *= kept;
                self.scores[t * CHUNK + i] *= kept;
            }
            self.kept_of[t * CHUNK + t] = 1.0;
        }
    }

    /// The products and scores of [`ROWS`] steps with a panel of keys.
    #[inline(always)]
    fn triangles<S: Simd, const C: usize>(
        &mut self,
        simd: S,
        i: usize,
        panel: &Panel,
        has_erase: bool,
        has_query: bool,
    ) {
        let head_dim = self.head.inputs.problem.head_dim;
        let keys = &self.packed_keys[panel.first * head_dim..][..panel.width * head_dim];
        let used = ROWS.min(self.len - i);
        if has_erase {
            let tile = product::<S, ROWS, C>(simd, self.rows(i, |step| self.head.k(step)), keys);
            for (r, tile) in tile.iter().enumerate().take(used) {
                let p = self.head.p(self.head.inputs.p_erase, self.first + i + r);
                store_row::<S, C>(tile, p, panel, &mut self.products[(i + r) * CHUNK + panel.first..]);
            }
        }
        if has_query {
            let tile = product::<S, ROWS, C>(simd, self.rows(i, |step| self.head.q(step)), keys);
            for (r, tile) in tile.iter().enumerate().take(used) {
                store_row::<S, C>(tile, 1.0, panel, &mut self.scores[(i + r) * CHUNK + panel.first..]);
            }
        }
    }

    /// A panel of columns: what is written, what is read, and the memory after the chunk.
    #[inline(always)]
    fn panel<S: Simd, const C: usize>(&mut self, simd: S, panel: &Panel, memory: &mut [f32], y: &mut [f32]) {
        let lanes = S::f32s::LEN;
        let Problem { head_dim, v_dim, .. } = *self.head.inputs.problem;
        for i in (0..self.len).step_by(ROWS) {
            self.write::<S, C>(simd, i, panel, memory);
        }
        if !y.is_empty() {
            for i in (0..self.len).step_by(ROWS) {
                let used = ROWS.min(self.len - i);
                let before = product::<S, ROWS, C>(simd, self.rows(i, |step| self.head.q(step)), memory);
                let mut scores = [&self.scores[..]; ROWS];
                for (r, row) in scores.iter_mut().enumerate() {
                    *row = &self.scores[(i + r.min(used - 1)) * CHUNK..][..CHUNK];
                }
                let earlier = product::<S, ROWS, C>(simd, scores, &self.written[..i * C * lanes]);
                for r in 0..used {
                    let mut row = before[r];
                    let kept = S::f32s::splat(simd, self.kept[i + r]);
                    row.iter_mut().zip(earlier[r]).for_each(|(sum, earlier)| *sum = sum.mul_add(kept, earlier));
                    // Up to its own step: not even a zero may meet what a later one writes.
                    let steps = self.written[i * C * lanes..].chunks_exact(C * lanes);
                    for (written, &score) in steps.zip(&scores[r][i..=i + r]) {
                        for (sum, written) in row.iter_mut().zip(written.chunks_exact(lanes)) {
                            *sum = S::f32s::from_slice(simd, written).mul_add(score, *sum);
                        }
                    }
                    let p = self.head.p(self.head.inputs.p_read, self.first + i + r);
                    store_row::<S, C>(&row, p, panel, &mut y[(i + r) * v_dim + panel.first..]);
                }
            }
        }
        let last = self.len - 1;
        if self.head.inputs.decay.is_some() {
            let kept = &self.kept_of[last * CHUNK..][..self.len];
            for (written, kept) in self.written.chunks_exact_mut(C * lanes).zip(kept) {
                written.iter_mut().for_each(|x| *x *= kept);
            }
        }
        let kept = S::f32s::splat(simd, self.kept[last]);
        for d in (0..head_dim).step_by(ROWS) {
            let used = ROWS.min(head_dim - d);
            let mut rows = [&self.keys[..]; ROWS];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = &self.keys[(d + r.min(used - 1)) * CHUNK..][..self.len];
            }
            let tile = product::<S, ROWS, C>(simd, rows, &self.written[..self.len * C * lanes]);
            for (memory, tile) in memory[d * C * lanes..].chunks_exact_mut(C * lanes).zip(&tile).take(used) {
                for (memory, &tile) in memory.chunks_exact_mut(lanes).zip(tile) {
                    S::f32s::from_slice(simd, memory).mul_add(kept, tile).store_slice(memory);
                }
            }
        }
    }

    /// What [`ROWS`] steps write: forward substitution, of which only the last triangle is not a
    /// product of matrices.
    #[inline(always)]
    fn write<S: Simd, const C: usize>(&mut self, simd: S, i: usize, panel: &Panel, memory: &[f32]) {
        let lanes = S::f32s::LEN;
        let inputs = self.head.inputs;
        let used = ROWS.min(self.len - i);
        let mut tile = [[S::f32s::splat(simd, 0.0); C]; ROWS];
        for (r, tile) in tile.iter_mut().enumerate().take(used) {
            let step = self.first + i + r;
            let p = self.head.p(inputs.p_write, step);
            for (tile, v) in tile.iter_mut().zip(self.head.v(step)[panel.first..][..panel.used].chunks(lanes)) {
                *tile = load_some(simd, v) * p;
            }
        }
        if inputs.p_erase.is_some() {
            let known = product::<S, ROWS, C>(simd, self.rows(i, |step| self.head.k(step)), memory);
            let mut products = [&self.products[..]; ROWS];
            for (r, row) in products.iter_mut().enumerate() {
                *row = &self.products[(i + r.min(used - 1)) * CHUNK..][..CHUNK];
            }
            let earlier = product::<S, ROWS, C>(simd, products, &self.written[..i * C * lanes]);
            for r in 0..used {
                let p = self.head.p(inputs.p_erase, self.first + i + r) * self.kept[i + r];
                for c in 0..C {
                    let mut x = known[r][c].mul_add(-p, tile[r][c] - earlier[r][c]);
                    for s in 0..r {
                        x = tile[s][c].mul_add(-products[r][i + s], x);
                    }
                    tile[r][c] = x;
                }
            }
        }
        for (written, tile) in self.written[i * C * lanes..].chunks_exact_mut(C * lanes).zip(tile).take(used) {
            for (written, tile) in written.chunks_exact_mut(lanes).zip(tile) {
                tile.store_slice(written);
            }
        }
    }
}
