//! Sums over many keys keep their digits.

use super::*;

/// Positive features, so that the sums only grow: adding 100,000 numbers one after another in f32
/// loses about 1e-4 of them; adding sums of a few dozen, in f64 or as a tree, does not.
#[test]
fn sums_over_100_000_keys_keep_their_digits() {
    let n_keys = 100_000;
    let mut random = Random::new(4);
    let normalizer = Normalizer::FeatureSum { floor: 1e-6 };
    for kind in [FeatureKind::Exp, FeatureKind::Softmax] {
        let mut case = Case::new(&mut random, [1, 1, 3, n_keys, 3, 2, 4], kind, normalizer);
        case.v.iter_mut().for_each(|v| *v += 2.0);
        let truth = case.truth();
        for (name, device) in devices() {
            let state = case.write(&device, 0..n_keys, true);
            let e = error(&case.read(&device, &state, true), &truth);
            let allowed = bound(&device, RECORDED);
            assert!(e <= allowed, "{kind:?} on {name}: {e:.1e} over {allowed:.1e}");
            // The sums themselves, where no quotient lets errors cancel.
            let sums = state.sums.read().unwrap();
            for f in 0..4 {
                let exact: f64 = case.k.chunks(3).map(|k| features(kind, &case.projection, 4, case.scale, k)[f]).sum();
                let e = (f64::from(sums[f * 3 + 2]) / exact - 1.0).abs();
                assert!(e <= allowed, "feature {f} of {kind:?} on {name}: {e:.1e}");
            }
        }
    }
}

/// Equal keys are the worst case: every rounding goes the same way.
#[test]
fn sums_over_a_million_equal_keys_keep_their_digits() {
    let n_keys = 1_000_000;
    for (name, device) in devices() {
        let map = FeatureMap::identity(1.0);
        let attention = LinearAttention::new(layout(false, 1), map, Normalizer::KeyCount);
        for x in [0.1f32, 0.7, 1.9] {
            let k = Tensor::new(&device, &[1, n_keys, 1], &vec![x; n_keys]).unwrap();
            let state = attention.write(None, &k, &k, None).unwrap();
            let one = Tensor::new(&device, &[1, 1, 1], &[1.0]).unwrap();
            let mean = attention.read(&one, &state).unwrap().values.read().unwrap()[0];
            let e = (f64::from(mean) / (f64::from(x) * f64::from(x)) - 1.0).abs();
            let allowed = bound(&device, RECORDED);
            assert!(e <= allowed, "{x} on {name}: {e:.1e} over {allowed:.1e}");
        }
    }
}

#[test]
fn counts_do_not_stop_at_the_end_of_f32() {
    let device = Device::cpu();
    let attention = LinearAttention::new(layout(false, 1), FeatureMap::identity(1.0), Normalizer::KeyCount);
    let one = attention.write(
        None,
        &Tensor::new(&device, &[1, 1, 1], &[1.0]).unwrap(),
        &Tensor::new(&device, &[1, 1, 1], &[1.0]).unwrap(),
        None,
    );
    let one = one.unwrap();
    let many = LinearState { n_keys: vec![1 << 24], ..one.clone() };
    assert_eq!(many.merge(&one).unwrap().n_keys, [(1 << 24) + 1]);
}
