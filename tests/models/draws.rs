//! Whole functions: drawn one point after another, and how likely they are.

use crate::support::{CHECKPOINT, Random, devices, refused};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Output, Prediction,
        cmanp::{self, Cmanp, CovarianceConfig, CovarianceKind},
        layers::MlpConfig,
        tnp_kr::{Config, Context, Locations, TnpKr},
    },
    ops::Activation,
};

const CMANP: &str = "checkpoints/cmanp_gp_1d.safetensors";

/// Means and covariances of two values, `[m1, m2, v1, v12, v2]`.
fn moments(pairs: impl Iterator<Item = [f64; 2]> + Clone) -> [f64; 5] {
    let n = pairs.clone().count() as f64;
    let mean = |of: &dyn Fn([f64; 2]) -> f64| pairs.clone().map(of).sum::<f64>() / n;
    let (a, b) = (mean(&|y| y[0]), mean(&|y| y[1]));
    let covariance = [(0, 0), (0, 1), (1, 1)].map(|(i, j)| mean(&|y| (y[i] - [a, b][i]) * (y[j] - [a, b][j])));
    [a, b, covariance[0], covariance[1], covariance[2]]
}

/// What two points' predictions imply, the second given the first at its quantiles.
fn implied(first: &Prediction, second: impl Fn(f32) -> Prediction) -> [f64; 5] {
    let n = 200;
    let y1: Vec<f64> = (0..n).map(|i| first.quantile((f64::from(i) + 0.5) / f64::from(n)).unwrap()[0]).collect();
    let given: Vec<[f64; 2]> = y1
        .iter()
        .map(|y| {
            let prediction = second(*y as f32);
            [prediction.mean()[0], prediction.std()[0]].map(f64::from)
        })
        .collect();
    let [m1, m2, v1, v12, of_means] = moments(y1.iter().zip(&given).map(|(y, given)| [*y, given[0]]));
    let within = given.iter().map(|given| given[1].powi(2)).sum::<f64>() / f64::from(n);
    [m1, m2, v1, v12, of_means + within]
}

fn assert_implied(drawn: &[f32], implied: [f64; 5], what: &str) {
    let n = (drawn.len() / 2) as f64;
    let found = moments(drawn.chunks(2).map(|y| [f64::from(y[0]), f64::from(y[1])]));
    let [_, _, v1, _, v2] = implied;
    // Five standard deviations of averages of so many, were they normal, and what 200 quantiles are off by.
    let allowed = [v1.sqrt(), v2.sqrt(), v1 * 2f64.sqrt(), (2.0 * v1 * v2).sqrt(), v2 * 2f64.sqrt()];
    for i in 0..5 {
        let off = (found[i] - implied[i]).abs();
        assert!(off <= 6.0 * allowed[i] / n.sqrt() + 0.01 * allowed[i], "{what}: {found:?} for {implied:?}");
    }
    assert!(implied[3].abs() > 0.2 * (v1 * v2).sqrt(), "{what}: the points have nothing to do with each other");
}

#[test]
fn draws_of_trained_networks_have_the_covariance_that_is_implied() {
    let device = Device::cpu();
    let model = TnpKr::open(&device, CHECKPOINT).unwrap();
    let context = |more: Option<&f32>| {
        (vec![-1.0f32, 1.0, 0.4], [&[0.3f32, 0.5][..], more.map_or(&[], std::slice::from_ref)].concat())
    };
    let condition = |more: Option<&f32>| {
        let (x, y) = context(more);
        model.condition(&Context::new(Locations::space(1, &x[..y.len()]), &y)).unwrap()
    };
    let (x, y) = context(None);
    let context = Context::new(Locations::space(1, &x[..2]), &y);
    let drawn = model.draws(&context, &Locations::space(1, &[0.4, 0.55]), 3, 10_000).unwrap();
    let first = condition(None).predict(&Locations::space(1, &[0.4])).unwrap();
    let second = |y: f32| condition(Some(&y)).predict(&Locations::space(1, &[0.55])).unwrap();
    assert_implied(&drawn, implied(&first, second), "TNP-KR");

    let model = Cmanp::open(&device, CMANP).unwrap();
    let posterior = model.condition(&cmanp::Context::new(&[-1.0, 1.0, 0.0, 1.0, 0.0, 1.0], &[0.3, 0.5])).unwrap();
    let (a, b) = ([0.4, 0.8, 0.6], [0.45, 0.7, 0.7]);
    // Fewer, of a network whose every draw makes its latents again.
    let drawn = posterior.draws(&[a, b].concat(), 3, 2000).unwrap();
    let first = posterior.predict(&a).unwrap();
    let second = |y: f32| posterior.update(&cmanp::Context::new(&a, &[y])).unwrap().predict(&b).unwrap();
    assert_implied(&drawn, implied(&first, second), "CMANP");
}

#[test]
fn one_block_draws_each_point_by_itself_and_any_draw_is_the_same_alone() {
    for (name, device) in devices() {
        let model = Cmanp::open(&device, CMANP).unwrap();
        let posterior = model.condition(&cmanp::Context::new(&[-1.0, 1.0, 0.0], &[0.3])).unwrap();
        let x = [-0.5f64, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5, 0.0, -1.0, 1.0, -1.0, 0.0];
        let prediction = posterior.predict(&x).unwrap();
        let alone: Vec<f32> = prediction.sample(9, 3).unwrap().into_iter().map(|y| y as f32).collect();
        assert_eq!(posterior.draws_in_blocks(&x, 9, 3, 4).unwrap(), alone, "{name}");
        let many = posterior.draws(&x, 9, 5).unwrap();
        assert_eq!(many.len(), 5 * 4);
        for (a, b) in many[..4].iter().zip(&posterior.draws(&x, 9, 1).unwrap()) {
            assert!((a - b).abs() < 1e-3, "{name}: {a} and {b}");
        }
        assert!((many[0] - alone[0]).abs() < 1e-5, "{name}: the first point has nothing before it");
        assert_ne!(many, posterior.draws(&x, 10, 5).unwrap());
        // Two data sets, the first of which is that of before.
        let twice =
            model.condition(&cmanp::Context::new(&[-1.0, 1.0, 0.0, 0.0, 1.0, 0.0], &[0.3, 1.0]).batch(2)).unwrap();
        let both = twice.draws(&[x, x].concat(), 9, 5).unwrap();
        for (draw, of_both) in both.chunks(8).enumerate() {
            for (a, b) in of_both[..4].iter().zip(&many[draw * 4..]) {
                assert!((a - b).abs() < 1e-3, "{name}: {a} and {b}");
            }
            assert_ne!(of_both[..4], of_both[4..]);
        }
        assert!(posterior.draws(&x, 9, 0).unwrap().is_empty());
        assert!(posterior.draws(&[0.0; 0], 9, 3).unwrap().is_empty());
        refused(posterior.draws_in_blocks(&x, 9, 3, 0), &["block is 0"]);
        refused(posterior.draws(&x[..2], 9, 3), &["length of x"]);
        refused(posterior.draws(&[f64::NAN, 0.0, 0.0], 9, 3), &["NaN"]);
    }
}

#[test]
fn draws_are_the_same_on_every_device() {
    let x: Vec<f64> =
        (0..8).flat_map(|i| [f64::from(i) * 0.2 - 0.8, (f64::from(i)).cos(), (f64::from(i)).sin()]).collect();
    let run = |device: &Device| {
        let model = Cmanp::open(device, CMANP).unwrap();
        let posterior = model.condition(&cmanp::Context::new(&[-1.0, 1.0, 0.0], &[0.3])).unwrap();
        let model = TnpKr::open(device, CHECKPOINT).unwrap();
        let context = Context::new(Locations::space(1, &[-1.0, 1.0]), &[0.3, 0.5]);
        let functions = model.draws_in_blocks(&context, &Locations::space(1, &x[..6]), 1, 3, 2).unwrap();
        [posterior.draws(&x, 1, 3).unwrap(), functions].concat()
    };
    let expected = run(&Device::cpu());
    for (name, device) in devices() {
        for (a, b) in run(&device).iter().zip(&expected) {
            assert!((a - b).abs() < 2e-3 * (1.0 + b.abs()), "{name}: {a} and {b}");
        }
    }
}

fn joint(kind: CovarianceKind) -> cmanp::Config {
    cmanp::Config {
        dim_x: 1,
        dim_y: 2,
        d_model: 8,
        dim_feedforward: 8,
        n_heads: 2,
        n_latents: 4,
        n_latents_per_layer: Some(4),
        n_layers: 2,
        emb_depth: 2,
        bound_std: true,
        covariance: Some(CovarianceConfig { kind, n_layers: 1, prj_dim: 3, prj_depth: 2, diag_depth: 2 }),
    }
}

#[test]
fn joint_and_autoregressive_draws_agree_where_they_should() {
    for kind in [CovarianceKind::Cholesky, CovarianceKind::LowRank] {
        let config = joint(kind);
        let checkpoint = Checkpoint::random(5, |checkpoint| Cmanp::new(&Device::cpu(), &config, checkpoint)).unwrap();
        for (name, device) in devices() {
            let model = Cmanp::new(&device, &config, &checkpoint).unwrap();
            let posterior = model.condition(&cmanp::Context::new(&[0.1, 0.5], &[0.3, 0.1, -0.2, 0.5])).unwrap();
            let x = [-0.5, 0.0, 0.7];
            let together = &posterior.predict_joint(&x).unwrap()[0];
            let drawn: Vec<f32> = together.sample(4, 20).unwrap().into_iter().map(|y| y as f32).collect();
            assert_eq!(posterior.draws_in_blocks(&x, 4, 20, 3).unwrap(), drawn, "{name}, {kind:?}");
            assert_eq!(posterior.draws_in_blocks(&x, 4, 20, 9).unwrap(), drawn, "{name}, {kind:?}");
            // The first of two blocks is drawn as if it were all.
            let blocks = posterior.draws_in_blocks(&x, 4, 20, 2).unwrap();
            let first: Vec<f32> =
                posterior.predict_joint(&x[..2]).unwrap()[0].sample(4, 20).unwrap().iter().map(|y| *y as f32).collect();
            let of_blocks: Vec<f32> = blocks.chunks(6).flat_map(|draw| &draw[..4]).copied().collect();
            assert_eq!(of_blocks, first, "{name}, {kind:?}");
            let y = &blocks[..6];
            let evaluation = posterior.evaluate(&x, y, 2).unwrap();
            let then = posterior.update(&cmanp::Context::new(&x[..2], &y[..4])).unwrap();
            let sum = posterior.predict_joint(&x[..2]).unwrap()[0].log_density(&y[..4]).unwrap()
                + then.predict_joint(&x[2..]).unwrap()[0].log_density(&y[4..]).unwrap();
            assert!((evaluation.log_density_joint()[0] - sum).abs() < 1e-9, "{name}, {kind:?}");
            assert!((evaluation.per_target[0] - sum / 3.0).abs() < 1e-9);
        }
    }
}

/// Of each block what is predicted once the true values of those before it are observed.
#[test]
fn points_are_as_likely_as_one_block_after_another() {
    let (x, y, at, then) = ([-1.0, 0.5], [0.3, -0.4], [-0.4, -0.3, 0.9], [0.9, -1.0, 0.2]);
    for (name, device) in devices() {
        let model = TnpKr::open(&device, CHECKPOINT).unwrap();
        let all = |block: usize| {
            let context = Context::new(Locations::space(1, &x), &y);
            model.evaluate(&context, &Locations::space(1, &at), &then, block).unwrap().log_density_joint()[0]
        };
        for block in [1, 2, 3] {
            let sum: f64 = (0..3)
                .step_by(block)
                .map(|start| {
                    let [x, y] = [[&x[..], &at[..start]].concat(), [&y[..], &then[..start]].concat()];
                    let points = start..3.min(start + block);
                    let posterior = model.condition(&Context::new(Locations::space(1, &x), &y)).unwrap();
                    let prediction = posterior.predict(&Locations::space(1, &at[points.clone()])).unwrap();
                    prediction.log_density(&then[points]).unwrap().iter().sum::<f64>()
                })
                .sum();
            // The same kernels, in tiles of other sizes.
            let found = all(block);
            assert!((found - sum).abs() < 1e-4 * (1.0 + sum.abs()), "{name}, blocks of {block}: {found}, not {sum}");
        }
        // Two values that do not go together, side by side.
        assert!(all(1) < all(3) - 1.0, "{name}: {} and {}", all(1), all(3));
    }
}

/// Each data set of a batch is told of its own.
#[test]
fn joint_predictions_say_what_lies_outside_of_the_training() {
    let config = joint(CovarianceKind::LowRank);
    let random = Checkpoint::random(5, |checkpoint| Cmanp::new(&Device::cpu(), &config, checkpoint));
    let mut checkpoint = random.unwrap();
    checkpoint.set_metadata("domain", r#"{"coordinates": [{"extent": 2.0, "position": [-1.0, 1.0]}]}"#);
    let model = Cmanp::new(&Device::cpu(), &config, &checkpoint).unwrap();
    let context = cmanp::Context::new(&[0.1, 0.5, 0.1, 0.5], &[0.2; 8]).batch(2);
    let joint = model.condition(&context).unwrap().predict_joint(&[0.3, 0.4, 0.3, 9.0]).unwrap();
    assert!(joint[0].outside().is_empty(), "{}", joint[0].outside());
    let said = joint[1].outside().to_string();
    assert!(said.contains("coordinate 0 is 9.0") && said.contains("batch element 0"), "{said}");
    // A range that ends before it begins holds nothing.
    for bad in [r#"{"extent": -4.0}"#, r#"{"extent": 1.0, "position": [1.0, -1.0]}"#] {
        checkpoint.set_metadata("domain", format!(r#"{{"coordinates": [{bad}]}}"#));
        refused(Cmanp::new(&Device::cpu(), &config, &checkpoint), &["domain", "a range is from", "allowed"]);
    }
}

fn small(output: Output, n_values: usize) -> Config {
    let head = MlpConfig { dims: vec![8, output.n_parameters(n_values)], activation: Activation::GeluTanh };
    Config { n_blocks: 2, output, head, ..Config::performer(1, n_values) }
}

#[test]
fn every_family_draws_what_it_can_observe_and_says_how_likely_it_is() {
    let mut random = Random::new(8);
    for (output, n_values) in [
        (Output::Categorical, 3),
        (Output::Bernoulli, 2),
        (Output::Poisson, 1),
        (Output::ZeroInflatedPoisson, 1),
        (Output::NegativeBinomial, 2),
        (Output::Beta, 1),
        (Output::GaussianLogStd, 2),
    ] {
        let config = small(output, n_values);
        let checkpoint = Checkpoint::random(3, |checkpoint| TnpKr::new(&Device::cpu(), &config, checkpoint)).unwrap();
        let model = TnpKr::new(&Device::cpu(), &config, &checkpoint).unwrap();
        let observed = match output {
            Output::Categorical => vec![0.0, 1.0, 0.0, 1.0, 0.0, 0.0],
            Output::Beta => vec![0.25, 0.5],
            _ => vec![1.0; 2 * n_values],
        };
        let context = Context::new(Locations::space(1, &[-0.5, 0.5]), &observed);
        let at: Vec<f32> = random.scaled(4, 1.0);
        let locations = Locations::space(1, &at);
        let n = 6;
        let drawn = model.draws(&context, &locations, 2, n).unwrap();
        assert_eq!(drawn.len(), n * 4 * n_values, "{output:?}");
        let prediction = model.condition(&context).unwrap().predict(&locations).unwrap();
        for draw in drawn.chunks(4 * n_values) {
            // Draws can be observed: they have densities, one by one and together.
            prediction.log_density(draw).unwrap();
            let evaluation = model.evaluate(&context, &locations, draw, 1).unwrap();
            assert!(evaluation.log_density_joint()[0].is_finite(), "{output:?}");
            assert_eq!((evaluation.log_densities.len(), evaluation.mean.len()), (4, 4 * n_values));
        }
        let draw = &drawn[..4 * n_values];
        let each: f64 = prediction.log_density(draw).unwrap().iter().sum();
        let together = model.evaluate(&context, &locations, draw, 4).unwrap().log_density_joint()[0];
        assert!((each - together).abs() < 1e-9, "{output:?}: {each} and {together}");
        assert_eq!(model.draws_in_blocks(&context, &locations, 2, n, 4).unwrap().len(), drawn.len());
        assert!(model.draws(&context, &locations, 2, 0).unwrap().is_empty());
        assert!(model.draws(&context, &Locations::space(1, &[0.0; 0]), 2, 3).unwrap().is_empty());
        refused(model.draws_in_blocks(&context, &locations, 2, n, 0), &["block is 0"]);
        refused(model.evaluate(&context, &locations, &draw[1..], 1), &["holds"]);
        if output != Output::GaussianLogStd {
            let wrong = vec![-0.5; 2 * n_values];
            let wrong = Context::new(Locations::space(1, &[-0.5, 0.5]), &wrong);
            refused(model.condition(&wrong), &["observation", "point 0", output.name()]);
        }
    }
}

#[test]
fn data_sets_of_a_batch_are_drawn_as_if_alone() {
    let config = small(Output::GaussianLogStd, 1);
    let checkpoint = Checkpoint::random(3, |checkpoint| TnpKr::new(&Device::cpu(), &config, checkpoint)).unwrap();
    for (name, device) in devices() {
        let model = TnpKr::new(&device, &config, &checkpoint).unwrap();
        // Of three points and of two.
        let (x, y) = ([-0.5, 0.0, 0.5, -0.5, 0.25, f32::NAN], [0.1, 0.2, 0.3, 1.0, 2.0, f32::NAN]);
        let keep = [true, true, true, true, true, false];
        let both = Context::new(Locations::space(1, &x).batch(2), &y).mask(&keep);
        let at = [0.1, 0.7, 0.9, 0.2, 0.3, 0.4];
        let of_both = model.draws_in_blocks(&both, &Locations::space(1, &at).batch(2), 5, 4, 2).unwrap();
        let alone = Context::new(Locations::space(1, &x[..3]), &y[..3]).mask(&keep[..3]);
        let of_first = model.draws_in_blocks(&alone, &Locations::space(1, &at[..3]), 5, 4, 2).unwrap();
        for (draw, of_both) in of_both.chunks(6).enumerate() {
            for (a, b) in of_both[..3].iter().zip(&of_first[draw * 3..]) {
                assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{name}: {a} and {b}");
            }
        }
        let values: Vec<f32> = of_both[..6].to_vec();
        let evaluation = model.evaluate(&both, &Locations::space(1, &at).batch(2), &values, 2).unwrap();
        let first = model.evaluate(&alone, &Locations::space(1, &at[..3]), &values[..3], 2).unwrap();
        let [a, b] = [evaluation.log_density_joint()[0], first.log_density_joint()[0]];
        assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{name}: {a} and {b}");
    }
}
