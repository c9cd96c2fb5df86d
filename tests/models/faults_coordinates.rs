//! Faults of coordinates and of predictions, each by its number.

use crate::support::{CHECKPOINT, devices, parameters, refused};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Output,
        cmanp::{self, Cmanp},
        nam::{Classifier, ClassifierType, LsamAe, LsamAeConfig, NamTmAe, NamTransformer},
        tnp_kr::{BiasConfig, Config, Context, GroupConfig, Locations, TnpKr},
    },
    ops::{BiasKernel, Distance},
};

fn small(config: Config) -> Config {
    Config { n_blocks: 1, ..config }
}

/// Space by an RBF bias, and a group of one more distance.
fn with_group(name: &str, dim: usize, distance: Distance, kernel: BiasKernel) -> Config {
    let bias = BiasConfig { kernel, distance, n_basis: 1 };
    let mut config = small(Config::scan(1));
    config.groups =
        vec![GroupConfig { name: name.into(), dim: Some(dim), embed: false, bias: Some(bias), category: None }];
    config
}

/// Fault F3: a fill value among the coordinates made every prediction NaN, with `Ok`.
#[test]
fn f3_fill_values_are_refused_and_named() {
    let y = [0.1, 0.2, 0.3];
    for (_, device) in devices() {
        for config in [Config::deep_kernel(1, 1), Config::performer(1, 1), Config::scan(1)] {
            let model = TnpKr::random(&device, &small(config), 1).unwrap();
            for fill in [9.96921e36f32, -9.96921e36, 1e20, f32::MAX] {
                let x = [0.0, 1.0, fill];
                refused(model.condition(&Context::new(Locations::space(1, &x), &y)), &["point 2", "\"s\"", "fill"]);
                let masked = Context::new(Locations::space(1, &x), &y).mask(&[true, true, false]);
                let posterior = model.condition(&masked).unwrap();
                assert!(posterior.predict(&Locations::space(1, &[0.5])).unwrap().mean()[0].is_finite());
                refused(posterior.predict(&Locations::space(1, &x)), &["point 2", "fill"]);
            }
            refused(model.condition(&Context::new(Locations::space(1, &[0.0, 1e300, 0.0]), &y)), &["point 1", "1e18"]);
            for two in [[0.0, 9.96921e36], [0.0, -9.96921e36]] {
                refused(model.condition(&Context::new(Locations::space(1, &two), &y[..2])), &["point 1", "fill"]);
            }
            let nan = [0.0, 1.0, f64::NAN];
            refused(model.condition(&Context::new(Locations::space(1, &nan), &y)), &["point 2", "\"s\"[2]", "NaN"]);
        }
    }
    let model = Cmanp::open(&Device::cpu(), CMANP).unwrap();
    let x = [0.0, 1.0, 0.0, 9.96921e36, 1.0, 0.0];
    refused(model.condition(&cmanp::Context::new(&x, &y[..2])), &["point 1", "coordinate 0 of x", "fill"]);
    let posterior = model.condition(&cmanp::Context::new(&x[..3], &y[..1])).unwrap();
    refused(posterior.predict(&x), &["point 1", "fill"]);
    refused(posterior.update(&cmanp::Context::new(&x, &y[..2])), &["point 1", "fill"]);
    refused(posterior.predict(&[f64::INFINITY, 0.0, 0.0]), &["x of point 0", "[0]", "inf"]);
}

const CMANP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/checkpoints/cmanp_gp_1d.safetensors");

/// Fault F10: a latitude of 114.06 was taken for one of 65.94 on the other side (12.15 degrees for 23.35).
#[test]
fn f10_latitudes_beyond_the_pole_are_refused() {
    let config = with_group("s", 2, Distance::GreatCircle, BiasKernel::Exponential);
    let model = TnpKr::random(&Device::cpu(), &config, 2).unwrap();
    let context = |x: &[f64; 4]| model.condition(&Context::new(Locations::space(2, x), &[0.1, 0.2]));
    // As (latitude, longitude), where (longitude, latitude) is asked for.
    refused(context(&[22.28, 114.06, 47.37, 8.54]), &["latitude", "114.06", "point 0", "-90 to 90", "(longitude"]);
    refused(context(&[0.0, 0.0, 0.0, -90.01]), &["latitude", "-90.01", "point 1"]);
    let posterior = context(&[114.06, 22.28, 8.54, 90.0]).unwrap();
    refused(posterior.predict(&Locations::space(2, &[0.0, 91.0])), &["latitude", "91"]);
    // The same meridian, however often it is counted around; rounding to f32 is all that differs.
    let at = |x: f64| posterior.predict(&Locations::space(2, &[x, 10.0])).unwrap().mean()[0];
    for turns in [-360.0, 360.0, 36_000.0] {
        assert!((at(12.5) - at(12.5 + turns)).abs() < 1e-5, "{} and {}", at(12.5), at(12.5 + turns));
    }
}

/// Fault F10: shifted by 1e6, 0.097 became 0.126; in unix seconds, everything 0.247.
#[test]
fn f10_coordinates_far_from_zero_are_taken_relative_or_refused() {
    let x: Vec<f64> = (0..40).map(|i| 0.1 * f64::from(i) - 2.0).collect();
    let y: Vec<f32> = x.iter().map(|x| (2.0 * x).sin() as f32).collect();
    let at = [0.03, 0.77, -1.94];
    let shifted = |x: &[f64], by: f64| -> Vec<f64> { x.iter().map(|x| x + by).collect() };
    for (name, device) in devices() {
        let model = TnpKr::open(&device, CHECKPOINT).unwrap();
        let predict = |by: f64| {
            let posterior = model.condition(&Context::new(Locations::space(1, &shifted(&x, by)), &y)).unwrap();
            posterior.predict(&Locations::space(1, &shifted(&at, by))).unwrap()
        };
        let here = predict(0.0);
        for by in [1e6, -1e6, 1.7e9] {
            for (a, b) in here.mean().iter().zip(predict(by).mean()) {
                // f64 holds 1.7e9 to 2e-7, which the network amplifies a little.
                assert!((a - b).abs() < 1e-4, "{name}: {a} and {b} at {by}");
            }
        }
        // What is f32 already has lost its differences before.
        let narrow: Vec<f32> = shifted(&x, 1e6).iter().map(|x| *x as f32).collect();
        refused(model.condition(&Context::new(Locations::space(1, &narrow), &y)), &["a coordinate", "\"s\"", "as f64"]);
        let posterior = model.condition(&Context::new(Locations::space(1, &shifted(&x, 1.7e9)), &y)).unwrap();
        refused(posterior.predict(&Locations::space(1, &[1.7e9f32])), &["a coordinate", "as f64"]);

        // Networks that see the coordinate itself are told the origin.
        let embeds = TnpKr::random(&device, &small(Config::deep_kernel(1, 1)), 3).unwrap();
        let far = shifted(&x, 1e6);
        let context = || Context::new(Locations::space(1, &far), &y);
        refused(embeds.condition(&context()), &["a coordinate", "\"s\"", "origin"]);
        refused(embeds.condition(&context().origin("t", &[0.0])), &["origin", "\"t\""]);
        refused(embeds.condition(&context().origin("s", &[0.0, 0.0])), &["origin", "\"s\""]);
        let posterior = embeds.condition(&context().origin("s", &[1e6])).unwrap();
        let near = embeds.condition(&Context::new(Locations::space(1, &x), &y)).unwrap();
        let restored = embeds.restore(&posterior.to_checkpoint().unwrap()).unwrap();
        let [a, b, c] = [(&posterior, 1e6), (&near, 0.0), (&restored, 1e6)]
            .map(|(posterior, by)| posterior.predict(&Locations::space(1, &shifted(&at, by))).unwrap());
        assert_eq!(a, c, "{name}");
        a.mean().iter().zip(b.mean()).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{name}: {a} and {b}"));
        refused(posterior.merge(&near), &["origin"]);
    }
}

/// Fault F10: of causal time in unix seconds, keys 50 seconds in the future were read.
#[test]
fn f10_causal_time_in_unix_seconds_reads_no_future() {
    let config = with_group("t", 1, Distance::CausalTime, BiasKernel::Rbf);
    let t0 = 1_764_115_200.0;
    let at = |t: &[f64]| t.iter().map(|t| t0 + t).collect::<Vec<f64>>();
    for (name, device) in devices() {
        let model = TnpKr::random(&device, &config, 4).unwrap();
        let t = at(&[0.0, 20.0, 100.0, 150.0]);
        let predict = |y: &[f32], when: f64| {
            let posterior = model.condition(&Context::new(Locations::default().time(&t), y)).unwrap();
            posterior.predict(&Locations::default().time(&at(&[when]))).unwrap().mean()[0]
        };
        // What happens later changes nothing; what happens then does.
        for when in [50.0, 99.0, 20.0] {
            assert_eq!(predict(&[0.1, 0.2, 0.3, 0.4], when), predict(&[0.1, 0.2, 9.0, -9.0], when), "{name}");
        }
        assert_ne!(predict(&[0.1, 0.2, 0.3, 0.4], 100.0), predict(&[0.1, 0.2, 9.0, 0.4], 100.0), "{name}");
        // An hourly record of three years, which f32 holds to four seconds: a second before.
        let hours: Vec<f64> = [0.0, 1.0, 26_279.0, 26_280.0].map(|hour| 3600.0 * hour).to_vec();
        let t = at(&hours);
        let predict = |y: &[f32], when: f64| {
            let posterior = model.condition(&Context::new(Locations::default().time(&t), y)).unwrap();
            let posterior = model.restore(&posterior.to_checkpoint().unwrap()).unwrap();
            posterior.predict(&Locations::default().time(&at(&[when]))).unwrap().mean()[0]
        };
        for when in [1.0, 0.001, 3599.0].map(|before| hours[3] - before) {
            assert_eq!(predict(&[0.1, 0.2, 0.3, 0.4], when), predict(&[0.1, 0.2, 0.3, -9.0], when), "{name}");
            assert_ne!(predict(&[0.1, 0.2, 0.3, 0.4], when), predict(&[0.1, 0.2, 9.0, 0.4], when), "{name}");
        }
        assert_ne!(predict(&[0.1, 0.2, 0.3, 0.4], hours[3]), predict(&[0.1, 0.2, 0.3, -9.0], hours[3]), "{name}");
        // Moments that f32 cannot tell apart, even from the middle of the record.
        let t = [0.0, t0, t0 + 50.0];
        let refused_at = model.condition(&Context::new(Locations::default().time(&t), &[0.1; 3]));
        refused(refused_at, &["a coordinate", "\"t\"", "scale"]);
    }
}

/// Fault F10: a network of points on a line took points of the plane.
#[test]
fn f10_what_lies_outside_of_the_training_is_told() {
    let model = TnpKr::open(&Device::cpu(), CHECKPOINT).unwrap();
    assert_eq!(model.domain().unwrap().coordinates.len(), 1);
    let plane = Context::new(Locations::space(2, &[0.0; 4]), &[0.1, 0.2]);
    refused(model.condition(&plane), &["coordinates of a point", "2", "1, as in training"]);
    let outside = |x: &[f64], y: &[f32], at: f64| {
        let posterior = model.condition(&Context::new(Locations::space(1, x), y)).unwrap();
        let prediction = posterior.predict(&Locations::space(1, &[at])).unwrap();
        let restored = model.restore(&posterior.to_checkpoint().unwrap()).unwrap();
        assert_eq!(restored.predict(&Locations::space(1, &[at])).unwrap(), prediction);
        prediction.outside().to_string()
    };
    let x: Vec<f64> = (0..40).map(|i| 0.1 * f64::from(i)).collect();
    let y: Vec<f32> = x.iter().map(|x| (2.0 * x).sin() as f32).collect();
    assert_eq!(outside(&x, &y, 1.55), "");
    let unix: Vec<f64> = x.iter().map(|x| 1.7e9 + 86_400.0 * x).collect();
    let found = outside(&unix, &y, 1.7e9);
    assert!(found.contains("extent") && found.contains("spacing") && found.contains("in training"), "{found}");
    assert!(outside(&x, &y, 50.0).contains("extent"));
    let pressure: Vec<f32> = y.iter().map(|y| 1013.0 + 5.0 * y).collect();
    let found = outside(&x, &pressure, 1.0);
    assert!(found.contains("the mean of the values is 1013") && found.contains("deviation"), "{found}");
    // Many data sets are told of once.
    let both: (Vec<f64>, Vec<f32>) = ([&x[..], &x].concat(), [&pressure[..], &pressure].concat());
    let context = Context::new(Locations::space(1, &both.0).batch(2), &both.1);
    let found = model.condition(&context).unwrap().predict(&Locations::space(1, &[1.0, 1.0]).batch(2)).unwrap();
    let found = found.outside().to_string();
    assert!(found.matches("mean of the values").count() == 1 && found.contains("in 2 batch elements"), "{found}");
    let tiny: Vec<f32> = y.iter().map(|y| 1e-4 * y).collect();
    assert!(outside(&x, &tiny, 1.0).contains("deviation"));

    // What a stream takes in, and what merges, is compared as if it had come at once.
    let model = Cmanp::open(&Device::cpu(), CMANP).unwrap();
    let points = |t: &[f64]| t.iter().flat_map(|t| [*t, (9.0 * t).cos(), (9.0 * t).sin()]).collect::<Vec<f64>>();
    let t: Vec<f64> = (0..40).map(|i| 0.1 * f64::from(i) - 2.0).collect();
    let read = |t: &[f64], y: &[f32]| model.condition(&cmanp::Context::new(&points(t), y)).unwrap();
    let whole = read(&t, &pressure);
    let updated = read(&t[..7], &pressure[..7]).update(&cmanp::Context::new(&points(&t[7..]), &pressure[7..])).unwrap();
    let merged = read(&t[7..], &pressure[7..]).merge(&read(&t[..7], &pressure[..7])).unwrap();
    for posterior in [whole, updated, merged] {
        let found = posterior.predict(&points(&[0.05])).unwrap().outside().to_string();
        assert!(found.contains("the mean of the values is 1013") && !found.contains("extent"), "{found}");
        let found = posterior.predict(&points(&[9.0])).unwrap().outside().to_string();
        assert!(found.contains("coordinate 0 is 9.0"), "{found}");
    }
    let posterior = read(&t, &y);
    assert!(posterior.predict(&points(&[0.05])).unwrap().outside().is_empty());
}

/// Fault F10: a stream in unix seconds, whose origin the posterior keeps.
#[test]
fn f10_a_stream_keeps_its_origin() {
    let points = |t0: f64, t: &[f64]| t.iter().flat_map(|t| [t0 + t, 1.0, 0.0]).collect::<Vec<f64>>();
    let (first, second, y) = ([-1.0, -0.5], [0.25, 0.5], [0.1, 0.4]);
    let t0 = 1_764_115_200.0;
    for (name, device) in devices() {
        let model = Cmanp::open(&device, CMANP).unwrap();
        let origin = [t0, 0.0, 0.0];
        let far = model.condition(&cmanp::Context::new(&points(t0, &first), &y).origin(&origin)).unwrap();
        let far = model.restore(&far.to_checkpoint().unwrap()).unwrap();
        let far = far.update(&cmanp::Context::new(&points(t0, &second), &y)).unwrap();
        let near = model.condition(&cmanp::Context::new(&points(0.0, &first), &y)).unwrap();
        let near = near.update(&cmanp::Context::new(&points(0.0, &second), &y)).unwrap();
        let [a, b] = [(&far, t0), (&near, 0.0)].map(|(p, t0)| p.predict(&points(t0, &[0.75])).unwrap());
        assert_eq!((a.mean(), a.std()), (b.mean(), b.std()), "{name}");
        let other = cmanp::Context::new(&[0.0; 3], &y[..1]).origin(&[1.0, 0.0, 0.0]);
        refused(far.update(&other), &["origin", "that of the posterior"]);
        refused(far.merge(&near), &["origin"]);
        refused(model.condition(&cmanp::Context::new(&[0.0; 3], &y[..1]).origin(&[1.0])), &["origin", "3 finite"]);
        let lost = model.condition(&cmanp::Context::new(&points(t0, &first), &y));
        refused(lost, &["a coordinate", "coordinate 0 of x", "origin"]);
        // And where it predicts: without an origin two moments are the same to the network.
        refused(near.predict(&points(t0, &[0.75])), &["a coordinate", "coordinate 0 of x", "origin"]);
        refused(far.predict(&points(0.0, &[0.75])), &["a coordinate", "coordinate 0 of x"]);
    }
}

/// Fault R3: a model whose weights overflow predicted NaN with `Ok`.
#[test]
fn r3_predictions_that_are_not_finite_are_errors() {
    let huge = |_: &str, shape: &[usize]| vec![1e30; shape.iter().product()];
    for (_, device) in devices() {
        for config in [Config::scan(1), Config::deep_kernel(1, 1), Config::performer(1, 1)].map(small) {
            let (model, _) = parameters(|checkpoint| TnpKr::new(&device, &config, checkpoint), huge);
            let posterior = model.condition(&Context::new(Locations::space(1, &[0.0, 1.0]), &[1.0, 2.0])).unwrap();
            let at = Locations::space(1, &[0.5, 0.6]);
            refused(posterior.predict(&at), &["the network's output", "point 0", "overflow"]);
            refused(posterior.predict_tiles(&at, 1, |_, _| panic!("a tile")), &["point 0"]);
            refused(pollster::block_on(posterior.predict_async(&at)), &["point 0"]);
        }
        let text = r#"{"dim_x": 1, "dim_y": 1, "d_model": 8, "dim_feedforward": 8, "n_heads": 2, "n_latents": 3,
            "n_latents_per_layer": 4, "n_layers": 1, "emb_depth": 2, "bound_std": false}"#;
        let config: cmanp::Config = serde_json::from_str(text).unwrap();
        let (model, _) = parameters(|checkpoint| Cmanp::new(&device, &config, checkpoint), huge);
        let posterior = model.condition(&cmanp::Context::new(&[0.0, 1.0], &[1.0, 2.0])).unwrap();
        refused(posterior.predict(&[0.5]), &["point 0", "overflow"]);
        refused(pollster::block_on(posterior.predict_async(&[0.5])), &["point 0", "overflow"]);

        let config = LsamAeConfig { vocab_size: 3, d_model: 8, n_heads: 2, dim_feedforward: 4 };
        let (model, _) = parameters(|checkpoint| LsamAe::new(&device, &config, checkpoint), huge);
        refused(model.predict(1, &[0, 1]), &["the logits", "overflow"]);
        let text = r#"{"dim": 8, "vocab_size": 3, "n_heads": 2, "mem_size": 4, "tape_length": 4}"#;
        let config = serde_json::from_str(text).unwrap();
        let (model, _) = parameters(|checkpoint| NamTmAe::new(&device, &config, checkpoint), huge);
        refused(model.predict(1, &[0, 1]), &["the logits", "overflow"]);
        let text =
            r#"{"vocab":5,"max_len":3,"emb":4,"qkv":8,"mlp":4,"heads":4,"layers":1,"classes":2,"learn_pos":false}"#;
        let config = serde_json::from_str(text).unwrap();
        let (model, _) = parameters(|checkpoint| NamTransformer::new(&device, &config, checkpoint), huge);
        refused(model.predict(1, &[0, 1]), &["the logits", "overflow"]);
        let tensor = |shape: &[usize], x: f32| wgpu_attention::Tensor::new(&device, shape, &[x; 2]).unwrap();
        let (weights, classifier_type) = (tensor(&[1, 1, 2], 1e30), ClassifierType::DotProduct);
        let classifier = Classifier { weights, scale: 1.0, bias: 0.0, classifier_type };
        refused(classifier.predict(&tensor(&[1, 1, 2], 1e30)), &["the scores", "point 0", "overflow"]);
    }
}

/// Newcomers' reports: which input has how many.
#[test]
fn f11_sizes_that_differ_are_named() {
    let model = TnpKr::open(&Device::cpu(), CHECKPOINT).unwrap();
    let context = Context::new(Locations::space(1, &[0.0, 1.0]), &[0.5]);
    refused(model.condition(&context), &["2 points of \"s\"", "values of 1"]);
    let context = Context::new(Locations::space(1, &[0.0; 4]).batch(3), &[0.5; 4]);
    refused(model.condition(&context), &["the length of values", "3 batch elements"]);
    let model = Cmanp::open(&Device::cpu(), CMANP).unwrap();
    refused(model.condition(&cmanp::Context::new(&[0.0; 6], &[0.5])), &["x has 2 points", "y has 1"]);
}

/// Fault C6: Beta and zero-inflated Poisson outputs were read as Gaussian.
#[test]
fn c6_outputs_are_read_as_what_they_are_or_refused_by_name() {
    use serde_json::json;
    let mlp = |dims: &[usize]| json!({"dims": dims});
    let attention =
        json!({"_target_": "dl4bi.attention.DeepKernelAttention", "proj_qks": mlp(&[8]), "proj_vs": mlp(&[8])});
    let model = |output: serde_json::Value, n_parameters: usize| {
        let block = json!({"attn": attention, "ffn": mlp(&[8])});
        let model = json!({"num_blks": 1, "embed_all": mlp(&[8]), "blk": block, "head": mlp(&[n_parameters]), "output_fn": output});
        Config::from_dl4bi(&model, 1, &[("s", 1)])
    };
    let named = |class: &str| json!({"_target_": format!("dl4bi.core.model_output.{class}"), "_partial_": true});
    assert!(model(json!(null), 2).is_ok());
    assert!(model(named("DiagonalMVNOutput.from_activations"), 2).is_ok());
    for (class, output, n_parameters) in [
        ("BetaOutput", Output::Beta, 2),
        ("ZeroInflatedPoissonOutput", Output::ZeroInflatedPoisson, 2),
        ("PoissonOutput", Output::Poisson, 1),
        ("MultinomialOutput", Output::Categorical, 1),
    ] {
        let found = model(named(&format!("{class}.from_activations")), n_parameters).unwrap().output;
        assert_eq!(found, output, "{class}");
        refused(model(named(&format!("{class}.from_activations")), 3 - n_parameters), &["head", output.name()]);
    }
    let model = |output| model(output, 2);
    for class in ["ZIPOutput", "MDNOutput", "TrilMVNOutput", "LowRankMVNOutput", "Multinomial"] {
        refused(model(named(&format!("{class}.from_activations"))), &["output_fn", class]);
    }
    refused(model(named("DiagonalMVNOutput.from_latents")), &["output_fn", "from_latents"]);
    let mut output = named("DiagonalMVNOutput.from_activations");
    output["max_std"] = json!(1.0);
    refused(model(output), &["max_std"]);
    refused(model(json!({"min_std": 0.1})), &["output_fn"]);
}

/// Fault R9: tapes of 2^20 slots took 1.4 GB.
#[test]
fn r9_tapes_have_a_stated_size() {
    let text = r#"{"dim": 64, "vocab_size": 12, "n_heads": 4, "mem_size": 16, "tape_length": 1048576}"#;
    let config = serde_json::from_str(text).unwrap();
    refused(NamTmAe::new(&Device::cpu(), &config, &Checkpoint::default()), &["tape_length 1048576", "4194304"]);
}
