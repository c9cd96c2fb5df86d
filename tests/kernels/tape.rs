//! The tapes of a memory machine against float64.

use crate::support::{Random, bound, devices, error, poison, sigmoid, wide};
use wgpu_attention::{
    Device, Tensor,
    ops::{HeadMoves, KeyErase, TapeErase, TapeInputs, TapeOptions, TapeProbabilities, TapeState, tape, unit_norm},
};

/// The tapes of a machine in float64.
fn tapes(
    sizes: [usize; 5],
    options: TapeOptions,
    [value, key, query, action]: [&[f32]; 4],
    start: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let [batch, n, n_tapes, slots, mem] = sizes;
    let (n_directions, n_actions) = (options.heads.n_directions(), options.heads.n_actions());
    let (mut values, mut tapes) = (vec![0.0; batch * n * n_tapes * mem], wide(start));
    for (i, tape) in tapes.chunks_mut(slots * mem).enumerate() {
        let mut keys = vec![0.0; slots * mem];
        let mut heads = [vec![0.0; slots], vec![0.0; slots]];
        heads.iter_mut().for_each(|head| head[0] = 1.0);
        for step in 0..n {
            let token = (i / n_tapes * n + step) * n_tapes + i % n_tapes;
            let part = |x: &[f32], width: usize| wide(&x[token * width..][..width]);
            let (v, a) = (part(value, mem), part(action, n_actions));
            let has_probabilities = options.probabilities == TapeProbabilities::Actions;
            let p = |j: usize| if has_probabilities { sigmoid(a[2 * n_directions + j]) } else { 1.0 };
            let (p_r, p_w) = (p(0), p(1));
            let p_e = match options.erase {
                TapeErase::Never => 0.0,
                TapeErase::Tied => p_w,
                _ => p(2),
            };
            let unit = |head: &[f64]| -> Vec<f64> {
                let length = head.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
                head.iter().map(|x| if options.heads.jumps() { x / length } else { *x }).collect()
            };
            let (r, w) = (unit(&heads[0]), unit(&heads[1]));
            for c in 0..mem {
                let old: f64 = (0..slots).map(|l| tape[l * mem + c] * w[l]).sum();
                (0..slots).for_each(|l| tape[l * mem + c] += w[l] * (p_w * v[c] - p_e * old));
                values[token * mem + c] = p_r * (0..slots).map(|l| tape[l * mem + c] * r[l]).sum::<f64>();
            }
            let mut jump = vec![0.0; slots];
            if options.heads.jumps() {
                let (k, q) = (part(key, mem), part(query, mem));
                let p_k = if options.erase == TapeErase::Never { 1.0 } else { p_w };
                let known: Vec<f64> =
                    (0..mem).map(|c| (0..slots).map(|l| keys[l * mem + c] * w[l]).sum::<f64>()).collect();
                for l in 0..slots {
                    let row = &mut keys[l * mem..][..mem];
                    if options.key_erase == KeyErase::ByPosition {
                        (0..mem).for_each(|c| row[c] += w[l] * (p_k * k[c] - p_e * known[c]));
                    } else {
                        let known: f64 = row.iter().zip(&k).map(|(a, b)| a * b).sum();
                        let x = p_k * heads[1][l] - p_e * known;
                        row.iter_mut().zip(&k).for_each(|(m, k)| *m += x * k);
                    }
                    jump[l] = row.iter().zip(&q).map(|(a, b)| a * b).sum();
                }
            }
            for (head, a) in heads.iter_mut().zip([&a[..n_directions], &a[n_directions..2 * n_directions]]) {
                let sum: f64 = a.iter().map(|x| x.exp()).sum();
                let d: Vec<f64> = a.iter().map(|x| x.exp() / sum).collect();
                let d = match options.heads {
                    HeadMoves::All => [d[0], d[1], d[2], d[3]],
                    HeadMoves::NoJump => [d[0], d[1], d[2], 0.0],
                    HeadMoves::OnlyJump => [0.0, d[0], 0.0, d[1]],
                    other => panic!("the oracle does not know {other:?}"),
                };
                let before = head.clone();
                for l in 0..slots {
                    let (back, on) = (before[(l + 1) % slots], before[(l + slots - 1) % slots]);
                    head[l] = d[0] * back + d[1] * before[l] + d[2] * on + d[3] * jump[l];
                }
            }
        }
    }
    (values, tapes)
}

#[test]
fn tapes_agree_with_float64() {
    let all = TapeOptions::default();
    let options = [
        all,
        TapeOptions { heads: HeadMoves::NoJump, ..all },
        TapeOptions { heads: HeadMoves::OnlyJump, probabilities: TapeProbabilities::One, ..all },
        TapeOptions { erase: TapeErase::Never, ..all },
        TapeOptions { erase: TapeErase::Tied, key_erase: KeyErase::ByPosition, ..all },
    ];
    // Tapes that fit workgroup memory, one slot, and two that do not fit.
    let sizes = [[2, 10, 3, 5, 4], [1, 3, 1, 1, 1], [1, 20, 2, 70, 65], [1, 8, 1, 300, 3]];
    for (name, device) in devices() {
        for (i, (options, sizes)) in options.iter().flat_map(|o| sizes.iter().map(move |s| (*o, *s))).enumerate() {
            let [batch, n, n_tapes, slots, mem] = sizes;
            let mut random = Random::new(i as u64);
            let tokens = batch * n * n_tapes;
            let unit = |x: Vec<f32>| -> Vec<f32> {
                let tensor = Tensor::new(&Device::cpu(), &[tokens, mem], &x).unwrap();
                unit_norm(&tensor).unwrap().read().unwrap()
            };
            let value = random.numbers(tokens * mem);
            let (key, query) = (unit(random.numbers(tokens * mem)), unit(random.numbers(tokens * mem)));
            let action = random.numbers(tokens * options.heads.n_actions());
            let start = random.numbers(batch * n_tapes * slots * mem);
            let (values, end) = tapes(sizes, options, [&value, &key, &query, &action], &start);
            let tensor = |dim: usize, data: &[f32]| Tensor::new(&device, &[batch, n, n_tapes * dim], data).unwrap();
            let (value, action) = (tensor(mem, &value), tensor(options.heads.n_actions(), &action));
            let jumps = options.heads.jumps().then(|| (tensor(mem, &key), tensor(mem, &query)));
            let inputs = TapeInputs {
                value: &value,
                key: jumps.as_ref().map(|(key, _)| key),
                query: jumps.as_ref().map(|(_, query)| query),
                action: &action,
                n_tapes,
                tape_length: slots,
            };
            let start = TapeState::new(Tensor::new(&device, &[batch, n_tapes, slots, mem], &start).unwrap());
            poison(&device, &[values.len(), end.len(), 2 * end.len() + 2 * batch * n_tapes * slots]);
            let output = tape(&inputs, options, Some(&start)).unwrap();
            for (found, truth) in [(&output.values, &values), (&output.state.tape, &end)] {
                // Heads are divided by their length at every step, which magnifies rounding where
                // one has come close to zero.
                let error = error(&found.read().unwrap(), truth);
                assert!(error <= bound(&device, 3e-6), "{name}: {options:?} {sizes:?} off by {error:.2e}");
            }
        }
    }
}
