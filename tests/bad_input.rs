//! Bad input is an error that names what was asked and what is allowed; never a panic, a hang
//! or a wrong number.

mod support;

use support::{devices, refused, zeros};
use wgpu_attention::{
    Device, Error, Mask, Tensor,
    checkpoint::{Checkpoint, Parameters},
    models::{
        cmanp,
        layers::torch_linear,
        tnp_kr::{AttentionConfig, Config, Context, KrBlock, Locations, TnpKr},
    },
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
        refused(attend(&[1, 2, 0, 4], &[1, 2, 5, 4], &[1, 2, 5, 4], None), &["nothing empty"]);
        refused(attend(&[1, 2, 3, 4], &[1, 2, 0, 4], &[1, 2, 0, 4], None), &["k", "nothing empty"]);
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
            // More parameters than a uniform holds.
            let many = vec![0.1; 2 * 2000];
            refused(with(&coords, &coords, BiasTerm::rbf(0..1, &many, &many)), &["parameters of one kernel"]);
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
        refused(linear(&t(&[1 << 60, 0]), &wide, Activation::None, None), &["elements in the result"]);
        refused(linear(&t(&[1 << 40, 1 << 40, 0]), &wide, Activation::None, None), &["elements in the result"]);
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
        let favor = |n_heads| LinearAttention::favor(Layout::Projected { n_heads }, t(&[6, 4]));
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
        for floor in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let normalizer = Normalizer::FeatureSum { floor };
            let mut attention = attention.clone();
            attention.normalizer = normalizer;
            refused(attention.write(None, &k, &v, None), &["floor", "above zero"]);
        }
        let state = attention.write(None, &k, &v, None).unwrap();
        refused(attention.read(&t(&[2, 3, 8]), &state), &["state", "[1, 2, 6, 4]", "[2, 2, 6, 4]"]);
        refused(favor(4).read(&t(&[1, 3, 16]), &state), &["state", "[1, 4, 6, 4]"]);
        let wider = LinearAttention::favor(Layout::Projected { n_heads: 2 }, t(&[7, 4]));
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
    for (_, device) in support::gpus() {
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
        refused(by_head.write(None, &t(&[1, 2, 0, 4]), &t(&[1, 2, 0, 6]), None), &["k", "nothing empty"]);
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
        for shape in [&[1, 2, 15][..], &[1, 2, 3, 4], &[1, 2, 3, 3], &[1, 0, 3, 15], &[1 << 40, 1 << 40, 0, 15]] {
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

fn cmanp_config() -> cmanp::Config {
    let text = r#"{"dim_x": 1, "dim_y": 2, "d_model": 8, "dim_feedforward": 8, "n_heads": 2, "n_latents": 3,
        "n_latents_per_layer": 4, "n_layers": 2, "emb_depth": 2, "bound_std": false}"#;
    serde_json::from_str(text).unwrap()
}

/// A network whose parameters are all zero but for what a configuration asks of their shapes.
fn cmanp_model(device: &Device, config: &cmanp::Config) -> (cmanp::Cmanp, Checkpoint) {
    let mut checkpoint = Checkpoint::default();
    loop {
        match cmanp::Cmanp::new(device, config, &checkpoint) {
            Ok(model) => return (model, checkpoint),
            Err(Error::MissingParameter { name, expected }) => {
                let n = expected.iter().product();
                checkpoint.insert(&name, &expected, vec![0.0; n]).unwrap();
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn cmanp_contexts_and_predictions() {
    use cmanp::Context;
    for (_, device) in devices() {
        let config = cmanp_config();
        let (model, _) = cmanp_model(&device, &config);
        let (x, y) = ([0.0, 1.0], [0.0; 4]);
        let read = |x: &[f32], y: &[f32]| model.condition(&Context::new(x, y));
        refused(read(&[], &[]), &["context is empty", "at least one"]);
        refused(model.condition(&Context::new(&x, &y).batch(0)), &["batch", "1 or more"]);
        refused(model.condition(&Context::new(&[], &[]).batch(usize::MAX)), &["context is empty"]);
        refused(model.condition(&Context::new(&x, &y).batch(2).mask(&[true, false])), &["batch element 1"]);
        refused(model.condition(&Context::new(&x, &y).mask(&[true])), &["[1, 2]", "2", "1"]);
        refused(read(&x, &y[..3]), &["[1, 2, 2]", "4", "3"]);
        refused(read(&x[..1], &y), &["[1, 1, 2]", "2", "4"]);
        refused(read(&[], &y), &["[1, 0, 2]", "4"]);
        refused(read(&[0.0, f32::NAN], &y), &["x of point 1", "[0]", "NaN"]);
        refused(read(&x, &[0.0, 0.0, 0.0, f32::INFINITY]), &["y of point 1", "[1]", "inf"]);
        refused(model.condition_in_blocks(&Context::new(&x, &y), 0), &["block", "1 or more"]);
        let posterior = read(&x, &y).unwrap();
        refused(posterior.update(&Context::new(&x, &y).batch(2)), &["batch", "2", "1, that of the posterior"]);
        refused(posterior.update(&Context::new(&[f32::NAN], &y[..2])), &["x of point 0", "NaN"]);
        assert_eq!(posterior.update(&Context::new(&[], &[])).unwrap().n_points(), [2]);
        refused(posterior.predict(&[f32::NAN]), &["x of point 0", "NaN"]);
        refused(posterior.predict_joint(&x), &["without covariance", "Posterior::predict"]);
        refused(posterior.evaluate(&x, &y, 1), &["without covariance"]);
        let prediction = posterior.predict(&x).unwrap();
        refused(prediction.log_density(&y[..3]), &["[1, 2, 2]", "3"]);
        refused(prediction.log_density(&[f32::NAN, 0.0, 0.0, 0.0]), &["y[0]", "NaN"]);
        let wide = model.condition(&Context::new(&x, &y).batch(2)).unwrap();
        refused(wide.predict(&[0.0]), &["[2, 1, 1]", "2", "1"]);
        refused(posterior.merge(&wide), &["batch 2", "batch 1"]);
        let (other, _) = cmanp_model(&device, &cmanp::Config { bound_std: true, ..config.clone() });
        refused(posterior.merge(&other.condition(&Context::new(&x, &y)).unwrap()), &["another model"]);

        // A base model keeps no state.
        let (whole, _) = cmanp_model(&device, &cmanp::Config { n_latents_per_layer: None, ..config.clone() });
        let whole = whole.condition(&Context::new(&x, &y)).unwrap();
        refused(whole.update(&Context::new(&x, &y)), &["LBANP", "condition on all"]);
        refused(whole.merge(&whole), &["LBANP"]);
        refused(whole.to_checkpoint(), &["LBANP"]);

        // Parameters of zero have a covariance of zero.
        let covariance = r#"{"kind": "cholesky", "n_layers": 1, "prj_dim": 2, "prj_depth": 1}"#;
        let covariance = serde_json::from_str(covariance).unwrap();
        let (joint, _) = cmanp_model(&device, &cmanp::Config { covariance: Some(covariance), ..config.clone() });
        let joint_of_many = joint.condition(&Context::new(&[0.0; 4], &[0.0; 8]).batch(4)).unwrap();
        let joint = joint.condition(&Context::new(&x, &y)).unwrap();
        refused(joint.predict_joint(&x), &["not positive definite", "4", "batch element 0", "diagonal", "is 0"]);
        refused(joint.evaluate(&x, &[0.0, 0.0, 0.0, f32::NAN], 1), &["y[3]", "NaN"]);
        refused(joint.predict(&x), &["predict_joint"]);
        refused(joint.evaluate(&x, &y, 0), &["block", "1 or more"]);
        refused(joint.evaluate(&[], &[], 1), &["points", "1 or more"]);
        refused(joint.evaluate(&x, &y[..2], 1), &["[1, 2, 2]", "2"]);
        refused(joint.predict_joint(&vec![0.0; cmanp::MAX_JOINT]), &["together", &cmanp::MAX_JOINT.to_string()]);
        refused(joint_of_many.predict_joint(&vec![0.0; 4 * cmanp::MAX_JOINT]), &["together", "4096 allowed"]);
        assert!(joint.predict_joint(&[]).unwrap()[0].is_empty());
    }
}

#[test]
fn cmanp_parameters_and_states_that_do_not_fit() {
    let device = Device::cpu();
    let config = cmanp_config();
    let (model, checkpoint) = cmanp_model(&device, &config);
    let load = |config: &cmanp::Config, checkpoint: &Checkpoint| cmanp::Cmanp::new(&device, config, checkpoint);
    let mut extra = checkpoint.clone();
    extra.insert("encoder.surprise", &[1], vec![0.0]).unwrap();
    refused(load(&config, &extra), &["encoder.surprise", "does not use"]);
    let mut misshapen = checkpoint.clone();
    misshapen.insert("encoder.layers.1.latents", &[4, 7], vec![0.0; 28]).unwrap();
    refused(load(&config, &misshapen), &["encoder.layers.1.latents", "[4, 7]", "[4, 8]"]);
    refused(load(&cmanp::Config { n_layers: 3, ..config.clone() }, &checkpoint), &["layers.2.", "missing"]);
    refused(load(&cmanp::Config { n_heads: 3, ..config.clone() }, &checkpoint), &["d_model 8", "n_heads 3"]);
    for wrong in [0, usize::MAX] {
        refused(load(&cmanp::Config { dim_x: wrong, ..config.clone() }, &checkpoint), &["dim_x", "allowed is 1 to"]);
        let wrong = cmanp::Config { n_latents_per_layer: Some(wrong), ..config.clone() };
        refused(load(&wrong, &checkpoint), &["n_latents_per_layer", "allowed is 1 to"]);
    }
    for text in ["{}", "null", r#"{"dim_x": -1}"#] {
        assert!(serde_json::from_str::<cmanp::Config>(text).is_err());
    }
    refused(cmanp::Cmanp::open(&device, CHECKPOINT), &["tnp_kr", "cmanp"]);

    let posterior = model.condition(&cmanp::Context::new(&[0.0], &[0.0, 0.0])).unwrap();
    let saved = posterior.to_checkpoint().unwrap();
    assert!(model.restore(&saved).is_ok());
    refused(model.restore(&checkpoint), &["posterior"]);
    let metadata = saved.metadata("posterior").unwrap().to_owned();
    for (from, to) in [("\"cmanp\"", "\"tnp_kr\""), ("\"batch\":1", "\"batch\":2"), ("\"batch\":1", "\"batch\":0")] {
        let mut wrong = saved.clone();
        assert!(metadata.contains(from), "{metadata}");
        wrong.set_metadata("posterior", metadata.replace(from, to));
        refused(model.restore(&wrong), &["posterior"]);
    }
    let mut wrong = saved.clone();
    wrong.set_metadata("posterior", "[]");
    refused(model.restore(&wrong), &["posterior"]);
    let mut wrong = saved.clone();
    wrong.insert("state_0", &[1], vec![0.0]).unwrap();
    refused(model.restore(&wrong), &["not those that were saved"]);
}

#[test]
fn cmanp_layers_of_no_size() {
    use cmanp::{Cmab, CmabSizes, TransformerLayer};
    let sizes = CmabSizes { n_latents: 2, latent_dim: 4, context_dim: 4, n_heads: 2, dim_feedforward: 4 };
    for (wrong, words) in [
        (CmabSizes { n_latents: 0, ..sizes }, ["n_latents is 0", "1 or more"]),
        (CmabSizes { latent_dim: 0, ..sizes }, ["latent is 0", "1 or more"]),
        (CmabSizes { context_dim: 0, ..sizes }, ["context_dim is 0", "1 or more"]),
        (CmabSizes { n_heads: 0, ..sizes }, ["n_heads is 0", "1 or more"]),
        (CmabSizes { n_heads: 3, ..sizes }, ["query_dim is 4", "multiple of n_heads 3"]),
    ] {
        let built = Checkpoint::random(1, |checkpoint| checkpoint.load(&Device::cpu(), |p| Cmab::load(p, &wrong)));
        refused(built, &words);
    }
    let layer = |n_heads| {
        let load = |p: &Parameters<'_>| TransformerLayer::load(p, 4, n_heads, 4);
        Checkpoint::random(1, |checkpoint| checkpoint.load(&Device::cpu(), load))
    };
    refused(layer(0), &["n_heads is 0"]);
    refused(layer(3), &["width is 4", "multiple of n_heads 3"]);
    for (n_in, n_out) in [(0, 1), (1, 0)] {
        let load = |p: &Parameters<'_>| torch_linear(p, n_in, n_out, true);
        let built = Checkpoint::random(1, |checkpoint| checkpoint.load(&Device::cpu(), load));
        refused(built, &["put is 0", "1 or more"]);
    }
}

const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/checkpoints/gp_1d.safetensors");

#[test]
fn contexts_and_predictions() {
    for (_, device) in devices() {
        let model = TnpKr::open(&device, CHECKPOINT).unwrap();
        let at = |x| Locations::space(1, x);
        let x = [0.0, 1.0, 2.0];
        refused(model.condition(&Context::new(at(&[]), &[])), &["context is empty", "at least one"]);
        refused(model.condition(&Context::new(at(&x), &x).mask(&[false; 3])), &["context is empty", "batch element 0"]);
        refused(model.condition(&Context::new(at(&x), &x).mask(&[true; 2])), &["[1, 3]", "3", "2"]);
        refused(model.condition(&Context::new(at(&x[..2]), &x)), &["[1, 3, 1]", "2"]);
        refused(model.condition(&Context::new(at(&[0.0, f32::NAN, 2.0]), &x)), &["coordinates \"s\"[1]", "NaN"]);
        refused(model.condition(&Context::new(at(&x), &[0.0, f32::INFINITY, 2.0])), &["values of point 1", "inf"]);
        refused(model.condition(&Context::new(at(&x).time(&x), &x)), &["\"t\"", "[\"s\"]"]);
        refused(model.condition(&Context::new(Locations::default(), &x)), &["0 of name \"s\"", "once"]);
        refused(model.condition(&Context::new(at(&x).group("s", 1, &x), &x)), &["2 of name \"s\"", "once"]);
        refused(model.condition(&Context::new(Locations::space(0, &x), &x)), &["dim"]);
        refused(model.condition(&Context::new(at(&x).batch(0), &x)), &["batch"]);
        refused(model.condition(&Context::new(at(&x).batch(2), &x)), &["[2, 1, 1]"]);
        let posterior = model.condition(&Context::new(at(&x), &x)).unwrap();
        refused(posterior.predict(&at(&[f32::NAN])), &["coordinates \"s\"[0]", "NaN"]);
        refused(posterior.predict(&Locations::space(2, &[0.0, 0.0])), &["coordinate columns", "0..2", "0..1"]);
        refused(posterior.predict(&at(&x).batch(3)), &["batch", "3", "1"]);
        refused(posterior.predict_tiles(&at(&x), 0, |_, _| Ok(())), &["tile_size"]);
        assert_eq!(posterior.predict(&at(&[])).unwrap().shape, [1, 0, 1]);
        // A receiver may stop.
        let stop = || Error::Config { message: "enough".into() };
        refused(posterior.predict_tiles(&at(&x), 1, |_, _| Err(stop())), &["enough"]);
    }
}

/// A safetensors file with this header and this much data.
fn file(header: &str, n_bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; n_bytes]].concat()
}

#[test]
fn hostile_files() {
    let good = std::fs::read(CHECKPOINT).unwrap();
    for length in [0, 1, 7, 8, 9, 100, 1000, good.len() / 2, good.len() - 1] {
        refused(Checkpoint::from_bytes(&good[..length]), &["not a readable checkpoint"]);
    }
    // A header of 4 GiB, of more than memory, and of the largest number.
    for length in [4u64 << 30, 1 << 50, u64::MAX] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b'{'; 100]);
        refused(Checkpoint::from_bytes(&bytes), &["not a readable checkpoint"]);
    }
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    assert!(Checkpoint::from_bytes(&file(&tensor("F32", "[2]", "[0,8]"), 8)).is_ok());
    for (header, n_bytes) in [
        (tensor("F32", "[2]", "[0,8]"), 4),
        (tensor("F32", "[3]", "[0,8]"), 8),
        (tensor("F32", "[2]", "[8,0]"), 8),
        (tensor("F32", "[4611686018427387904,4]", "[0,8]"), 8),
        (tensor("F32", "[18446744073709551615]", "[0,8]"), 8),
        (tensor("I32", "[2]", "[0,8]"), 8),
        (tensor("F99", "[2]", "[0,8]"), 8),
        ("{".into(), 8),
        ("[]".into(), 0),
        ("\u{0}".into(), 0),
    ] {
        refused(Checkpoint::from_bytes(&file(&header, n_bytes)), &["not a readable checkpoint"]);
    }
    let mut nan = file(&tensor("F32", "[2]", "[0,8]"), 0);
    nan.extend([0.0f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat());
    refused(Checkpoint::from_bytes(&nan), &["parameter a", "[1]", "NaN"]);
    refused(Checkpoint::open("does/not/exist.safetensors"), &["does/not/exist.safetensors"]);
}

#[test]
fn parameters_that_do_not_fit() {
    let device = Device::cpu();
    let checkpoint = Checkpoint::open(CHECKPOINT).unwrap();
    let config: Config = serde_json::from_str(checkpoint.metadata("config").unwrap()).unwrap();
    assert!(TnpKr::new(&device, &config, &checkpoint).is_ok());
    refused(checkpoint.metadata("colour"), &["colour", "config"]);

    let mut extra = checkpoint.clone();
    extra.insert("KRBlock_0.surprise", &[1], vec![0.0]).unwrap();
    refused(TnpKr::new(&device, &config, &extra), &["KRBlock_0.surprise", "1 parameter"]);
    refused(extra.insert("b", &[2], vec![0.0]), &["[2]", "1"]);
    let mut misshapen = checkpoint.clone();
    misshapen.insert("KRBlock_3.attn.attn.s_bias_b", &[4, 4], vec![0.0; 16]).unwrap();
    refused(TnpKr::new(&device, &config, &misshapen), &["KRBlock_3.attn.attn.s_bias_b", "[4, 4]", "[4, 5]"]);
    refused(TnpKr::new(&device, &config, &Checkpoint::default()), &["embed_obs.embedding", "missing", "[2, 4]"]);
    let deeper = Config { n_blocks: 7, ..config.clone() };
    refused(TnpKr::new(&device, &deeper, &checkpoint), &["KRBlock_6.", "missing"]);
    let shallower = Config { n_blocks: 5, ..config.clone() };
    refused(TnpKr::new(&device, &shallower, &checkpoint), &["KRBlock_5.", "does not use"]);

    refused(TnpKr::new(&device, &Config { n_blocks: 0, ..config.clone() }, &checkpoint), &["n_blocks", "1 or more"]);
    let mut other = config.clone();
    other.head.dims = vec![64, 3];
    refused(TnpKr::new(&device, &other, &checkpoint), &["head ends in width 3", "2"]);
    other = config.clone();
    other.ffn.dims = vec![];
    refused(TnpKr::new(&device, &other, &checkpoint), &["ffn.dims", "one or more"]);
    other = config.clone();
    other.groups[0].embed = true;
    refused(TnpKr::new(&device, &other, &checkpoint), &["\"s\"", "dim"]);
    other = config.clone();
    other.groups.push(other.groups[0].clone());
    refused(TnpKr::new(&device, &other, &checkpoint), &["\"s\"", "twice"]);
    let linear = Config::performer(2, 1);
    assert!(linear.check().is_ok());
    other = linear.clone();
    other.groups[0].embed = false;
    refused(other.check(), &["\"s\"", "not embedded"]);
    other = linear.clone();
    other.groups[0].bias = config.groups[0].bias.clone();
    refused(other.check(), &["\"s\"", "only scan attention"]);
    other = Config::deep_kernel(2, 1);
    other.groups[0].name = "x".into();
    refused(other.check(), &["\"s\"", "dim"]);
    for n_heads in [0, 3] {
        other = Config::deep_kernel(2, 1);
        other.attention = match other.attention {
            AttentionConfig::DeepKernel { proj_qks, proj_vs, .. } => {
                AttentionConfig::DeepKernel { n_heads, proj_qks, proj_vs }
            }
            _ => unreachable!(),
        };
        refused(other.check(), &["heads", "multiples"]);
        refused(checkpoint.load(&device, |parameters| KrBlock::load(parameters, &other)), &["multiples"]);
    }
    for text in ["{}", "null", r#"{"n_blocks": -1}"#, &serde_json::to_string(&config).unwrap().replace("rbf", "cubic")]
    {
        assert!(serde_json::from_str::<Config>(text).is_err());
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
        .args(["--exact", "without_any_adapter"])
        .env(HIDDEN, "1")
        .env("VK_DRIVER_FILES", "/dev/null")
        .env("VK_ICD_FILENAMES", "/dev/null")
        .status();
    assert!(status.unwrap().success());
}
