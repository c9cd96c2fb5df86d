//! Loops longer than a software adapter runs to their end: right, or refused by name.
#![cfg(feature = "gpu")]

use crate::support::{Random, both};
use wgpu_attention::{
    Device, Error, Result, Tensor,
    ops::{
        Activation, AttentionMemory, Bias, BiasKernel, BiasTerm, Distance, FeatureMap, HeadMoves, Layout, Linear,
        LinearAttention, Normalizer, ProjectionRows, ScanAttention, TapeInputs, TapeOptions, attention_memory,
        feature_map, layer_norm, linear, merge_attention, random_features, scan_attention, tape, unit_norm,
    },
};

/// Runs on the CPU and on an adapter. There it is as far off as sums of this length are (1e-4 of the
/// largest number, where a loop that is ended early loses tenths), or refused for its loops, if it may be: not by a
/// GPU, which has no such limit.
fn right_or_refused(what: &str, may_be_refused: bool, run: impl Fn(&Device, &mut Random) -> Result<Tensor>) {
    let on = |device: &Device| run(device, &mut Random::new(5)).and_then(|y| y.read());
    let truth = on(&Device::cpu()).unwrap();
    assert!(truth.iter().all(|x| x.is_finite()), "{what}: nothing to compare with");
    for (name, device) in both().into_iter().take(1) {
        match on(&device) {
            Ok(found) => {
                let largest = truth.iter().fold(1e-3f32, |a, b| a.max(b.abs()));
                // A maximum passes over NaN, which sums become that were never made.
                assert!(found.iter().all(|x| x.is_finite()), "{name}: {what}: not finite");
                let off = found.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
                assert!(off <= 1e-4, "{name}: {what}: off by {off}");
            }
            Err(Error::LimitExceeded { limit, requested, allowed }) => {
                let is_limited = device.capabilities().max_iterations < usize::MAX;
                assert!(may_be_refused && is_limited, "{name}: {what}: refused for {requested} of {allowed}");
                assert!(limit.contains("loop iterations") && requested > allowed, "{name}: {what}: {limit}");
            }
            Err(other) => panic!("{name}: {what}: {other}"),
        }
    }
}

/// Another sum with `Ok`, by the table: a tape of 1024 x 1024, `linear` of 200,000 inputs, wide
/// norms, long merges and reads, and splits of so many keys that a caller asked for.
#[test]
fn f9_long_loops_are_right_or_refused() {
    for n_in in [40_000, 100_000, 200_000] {
        right_or_refused(&format!("linear of {n_in}"), n_in > 40_000, |device, random| {
            let x = Tensor::new(device, &[1, n_in], &random.numbers(n_in))?;
            let layer = Linear { weight: Tensor::new(device, &[n_in, 1], &random.numbers(n_in))?, bias: None };
            linear(&x, &layer, Activation::None, None)
        });
    }
    for width in [100_000, 1_000_000] {
        right_or_refused(&format!("norms of {width}"), width == 1_000_000, |device, random| {
            let x = Tensor::new(device, &[1, width], &random.numbers(width))?;
            let ones = Tensor::new(device, &[width], &vec![1.0; width])?;
            layer_norm(&unit_norm(&x)?, &ones, &ones, 1e-6, None)
        });
    }
    for n_parts in [25_000, 70_000] {
        right_or_refused(&format!("merge of {n_parts}"), false, |device, random| {
            let values = Tensor::new(device, &[n_parts, 1], &random.numbers(n_parts))?;
            let lse = Tensor::new(device, &[n_parts, 1], &random.numbers(n_parts))?;
            Ok(merge_attention(&values, &lse)?.values)
        });
    }
    // Of the narrowest heads, where what is beside the sums takes most of the iterations.
    for (n_keys, has_matrix) in [(60_000, true), (90_000, true), (150_000, false)] {
        right_or_refused(&format!("one split of {n_keys} keys"), false, |device, random| {
            let mut t = |shape: &[usize]| Tensor::new(device, shape, &random.numbers(shape.iter().product()));
            let (q, k, v) = (t(&[1, 1, 1, 1])?, t(&[1, 1, n_keys, 1])?, t(&[1, 1, n_keys, 1])?);
            let matrix = t(&[1, 1, 1, n_keys])?;
            let mut options = ScanAttention::default().n_splits(1);
            if has_matrix {
                options = options.bias(Bias::matrix(&matrix));
            }
            Ok(scan_attention(&q, &k, &v, &options)?.log_sum_exp)
        });
    }
    // Values that grow with the key, so that means tell which of them are missing.
    let growing = |device: &Device, n_keys: usize| {
        let mut v: Vec<f32> = (0..n_keys).map(|j| j as f32 / n_keys as f32).collect();
        v[0] = f32::INFINITY;
        Tensor::new(device, &[1, 1, n_keys, 1], &v)
    };
    // The infinite value is masked, but sums its rows one by one from then on.
    for has_term in [false, true] {
        right_or_refused(&format!("a matrix, an infinite value, a term: {has_term}"), false, |device, random| {
            let n_keys = 60_000;
            let (k, v) = (Tensor::new(device, &[1, 1, n_keys, 1], &random.numbers(n_keys))?, growing(device, n_keys)?);
            let mut numbers = random.numbers(n_keys);
            numbers[0] = f32::NEG_INFINITY;
            let matrix = Tensor::new(device, &[1, 1, 1, n_keys], &numbers)?;
            let q = Tensor::new(device, &[1, 1, 1, 1], &[1.0])?;
            let q_coords = Tensor::new(device, &[1, 1, 1], &[0.0])?;
            let k_coords = Tensor::new(device, &[1, n_keys, 1], &random.numbers(n_keys))?;
            let terms = [BiasTerm::scalar(0..1, &[-1.0])];
            let bias = if has_term { Bias::new(&q_coords, &k_coords, &terms) } else { Bias::default() };
            let options = ScanAttention::default().n_splits(1).bias(bias.with_matrix(&matrix));
            Ok(scan_attention(&q, &k, &v, &options)?.values)
        });
    }
    // As netCDF fills what is missing: angles of 1e34 turns.
    right_or_refused("great circles to fill values", false, |device, random| {
        let n_keys = 60_000;
        let (k, v) = (Tensor::new(device, &[1, 1, n_keys, 1], &random.numbers(n_keys))?, growing(device, n_keys)?);
        let q = Tensor::new(device, &[1, 1, 1, 1], &[1.0])?;
        let q_coords = Tensor::new(device, &[1, 1, 2], &[10.0, 20.0])?;
        let mut coords: Vec<f32> = random.numbers(2 * n_keys).iter().map(|x| 9.96921e36 * x).collect();
        coords[0] = f32::NAN;
        let k_coords = Tensor::new(device, &[1, n_keys, 2], &coords)?;
        let terms = [BiasTerm::built_in(0..2, Distance::GreatCircle, BiasKernel::Scalar, &[&[-0.01]])];
        let options = ScanAttention::default().n_splits(1).bias(Bias::new(&q_coords, &k_coords, &terms));
        Ok(scan_attention(&q, &k, &v, &options)?.values)
    });
    for head_dim in [64, 1024] {
        right_or_refused(&format!("memory of {head_dim}"), false, |device, random| {
            let numbers = random.scaled(500 * head_dim, 0.1);
            let k = unit_norm(&Tensor::new(device, &[1, 1, 500, head_dim], &numbers)?)?;
            Ok(attention_memory(&k, &k, &k, &AttentionMemory::default())?.values)
        });
    }
    for n_features in [1000, 8000] {
        right_or_refused(&format!("linear reads of {n_features} features"), false, |device, random| {
            let projection = random_features(device, 1, n_features, 64, ProjectionRows::Orthogonal)?;
            let k = Tensor::new(device, &[1, 1, 40, 64], &random.numbers(40 * 64))?;
            let map = FeatureMap::softmax(projection);
            let memory = LinearAttention::new(Layout::HeadMajor, map.clone(), Normalizer::FeatureSum { floor: 1e-6 });
            let read = memory.read(&k, &memory.write(None, &k, &k, None)?)?.values;
            feature_map(&read, &map)
        });
    }
    for slots in [100, 1024] {
        right_or_refused(&format!("tape of {slots}"), false, |device, random| {
            let mem = slots;
            let options = TapeOptions { heads: HeadMoves::All, ..TapeOptions::default() };
            let mut t = |width: usize| Tensor::new(device, &[1, 3, width], &random.numbers(3 * width));
            let (value, key, query, action) = (t(mem)?, t(mem)?, t(mem)?, t(HeadMoves::All.n_actions())?);
            let inputs = TapeInputs {
                value: &value,
                key: Some(&key),
                query: Some(&query),
                action: &action,
                n_tapes: 1,
                tape_length: slots,
            };
            Ok(tape(&inputs, options, None)?.values)
        });
    }
}
