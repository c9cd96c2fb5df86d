//! States that have read more than f32 can count.

use super::*;

/// A state that has read 2^24 times as much as it did, had by merging it with itself.
fn doubled(mut state: RollingState, times: usize) -> RollingState {
    for _ in 0..times {
        state = state.merge(&state).unwrap();
    }
    state
}

#[test]
fn long_streams_do_not_stall() {
    // After 2^24 keys the next one changes an f32 sum of weights by half a unit in the last place,
    // that is: not at all. Here 2^30 are followed by 3000 single ones whose values are large.
    let mut random = Random::new(7);
    let old = stream(&mut random, [1, 2, 4, 64, 5, 3]);
    let mut new = stream(&mut random, [1, 2, 4, 3000, 5, 3]);
    new.q.clone_from(&old.q);
    new.v.iter_mut().for_each(|v| *v = 1e5 + 1e4 * *v);
    let (of_old, of_new) = (oracle::scan_attention(&old), oracle::scan_attention(&new));
    let join = |row: usize| {
        let [a, b] = [of_old.1[row].unwrap() + 24.0 * 2f64.ln(), of_new.1[row].unwrap()];
        let largest = a.max(b);
        let lse = largest + ((a - largest).exp() + (b - largest).exp()).ln();
        let of = |d: usize| (a - lse).exp() * of_old.0[row * 3 + d] + (b - lse).exp() * of_new.0[row * 3 + d];
        ([of(0), of(1), of(2)], lse)
    };
    let joined: Vec<_> = (0..8).map(join).collect();
    let values: Vec<f64> = joined.iter().flat_map(|(values, _)| *values).collect();
    let lse: Vec<Option<f64>> = joined.iter().map(|(_, lse)| Some(*lse)).collect();
    let moved = values.iter().zip(&of_old.0).map(|(a, b)| (a - b).abs()).fold(f64::INFINITY, f64::min);
    assert!(moved > 0.02, "the new keys matter, by {moved} at least");
    let keys: Vec<usize> = (0..3000).collect();
    for (name, device) in devices() {
        let before = doubled(Cut { device: &device, case: &old, head_major: true }.write(None, &keys[..64]), 24);
        let cut = Cut { device: &device, case: &new, head_major: true };
        for step in if device == Device::cpu() { [1, 64, 3000] } else { [10, 64, 3000] } {
            let state = keys.chunks(step).fold(before.clone(), |state, keys| cut.write(Some(&state), keys));
            let error = cut.error(&state, &(values.clone(), lse.clone()));
            assert!(error <= bound(&device), "{name} by {step}: off by {error:.1e}");
        }
    }
}

/// Key and value of point `i` of an endless stream, each in -1..1, with a drift.
fn point(i: u64) -> ([f32; 4], [f32; 3]) {
    let mut state = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    let mut next = || {
        state = (state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((state >> 40) as f32) / (1 << 23) as f32 - 1.0
    };
    // Slowly rising logits: the largest so far is exceeded again and again.
    let drift = (i as f64 * 1e-7) as f32;
    ([next() + drift, next(), next(), 1.0], [next(), next(), i as f32 * 1e-7])
}

/// The paper's update, equation 4, one point at a time in f32: what a state of
/// `(log-sum-exp, embedding)` reads after `n` points.
fn naive(queries: &[f32], n: u64) -> Vec<f32> {
    let (mut lse, mut embedding) = ([f32::NEG_INFINITY; 4], [[0.0f32; 3]; 4]);
    for i in 0..n {
        let (k, v) = point(i);
        for row in 0..4 {
            let logit = (0..4).map(|d| queries[row * 4 + d] * k[d]).sum::<f32>() / 2.0;
            let largest = lse[row].max(logit);
            let now = largest + ((lse[row] - largest).exp() + (logit - largest).exp()).ln();
            for d in 0..3 {
                embedding[row][d] = (lse[row] - now).exp() * embedding[row][d] + (logit - now).exp() * v[d];
            }
            lse[row] = now;
        }
    }
    embedding.concat()
}

/// Ten million points on the CPU, one, 64 and 4096 at a time, against float64. Takes minutes:
/// `cargo test --release --test kernels -- --ignored --nocapture ten_million`.
#[test]
#[ignore = "takes minutes"]
fn ten_million_points() {
    let n = 10_000_000u64;
    let mut random = Random::new(9);
    let queries = random.scaled(4 * 4, 2.0);
    let (mut largest, mut weights, mut sums) = ([f64::NEG_INFINITY; 4], [0.0f64; 4], [[0.0f64; 3]; 4]);
    for i in 0..n {
        let (k, v) = point(i);
        for row in 0..4 {
            let dot: f64 = (0..4).map(|d| f64::from(queries[row * 4 + d]) * f64::from(k[d])).sum();
            let logit = dot / 2.0;
            let now = largest[row].max(logit);
            let (decay, weight) = ((largest[row] - now).exp(), (logit - now).exp());
            largest[row] = now;
            weights[row] = weights[row] * decay + weight;
            for d in 0..3 {
                sums[row][d] = sums[row][d] * decay + weight * f64::from(v[d]);
            }
        }
    }
    let naive = naive(&queries, n);
    let truth: Vec<f64> = (0..12).map(|i| sums[i / 3][i % 3] / weights[i / 3]).collect();
    let lse: Vec<f64> = (0..4).map(|row| largest[row] + weights[row].ln()).collect();
    println!("the paper's update in f32: values off by {:.1e}", error(&naive, &truth));
    let device = Device::cpu();
    let queries = Tensor::new(&device, &[1, 1, 4, 4], &queries).unwrap();
    let attention = RollingAttention::new(layout(true, 1), queries);
    for step in [4096, 64, 1u64] {
        let started = std::time::Instant::now();
        let mut state: Option<RollingState> = None;
        for first in (0..n).step_by(step as usize) {
            let points: Vec<_> = (first..n.min(first + step)).map(point).collect();
            let k: Vec<f32> = points.iter().flat_map(|(k, _)| *k).collect();
            let v: Vec<f32> = points.iter().flat_map(|(_, v)| *v).collect();
            let k = Tensor::new(&device, &[1, 1, points.len(), 4], &k).unwrap();
            let v = Tensor::new(&device, &[1, 1, points.len(), 3], &v).unwrap();
            state = Some(attention.write(state.as_ref(), &k, &v, None).unwrap());
        }
        let read = state.unwrap().read().unwrap();
        let errors = [error(&read.values.read().unwrap(), &truth), error(&read.log_sum_exp.read().unwrap(), &lse)];
        println!(
            "by {step}: values off by {:.1e}, log-sum-exp by {:.1e}, {:?}",
            errors[0],
            errors[1],
            started.elapsed()
        );
        assert!(errors.iter().all(|error| *error <= CPU_BOUND), "by {step}: {errors:?}");
    }
}
