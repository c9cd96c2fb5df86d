//! The CPU twin of `shaders/tape.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};

use super::problem::{Problem, TapeInputs};
use crate::{
    error::Result,
    host::zeros,
    ops::{elementwise::cpu::sigmoid, unit_norm::cpu::inverse_length},
    parallel::*,
    simd::packed::dot,
};

/// What is read, `[batch, n, n_tapes * mem]`; `state` becomes that after the last step.
pub(super) fn tape(level: Level, problem: &Problem, inputs: &TapeInputs<'_>, state: &mut [f32]) -> Result<Vec<f32>> {
    let Problem { batch, n, n_tapes, mem, .. } = *problem;
    // Numbers and no tensors: those stay on their thread in a browser.
    let (value, action) = (inputs.value.cpu(), inputs.action.cpu());
    let key_and_query = inputs.key.zip(inputs.query).map(|(key, query)| (key.cpu(), query.cpu()));
    let tapes = state.par_chunks_mut(problem.state_len()).enumerate().map(|(i, state)| {
        let machine = Machine { problem, value, key_and_query, action, batch: i / n_tapes, tape: i % n_tapes };
        dispatch!(level, simd => simd.vectorize(
            #[inline(always)]
            || machine.run(simd, state),
        ))
    });
    let tapes = tapes.collect::<Result<Vec<Vec<f32>>>>()?;
    let mut values = zeros(&[batch, n, n_tapes, mem])?;
    for (row, values) in values.chunks_exact_mut(n_tapes * mem).enumerate() {
        for (values, tape) in values.chunks_exact_mut(mem).zip(&tapes[row / n * n_tapes..]) {
            values.copy_from_slice(&tape[row % n * mem..][..mem]);
        }
    }
    Ok(values)
}

/// One tape of one batch element.
struct Machine<'a> {
    problem: &'a Problem,
    value: &'a [f32],
    key_and_query: Option<(&'a [f32], &'a [f32])>,
    action: &'a [f32],
    batch: usize,
    tape: usize,
}

impl Machine<'_> {
    /// The part of this tape in the numbers of a step.
    #[inline(always)]
    fn part<'t>(&self, numbers: &'t [f32], step: usize, width: usize) -> &'t [f32] {
        let Problem { n, n_tapes, .. } = *self.problem;
        &numbers[((self.batch * n + step) * n_tapes + self.tape) * width..][..width]
    }

    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, state: &mut [f32]) -> Result<Vec<f32>> {
        let Problem { n, slots, mem, options, .. } = *self.problem;
        let jumps = options.heads.jumps();
        let n_directions = options.heads.n_directions();
        let (cells, heads) = state.split_at_mut(self.problem.n_cells());
        let (tape, keys) = cells.split_at_mut(slots * mem);
        let (read_head, write_head) = heads.split_at_mut(slots);
        let mut values = zeros(&[n, mem])?;
        let [mut x, mut jump, mut before] = [zeros(&[mem])?, zeros(&[slots])?, zeros(&[slots])?];
        for (step, y) in values.chunks_exact_mut(mem).enumerate() {
            let action = self.part(self.action, step, options.heads.n_actions());
            let p = |i: usize| if options.has_probabilities { sigmoid(action[2 * n_directions + i]) } else { 1.0 };
            let (p_read, p_write) = (p(0), p(1));
            let p_erase = match (options.has_erase, options.is_tied) {
                (false, _) => None,
                (true, true) => Some(p_write),
                (true, false) => Some(p(2)),
            };
            let erased = |known: f32| p_erase.map_or(0.0, |p| p * known);
            // Heads that jump are not distributions; they touch the tape with length one.
            let scale = |head: &[f32]| if jumps { inverse_length(simd, head).into_iter().product() } else { 1.0 };
            let (read_scale, write_scale) = (scale(read_head), scale(write_head));

            x.fill(0.0);
            for (row, head) in tape.chunks_exact(mem).zip(&*write_head) {
                add_scaled(&mut x, row, head * write_scale);
            }
            for (x, v) in x.iter_mut().zip(self.part(self.value, step, mem)) {
                *x = p_write * v - erased(*x);
            }
            for ((row, write), read) in tape.chunks_exact_mut(mem).zip(&*write_head).zip(&*read_head) {
                add_scaled(row, &x, write * write_scale);
                add_scaled(y, row, read * read_scale);
            }
            y.iter_mut().for_each(|y| *y *= p_read);

            if let Some((key, query)) = self.key_and_query {
                let (key, query) = (self.part(key, step, mem), self.part(query, step, mem));
                let p_key = if options.has_erase { p_write } else { 1.0 };
                if options.by_position {
                    x.fill(0.0);
                    for (row, head) in keys.chunks_exact(mem).zip(&*write_head) {
                        add_scaled(&mut x, row, head * write_scale);
                    }
                    x.iter_mut().zip(key).for_each(|(x, key)| *x = p_key * key - erased(*x));
                    for ((row, head), jump) in keys.chunks_exact_mut(mem).zip(&*write_head).zip(&mut jump) {
                        add_scaled(row, &x, head * write_scale);
                        *jump = dot(simd, row, query);
                    }
                } else {
                    by_content(simd, keys, [key, query], write_head, p_key, erased, &mut jump);
                }
            }
            for (head, directions) in [(&mut *read_head, action), (&mut *write_head, &action[n_directions..])] {
                let [back, stay, on, to_jump] = softmax(&directions[..n_directions]);
                before.copy_from_slice(head);
                for (l, head) in head.iter_mut().enumerate() {
                    let previous = before[(l + slots - 1) % slots];
                    let next = before[(l + 1) % slots];
                    *head = back * next + stay * before[l] + on * previous + to_jump * jump[l];
                }
            }
        }
        Ok(values)
    }
}

/// Writes a key to the table, whose rows forget as much as they know of it, and reads the table.
#[inline(always)]
fn by_content<S: Simd>(
    simd: S,
    keys: &mut [f32],
    [key, query]: [&[f32]; 2],
    head: &[f32],
    p_key: f32,
    erased: impl Fn(f32) -> f32,
    jump: &mut [f32],
) {
    for ((row, head), jump) in keys.chunks_exact_mut(key.len()).zip(head).zip(jump) {
        // With the heads as they are.
        let x = p_key * head - erased(dot(simd, row, key));
        add_scaled(row, key, x);
        *jump = dot(simd, row, query);
    }
}

#[inline(always)]
fn add_scaled(y: &mut [f32], x: &[f32], scale: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * x);
}

/// The probabilities of back, stay, on and jump.
#[inline(always)]
fn softmax(logits: &[f32]) -> [f32; 4] {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let mut e = [0.0; 4];
    e.iter_mut().zip(logits).for_each(|(e, x)| *e = (x - largest).exp());
    let sum: f32 = e.iter().sum();
    let p = e.map(|e| e / sum);
    // Two directions are stay and jump.
    if logits.len() == 2 { [0.0, p[0], 0.0, p[1]] } else { p }
}
