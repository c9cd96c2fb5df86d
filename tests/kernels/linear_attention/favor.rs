//! Random features, and how FAVOR+ approaches softmax attention.

use super::*;

/// The error of FAVOR+ against softmax attention, root mean square over seeds and outputs.
fn favor_error(n_features: usize, rows: ProjectionRows) -> f64 {
    let device = Device::cpu();
    let (n, d) = (40, 8);
    let mut random = Random::new(8);
    // Short vectors: the variance of the estimate grows exponentially with their square, and for
    // long ones the rate shows only where there are very many features.
    let mut t = |dim: usize| Tensor::new(&device, &[1, 1, n, dim], &random.scaled(n * dim, 0.7)).unwrap();
    let (q, k, v) = (t(d), t(d), t(4));
    let truth = scan_attention(&q, &k, &v, &ScanAttention::default()).unwrap().values.read().unwrap();
    let n_seeds = 64;
    let square = (0..n_seeds).map(|seed| {
        let projection = random_features(&device, seed, n_features, d, rows).unwrap();
        let attention = LinearAttention::favor(layout(true, 1), projection);
        let state = attention.write(None, &k, &v, None).unwrap();
        let found = attention.read(&q, &state).unwrap().values.read().unwrap();
        found.iter().zip(&truth).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / truth.len() as f64
    });
    (square.sum::<f64>() / n_seeds as f64).sqrt()
}

/// The estimate of the kernel is an average of `n_features` independent terms, so its error
/// falls with one over the square root; 64 seeds leave a few percent of noise in each figure.
#[test]
fn favor_approaches_softmax_attention_at_the_expected_rate() {
    let sizes = [16, 64, 256, 1024];
    for rows in [ProjectionRows::Independent, ProjectionRows::Orthogonal] {
        let errors = sizes.map(|n| favor_error(n, rows));
        println!("{rows:?}: {errors:.4?} for {sizes:?} features");
        let logs: Vec<(f64, f64)> = sizes.iter().zip(errors).map(|(&n, e)| ((n as f64).ln(), e.ln())).collect();
        let mean = logs.iter().fold((0.0, 0.0), |m, l| (m.0 + l.0 / 4.0, m.1 + l.1 / 4.0));
        let slope = logs.iter().map(|l| (l.0 - mean.0) * (l.1 - mean.1)).sum::<f64>()
            / logs.iter().map(|l| (l.0 - mean.0).powi(2)).sum::<f64>();
        assert!((slope + 0.5).abs() < 0.1, "{rows:?}: errors {errors:?}, slope {slope:.3} instead of -1/2");
        assert!(errors[3] < 0.01, "{rows:?}: {errors:?}");
    }
    let (independent, orthogonal) =
        (favor_error(64, ProjectionRows::Independent), favor_error(64, ProjectionRows::Orthogonal));
    assert!(orthogonal < independent, "orthogonal rows: {orthogonal}, independent ones: {independent}");
}

#[test]
fn random_features_are_what_they_say() {
    let device = Device::cpu();
    let draw = |seed, n, d, rows| random_features(&device, seed, n, d, rows).unwrap().read().unwrap();
    // Pinned: the same on every platform, for ever.
    let pinned = draw(7, 3, 2, ProjectionRows::OrthogonalUnit);
    assert_eq!(pinned, PINNED, "the numbers of a seed have changed");
    assert_ne!(draw(8, 3, 2, ProjectionRows::OrthogonalUnit), pinned);
    let (n, d) = (20, 8);
    for rows in [ProjectionRows::Orthogonal, ProjectionRows::OrthogonalUnit] {
        let w = draw(1, n, d, rows);
        let dot =
            |i: usize, j: usize| -> f64 { (0..d).map(|c| f64::from(w[i * d + c]) * f64::from(w[j * d + c])).sum() };
        for i in 0..n {
            for j in i - i % d..i {
                assert!(dot(i, j).abs() < 1e-5, "{rows:?}: rows {i} and {j} of a block are not orthogonal");
            }
            if rows == ProjectionRows::OrthogonalUnit {
                assert!((dot(i, i) - d as f64).abs() < 1e-5, "row {i} has square {}", dot(i, i));
            }
        }
    }
    // Lengths as of independent rows: the mean of the squares is d, within four standard errors.
    let w = draw(3, 1000, 8, ProjectionRows::Orthogonal);
    let square = w.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 1000.0;
    assert!((square - 8.0).abs() < 4.0 * (16.0f64 / 1000.0).sqrt(), "{square}");
    // Normal numbers: mean 0 and variance 1 within four standard errors.
    let w = draw(2, 1000, 8, ProjectionRows::Independent);
    let mean = w.iter().map(|&x| f64::from(x)).sum::<f64>() / w.len() as f64;
    let variance = w.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / w.len() as f64;
    assert!(mean.abs() < 4.0 / (w.len() as f64).sqrt(), "{mean}");
    assert!((variance - 1.0).abs() < 4.0 * (2.0 / w.len() as f64).sqrt(), "{variance}");
}

const PINNED: [f32; 6] = [1.4026338, -0.18060607, 0.18060607, 1.4026338, 1.0279057, -0.9712929];
