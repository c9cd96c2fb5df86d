//! FAVOR+ where features vanish.

use super::*;
use crate::support::wide;

/// Standard normal numbers times `scale`, by the sum of twelve uniform ones.
fn normal(random: &mut Random, n: usize, scale: f32) -> Vec<f32> {
    random.numbers(12 * n).chunks(12).map(|x| scale * 0.5 * x.iter().sum::<f32>()).collect()
}

/// FAVOR+ in float64, from logarithms: `y` for head-major `q`, `k`, `v` of one head.
fn favor_64(w: &[f32], d: usize, q: &[f32], k: &[f32], v: &[f32], v_dim: usize) -> Vec<f64> {
    let scale = (d as f64).powf(-0.25);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let of_keys =
        |w: &[f32]| -> Vec<f64> { k.chunks(d).map(|k| scale * dot(w, k) - 0.5 * scale * scale * dot(k, k)).collect() };
    let keys: Vec<Vec<f64>> = w.chunks(d).map(of_keys).collect();
    let mut y = Vec::new();
    for q in q.chunks(d) {
        let rows = w.chunks(d).zip(&keys);
        let logits: Vec<f64> = rows
            .flat_map(|(w, keys)| {
                let of_query = scale * dot(w, q);
                keys.iter().map(move |key| of_query + key)
            })
            .collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let n = k.len() / d;
        y.extend((0..v_dim).map(|c| {
            let terms = weights.iter().enumerate();
            terms.map(|(i, weight)| weight * f64::from(v[i % n * v_dim + c])).sum::<f64>() / total
        }));
    }
    y
}

/// Fault F12: of 200 rows of ones, 184 to 200 were read as zeros.
#[test]
fn f12_long_keys_are_not_read_as_zeros() {
    let (n, d, v_dim, n_features) = (200, 64, 3, 256);
    for scale in [0.3f32, 3.0, 30.0] {
        let mut random = Random::new(12);
        let (q, k) = (normal(&mut random, n * d, scale), normal(&mut random, n * d, scale));
        let v = random.numbers(n * v_dim);
        let w = random_features(&Device::cpu(), 1, n_features, d, ProjectionRows::Orthogonal).unwrap();
        let truth = favor_64(&w.read().unwrap(), d, &q, &k, &v, v_dim);
        for (name, device) in devices() {
            let w = w.to(&device).unwrap();
            let tensor = |data: &[f32], dim: usize| Tensor::new(&device, &[1, 1, n, dim], data).unwrap();
            let favor = LinearAttention::favor(layout(true, 1), w);
            assert_eq!(favor.normalizer, Normalizer::Stable);
            let (q_tensor, k_tensor) = (tensor(&q, d), tensor(&k, d));
            let read = |v: &[f32], dim: usize| {
                // In two writes, so that what each took off differs.
                let part = |x: &[f32], dim: usize, range: std::ops::Range<usize>| {
                    let rows = &x[range.start * dim..range.end * dim];
                    Tensor::new(&device, &[1, 1, range.len(), dim], rows).unwrap()
                };
                let whole = favor.write(None, &k_tensor, &tensor(v, dim), None).unwrap();
                let first = favor.write(None, &part(&k, d, 0..70), &part(v, dim, 0..70), None).unwrap();
                let both = favor.write(Some(&first), &part(&k, d, 70..n), &part(v, dim, 70..n), None).unwrap();
                [whole, both].map(|state| favor.read(&q_tensor, &state).unwrap().values.read().unwrap())
            };
            for found in read(&vec![1.0; n], 1) {
                let wrong = found.iter().filter(|y| (**y - 1.0).abs() > 1e-5).count();
                assert_eq!(wrong, 0, "{name}, {scale}: {wrong} of {n} rows are not 1: {:?}", &found[..5]);
            }
            for found in read(&v, v_dim) {
                // Logits are sums of this size, rounded in f32.
                let logits = (scale * scale * 8.0 * 8.0).max(1.0);
                let allowed = 2e-6 + 4.0 * f64::from(logits * f32::EPSILON);
                let off = error(&found, &truth);
                assert!(off <= allowed, "{name}, {scale}: off by {off:.1e}, allowed {allowed:.1e}");
            }
        }
    }
}

/// The papers' own form is there, and where nothing vanishes both are the same.
#[test]
fn f12_both_forms_agree_where_nothing_vanishes() {
    let (n, d, heads) = (50, 8, 2);
    for (name, device) in devices() {
        let mut random = Random::new(3);
        let mut tensor = || Tensor::new(&device, &[2, n, heads * d], &random.numbers(2 * n * heads * d)).unwrap();
        let (q, k, v) = (tensor(), tensor(), tensor());
        let w = random_features(&device, 1, 64, d, ProjectionRows::Orthogonal).unwrap();
        let stable = LinearAttention::favor(layout(false, heads), w);
        let mut papers = stable.clone();
        papers.normalizer = Normalizer::FeatureSum { floor: 1e-6 };
        let read = |of: &LinearAttention| {
            let state = of.write(None, &k, &v, None).unwrap();
            of.read(&q, &state).unwrap().values.read().unwrap()
        };
        let off = error(&read(&stable), &wide(&read(&papers)));
        assert!(off < 2e-6, "{name}: {off:.1e}");
    }
}

#[test]
fn f12_stable_features_are_softmax_features() {
    let device = Device::cpu();
    let k = crate::support::zeros(&device, &[1, 1, 4, 8]);
    let other = LinearAttention::new(layout(true, 1), FeatureMap::identity(1.0), Normalizer::Stable);
    crate::support::refused(other.write(None, &k, &k, None), &["Stable", "Identity", "Softmax"]);
    let w = |d: usize| random_features(&device, 1, 4, d, ProjectionRows::Independent).unwrap();
    let mut broad = LinearAttention::favor(layout(true, 1), w(256));
    assert_eq!(broad.normalizer, Normalizer::FeatureSum { floor: 1e-6 });
    broad.normalizer = Normalizer::Stable;
    let k = crate::support::zeros(&device, &[1, 1, 4, 256]);
    crate::support::refused(broad.write(None, &k, &k, None), &["Stable", "257", "256"]);
    // States of the two forms do not go together.
    let stable = LinearAttention::favor(layout(true, 1), w(8));
    let mut papers = stable.clone();
    papers.normalizer = Normalizer::FeatureSum { floor: 1e-6 };
    let k = crate::support::zeros(&device, &[1, 1, 4, 8]);
    let [a, b] = [&stable, &papers].map(|of| of.write(None, &k, &k, None).unwrap());
    assert!(a.merge(&b).is_err() && stable.read(&k, &b).is_err() && papers.read(&k, &a).is_err());
}
