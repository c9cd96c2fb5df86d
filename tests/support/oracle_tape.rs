//! The tapes of a memory machine in float64, step by step.

use wgpu_attention::ops::{HeadMoves, KeyErase, TapeErase, TapeOptions, TapeProbabilities};

use super::sigmoid;

/// What is read `[batch, n, n_tapes, mem]` and the tapes `[batch, n_tapes, slots, mem]`, from
/// `sizes` `[batch, n, n_tapes, slots, mem]` and tapes to start with.
pub fn tapes(
    sizes: [usize; 5],
    options: TapeOptions,
    [value, key, query, action]: [&[f64]; 4],
    start: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let [batch, n, n_tapes, slots, mem] = sizes;
    let (n_directions, n_actions) = (options.heads.n_directions(), options.heads.n_actions());
    let (mut values, mut tapes) = (vec![0.0; batch * n * n_tapes * mem], start.to_vec());
    for (i, tape) in tapes.chunks_mut(slots * mem).enumerate() {
        let mut keys = vec![0.0; slots * mem];
        let mut heads = [vec![0.0; slots], vec![0.0; slots]];
        heads.iter_mut().for_each(|head| head[0] = 1.0);
        for step in 0..n {
            let token = (i / n_tapes * n + step) * n_tapes + i % n_tapes;
            let part = |x: &[f64], width: usize| x[token * width..][..width].to_vec();
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
