//! Bad input is an error that names what was asked and what is allowed; never a panic, a hang
//! or a wrong number.

use crate::support::{devices, refused, zeros};
use wgpu_attention::{
    Device, Mask, Tensor,
    ops::{
        Activation, Bias, BiasKernel, BiasTerm, Distance, FeatureKind, FeatureMap, Layout, Linear, LinearAttention,
        LinearState, Normalizer, ProjectionRows, RollingAttention, RollingState, ScanAttention, concat, feature_map,
        geglu, layer_norm, linear, merge_attention, random_features,
        scan_attention::{MAX_HEAD_DIM, scan_attention},
    },
};

#[test]
fn attention_shapes() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let attend = |q: &[usize], k: &[usize], v: &[usize], n_heads: Option<usize>| {
            let layout = n_heads.map_or(Layout::HeadMajor, |n_heads| Layout::Projected { n_heads });
            scan_attention(&t(q), &t(k), &t(v), &ScanAttention::new(layout))
        };
        refused(attend(&[2, 3], &[2, 3], &[2, 3], None), &["q", "[2, 3]", "[batch, n_heads, length, head_dim]"]);
        refused(attend(&[1, 2, 3, 4], &[2, 3, 8], &[2, 3, 8], None), &["rank", "[2, 3, 8]"]);
        refused(attend(&[1, 2, 3, 4], &[5, 2, 3, 4], &[5, 2, 3, 4], None), &["batch", "[5, 2, 3, 4]"]);
        refused(attend(&[1, 2, 3, 4], &[1, 3, 3, 4], &[1, 3, 3, 4], None), &["heads", "[1, 3, 3, 4]"]);
        refused(attend(&[1, 2, 3, 4], &[1, 2, 5, 4], &[1, 2, 6, 4], None), &["same length", "[1, 2, 6, 4]"]);
        refused(attend(&[1, 2, 3, 4], &[1, 2, 5, 8], &[1, 2, 5, 4], None), &["same width", "[1, 2, 5, 8]"]);
        refused(attend(&[1, 2, 3, 0], &[1, 2, 5, 0], &[1, 2, 5, 4], None), &["q", "[1, 2, 3, 0]"]);
        refused(attend(&[1, 2, 3, 4], &[1, 2, 0, 3], &[1, 2, 0, 4], None), &["same width", "[1, 2, 0, 3]"]);
        refused(attend(&[1, 3, 8], &[1, 3, 8], &[1, 3, 8], None), &["n_heads", "positive"]);
        refused(attend(&[1, 3, 8], &[1, 3, 8], &[1, 3, 8], Some(0)), &["n_heads", "positive"]);
        refused(attend(&[1, 3, 8], &[1, 3, 8], &[1, 3, 8], Some(3)), &["multiple of n_heads = 3"]);
        refused(attend(&[1, 2, 3, 4], &[1, 2, 3, 4], &[1, 2, 3, 4], Some(4)), &["n_heads = 4", "Projected"]);
        let wide = MAX_HEAD_DIM + 1;
        let shape = [1, 1, 1, wide];
        refused(attend(&shape, &shape, &shape, None), &["head_dim", &wide.to_string(), &MAX_HEAD_DIM.to_string()]);
    }
}

#[test]
fn attention_options() {
    for (_, device) in devices() {
        let t = zeros(&device, &[2, 2, 5, 4]);
        let attend = |options: ScanAttention<'_>| scan_attention(&t, &t, &t, &options);
        let mask = Mask::new(&device, &[5], &[true; 5]).unwrap();
        refused(attend(ScanAttention::default().key_mask(&mask)), &["key_mask", "[5]", "[2, 5]"]);
        for n_splits in [0, 6] {
            refused(
                attend(ScanAttention::default().n_splits(n_splits)),
                &["n_splits", &n_splits.to_string(), "1 to n_keys = 5"],
            );
        }
        refused(attend(ScanAttention::default().scale(f32::NAN)), &["scale", "NaN"]);
        let matrix = zeros(&device, &[2, 2, 5, 4]);
        refused(attend(ScanAttention::default().bias(Bias::matrix(&matrix))), &["bias.matrix", "[2, 2, 5, 5]"]);
        let coords = zeros(&device, &[2, 5, 3]);
        let with =
            |q: &Tensor, k: &Tensor, term: BiasTerm| attend(ScanAttention::default().bias(Bias::new(q, k, &[term])));
        let rbf = || BiasTerm::rbf(0..2, &[1.0; 2], &[1.0; 2]);
        refused(with(&zeros(&device, &[2, 4, 3]), &coords, rbf()), &["q_coords", "[2, 4, 3]", "[2, 5, 3]"]);
        refused(with(&coords, &zeros(&device, &[2, 5, 2]), rbf()), &["k_coords", "[2, 5, 2]"]);
        let columns = |range| BiasTerm::rbf(range, &[1.0; 2], &[1.0; 2]);
        refused(with(&coords, &coords, columns(2..4)), &["bias columns", "2..4", "0..3"]);
        refused(with(&coords, &coords, columns(1..1)), &["bias columns", "1..1"]);
        refused(
            with(&coords, &coords, BiasTerm::rbf(0..1, &[1.0; 3], &[1.0; 3])),
            &["bias parameter a", "3", "n_heads (2)"],
        );
        refused(with(&coords, &coords, BiasTerm::rbf(0..1, &[1.0; 4], &[1.0; 2])), &["bias parameter b", "2", "4"]);
        refused(with(&coords, &coords, BiasTerm::rbf(0..1, &[1.0; 2], &[f32::NAN; 2])), &["bias parameter b", "NaN"]);
        let term = |columns, distance| BiasTerm::built_in(columns, distance, BiasKernel::Scalar, &[&[1.0; 2]]);
        refused(with(&coords, &coords, term(0..3, Distance::GreatCircle)), &["3 columns", "2 column"]);
        refused(with(&coords, &coords, term(0..2, Distance::CausalTime)), &["2 columns", "1 column"]);
        let (mut nowhere, terms) = (Bias::default(), [rbf()]);
        nowhere.terms = &terms;
        refused(attend(ScanAttention::default().bias(nowhere)), &["bias coordinates", "q_coords and k_coords"]);
        if device != Device::cpu() {
            let elsewhere = zeros(&Device::cpu(), &[2, 2, 5, 4]);
            refused(scan_attention(&t, &elsewhere, &t, &ScanAttention::default()), &["different devices", "CPU"]);
        }
    }
}

#[test]
fn small_operations() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        refused(Tensor::new(&device, &[2, 3], &[0.0; 5]), &["[2, 3]", "6", "5"]);
        refused(Tensor::new(&device, &[usize::MAX, 2], &[0.0; 5]), &["5"]);
        refused(t(&[2, 3]).reshape(&[4]), &["[4]", "6"]);
        let layer = |weight: &[usize], bias: Option<&[usize]>| Linear { weight: t(weight), bias: bias.map(t) };
        refused(linear(&t(&[2, 3]), &layer(&[4, 5], None), Activation::None, None), &["[2, 3]", "[4, 5]", "n_in"]);
        refused(linear(&t(&[2, 4]), &layer(&[4], None), Activation::None, None), &["weight", "[n_in, n_out]"]);
        refused(linear(&t(&[2, 4]), &layer(&[4, 5], Some(&[4])), Activation::None, None), &["bias", "[n_out]"]);
        refused(
            linear(&t(&[2, 4]), &layer(&[4, 5], None), Activation::None, Some(&t(&[2, 4]))),
            &["residual", "[2, 4]"],
        );
        let wide = layer(&[0, 1 << 20], None);
        refused(linear(&t(&[1 << 60, 0]), &wide, Activation::None, None), &["numbers of one tensor"]);
        refused(Tensor::zeros(&device, &[1 << 40, 1 << 40, 0]), &["numbers of one tensor"]);
        refused(layer_norm(&t(&[2, 0]), &t(&[0]), &t(&[0]), 1e-6, None), &["x", "width > 0"]);
        refused(layer_norm(&t(&[2, 3]), &t(&[3]), &t(&[2]), 1e-6, None), &["bias", "[2]"]);
        refused(layer_norm(&t(&[2, 3]), &t(&[3]), &t(&[3]), -1.0, None), &["epsilon", "-1"]);
        refused(layer_norm(&t(&[2, 3]), &t(&[3]), &t(&[3]), f32::NAN, None), &["epsilon", "NaN"]);
        refused(layer_norm(&t(&[2, 3]), &t(&[3]), &t(&[3]), 0.1, Some(&t(&[3, 3]))), &["residual", "[3, 3]"]);
        refused(merge_attention(&t(&[0, 2]), &t(&[0])), &["log_sum_exp", "nothing empty"]);
        refused(merge_attention(&t(&[2, 3, 4]), &t(&[3, 2])), &["n_parts"]);
        refused(merge_attention(&t(&[2, 3, 4]), &t(&[2, 5])), &["multiple"]);
        refused(geglu(&t(&[2, 3])), &["[2, 3]", "2 width"]);
        refused(geglu(&t(&[2, 0])), &["[2, 0]", "width > 0"]);
    }
}

#[test]
fn linear_attention() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        // The papers' own form; the stable one is scan attention.
        let favor = |n_heads| {
            let features = FeatureMap::softmax(t(&[6, 4]));
            LinearAttention::new(Layout::Projected { n_heads }, features, Normalizer::FeatureSum { floor: 1e-6 })
        };
        let attention = favor(2);
        let mask = |shape: &[usize], n| Mask::new(&device, shape, &vec![true; n]).unwrap();
        let (k, v) = (t(&[1, 5, 8]), t(&[1, 5, 6]));
        refused(attention.write(None, &t(&[5, 8]), &v, None), &["k", "[5, 8]", "2 heads"]);
        refused(attention.write(None, &t(&[1, 5, 9]), &v, None), &["k", "[1, 5, 9]", "2 * dim"]);
        refused(attention.write(None, &t(&[1, 3, 5, 4]), &v, None), &["k", "[1, 3, 5, 4]"]);
        refused(attention.write(None, &t(&[1, 5, 0]), &v, None), &["k", "[1, 5, 0]"]);
        refused(attention.write(None, &k, &t(&[1, 4, 6]), None), &["[1, 4, 6]", "must be equal"]);
        refused(attention.write(None, &k, &t(&[1, 2, 5, 3]), None), &["[1, 2, 5, 3]"]);
        refused(attention.write(None, &t(&[1, 5, 6]), &v, None), &["projection", "[6, 4]", "[n_features, 3]"]);
        refused(attention.write(None, &k, &v, Some(&mask(&[1, 4], 4))), &["mask", "[1, 4]", "[1, 5]"]);
        refused(attention.write(None, &k, &v, Some(&mask(&[5], 5))), &["mask", "[5]"]);
        refused(favor(0).write(None, &k, &v, None), &["0 heads"]);
        for floor in [0.0, -1.0, 1e-40, f32::NAN, f32::INFINITY] {
            let normalizer = Normalizer::FeatureSum { floor };
            let mut attention = attention.clone();
            attention.normalizer = normalizer;
            refused(attention.write(None, &k, &v, None), &["floor", "1.1754944e-38 or more"]);
        }
        let state = attention.write(None, &k, &v, None).unwrap();
        refused(attention.read(&t(&[2, 3, 8]), &state), &["state", "[1, 2, 6, 4]", "[2, 2, 6, 4]"]);
        refused(favor(4).read(&t(&[1, 3, 16]), &state), &["state", "[1, 4, 6, 4]"]);
        let mut wider = attention.clone();
        wider.features = FeatureMap::softmax(t(&[7, 4]));
        refused(wider.read(&k, &state), &["state", "[1, 2, 7, 4]"]);
        refused(attention.read(&t(&[1, 3, 8, 1]), &state), &["q", "[1, 3, 8, 1]"]);
        let strange = LinearState { n_keys: vec![5; 3], ..state.clone() };
        refused(attention.read(&k, &strange), &["state"]);
        let narrow = LinearState { sums: t(&[1, 2, 6, 1]), ..state.clone() };
        refused(attention.read(&k, &narrow), &["state"]);
        refused(state.merge(&narrow), &["[1, 2, 6, 4]", "[1, 2, 6, 1]"]);
        // The sums of features are missing, or would be taken for a value.
        let mut plain = attention.clone();
        plain.normalizer = Normalizer::None;
        refused(plain.read(&k, &state), &["state", "[1, 2, 6, 4]", "[1, 2, 6, 3]", "None"]);
        refused(attention.read(&k, &plain.write(None, &k, &v, None).unwrap()), &["[1, 2, 6, 3]", "FeatureSum"]);
        refused(state.merge(&plain.write(None, &k, &t(&[1, 5, 8]), None).unwrap()), &["[1, 2, 6, 4]"]);
        refused(feature_map(&t(&[3, 0]), &FeatureMap::softmax(t(&[4, 0]))), &["x", "head_dim > 0"]);
        refused(feature_map(&k, &FeatureMap::identity(f32::NAN)), &["scale", "NaN"]);
        let none = FeatureMap { kind: FeatureKind::Relu, projection: None, scale: 1.0 };
        refused(feature_map(&k, &none), &["projection", "none for Relu"]);
        let both = FeatureMap { projection: Some(t(&[6, 8])), ..FeatureMap::identity(1.0) };
        refused(feature_map(&k, &both), &["projection", "Identity"]);
        refused(feature_map(&k, &FeatureMap::softmax(t(&[0, 8]))), &["projection", "[0, 8]"]);
        refused(feature_map(&k, &FeatureMap::softmax(t(&[8]))), &["projection", "[8]"]);
        refused(feature_map(&t(&[]).reshape(&[]).unwrap(), &FeatureMap::identity(1.0)), &["x", "head_dim"]);
        for (n, d) in [(0, 4), (4, 0), (1, 1025), (1 << 18, 8), (usize::MAX, 2)] {
            refused(
                random_features(&device, 0, n, d, ProjectionRows::Orthogonal),
                &["n_features and head_dim", "2^20"],
            );
        }
        refused(concat(&t(&[2, 3]), 0..3, &t(&[3, 3])), &["[2, 3]", "[3, 3]"]);
        refused(concat(&t(&[2, 3]), 1..4, &t(&[2, 3])), &["columns", "1..4", "0..3"]);
    }
}

#[cfg(feature = "gpu")]
#[test]
fn linear_attention_on_two_devices() {
    for (_, device) in crate::support::gpus() {
        let (here, there) = (Device::cpu(), &device);
        let attention = LinearAttention::favor(Layout::Projected { n_heads: 1 }, zeros(&here, &[6, 4]));
        let (k, far) = (zeros(&here, &[1, 5, 4]), zeros(there, &[1, 5, 4]));
        refused(attention.write(None, &k, &far, None), &["different devices"]);
        refused(attention.write(None, &far, &far, None), &["different devices"]);
        let state = attention.write(None, &k, &k, None).unwrap();
        refused(attention.read(&far, &state), &["different devices"]);
        let of_gpu = LinearState { sums: state.sums.to(there).unwrap(), ..state.clone() };
        refused(state.merge(&of_gpu), &["different devices"]);
        refused(concat(&k, 0..1, &far), &["different devices"]);
    }
}

#[test]
fn rolling_attention() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let attention = |queries: &[usize]| RollingAttention::new(Layout::HeadMajor, t(queries));
        let by_head = attention(&[1, 2, 3, 4]);
        let (k, v) = (t(&[1, 2, 5, 4]), t(&[1, 2, 5, 6]));
        let state = by_head.write(None, &k, &v, None).unwrap();
        refused(by_head.write(None, &t(&[1, 2, 0, 3]), &t(&[1, 2, 0, 6]), None), &["same width", "[1, 2, 0, 3]"]);
        refused(by_head.write(None, &k, &t(&[1, 2, 4, 6]), None), &["same length", "[1, 2, 4, 6]"]);
        refused(attention(&[1, 3, 8]).write(None, &t(&[1, 5, 8]), &t(&[1, 5, 8]), None), &["n_heads"]);
        let mask = Mask::new(&device, &[5], &[true; 5]).unwrap();
        refused(by_head.write(None, &k, &v, Some(&mask)), &["key_mask", "[5]", "[1, 5]"]);
        // A state of other values, and one of the other layout.
        refused(by_head.write(Some(&state), &k, &t(&[1, 2, 5, 7]), None), &["state", "[1, 2, 3, 15]", "[1, 2, 3, 17]"]);
        let other = RollingState { layout: Layout::Projected { n_heads: 3 }, ..state.clone() };
        refused(by_head.write(Some(&other), &k, &v, None), &["state", "HeadMajor"]);
        refused(state.merge(&other), &["same layout"]);
        let wider = by_head.write(None, &k, &t(&[1, 2, 5, 7]), None).unwrap();
        refused(state.merge(&wider), &["[1, 2, 3, 15]", "[1, 2, 3, 17]"]);
        for shape in [&[1, 2, 15][..], &[1, 2, 3, 4], &[1, 2, 3, 3], &[1, 0, 3, 15]] {
            let state = RollingState { rows: t(shape), layout: Layout::HeadMajor };
            refused(state.read(), &["rows", &format!("{shape:?}")]);
            refused(state.merge(&state), &["rows", &format!("{shape:?}")]);
        }
        if device != Device::cpu() {
            let elsewhere = RollingState { rows: zeros(&Device::cpu(), &[1, 2, 3, 15]), layout: Layout::HeadMajor };
            refused(by_head.write(Some(&elsewhere), &k, &v, None), &["different devices"]);
            refused(state.merge(&elsewhere), &["different devices"]);
        }
    }
}

#[test]
fn devices_that_do_not_exist() {
    refused(Device::by_name("no such adapter"), &["no such adapter", "Device::cpu()"]);
    assert_eq!(Device::by_name("CPU").unwrap(), Device::cpu());
}

/// On Vulkan, where the drivers that exist can be hidden: the test runs itself again without.
#[cfg(all(feature = "gpu", target_os = "linux"))]
#[test]
fn without_any_adapter() {
    const HIDDEN: &str = "WGPU_ATTENTION_TEST_WITHOUT_ADAPTERS";
    if std::env::var_os(HIDDEN).is_some() {
        assert!(Device::adapters().is_empty());
        refused(Device::gpu(), &["no GPU adapter found", "Device::cpu()"]);
        assert_eq!(Device::best(), Device::cpu());
        return;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bad_input::without_any_adapter"])
        .env(HIDDEN, "1")
        .env("VK_DRIVER_FILES", "/dev/null")
        .env("VK_ICD_FILENAMES", "/dev/null")
        .status();
    assert!(status.unwrap().success());
}
