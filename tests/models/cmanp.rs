//! Properties of the whole model, with random parameters.

use crate::support::{Random, assert_predicted, devices, parameters};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Prediction,
        cmanp::{Cmanp, Config, Context, CovarianceConfig, CovarianceKind, Posterior},
    },
    ops::scan_attention::MASKED,
};

/// A small CMANP with several channels.
fn config() -> Config {
    Config {
        dim_x: 2,
        dim_y: 3,
        d_model: 12,
        dim_feedforward: 16,
        n_heads: 2,
        n_latents: 7,
        n_latents_per_layer: Some(5),
        n_layers: 2,
        emb_depth: 3,
        bound_std: true,
        covariance: None,
    }
}

fn joint(kind: CovarianceKind) -> Config {
    let covariance = CovarianceConfig { kind, n_layers: 2, prj_dim: 4, prj_depth: 2, diag_depth: 3 };
    // Drawn parameters make triangles of P P^T that are far from well conditioned.
    Config { bound_std: kind == CovarianceKind::Cholesky, covariance: Some(covariance), ..config() }
}

fn random_checkpoint(config: &Config, seed: u64) -> Checkpoint {
    let mut random = Random::new(seed);
    parameters(|checkpoint| Cmanp::new(&Device::cpu(), config, checkpoint), |_, shape| random.layer(shape, 2.0)).1
}

struct Data {
    x: Vec<f32>,
    y: Vec<f32>,
}

fn data(random: &mut Random, n: usize) -> Data {
    Data { x: random.scaled(2 * n, 2.0), y: random.numbers(3 * n) }
}

impl Data {
    fn context(&self) -> Context<'_> {
        Context::new(&self.x, &self.y)
    }

    fn pick(&self, points: &[usize]) -> Self {
        let of = |data: &[f32], dim: usize| -> Vec<f32> {
            points.iter().flat_map(|i| &data[i * dim..][..dim]).copied().collect()
        };
        Self { x: of(&self.x, 2), y: of(&self.y, 3) }
    }
}

fn bits(prediction: &Prediction) -> Vec<u32> {
    prediction.mean().iter().chain(prediction.std()).map(|x| x.to_bits()).collect()
}

#[test]
fn updates_of_any_size_and_order_are_one_condition() {
    let (config, mut random) = (config(), Random::new(1));
    let checkpoint = random_checkpoint(&config, 2);
    let (context, test) = (data(&mut random, 150), data(&mut random, 33));
    let order = random.shuffled(150);
    for (name, device) in devices() {
        let model = Cmanp::new(&device, &config, &checkpoint).unwrap();
        let whole = model.condition(&context.context()).unwrap();
        let prediction = whole.predict(&test.x).unwrap();
        assert!(prediction.std().iter().all(|std| *std >= 0.05), "{name}");
        for step in [1, 7, 64, 149] {
            let blocked = model.condition_in_blocks(&context.context(), step).unwrap();
            assert_predicted(&blocked.predict(&test.x).unwrap(), &prediction, &format!("{name}, blocks of {step}"));
            if step == 1 && device != Device::cpu() {
                continue;
            }
            let mut parts = order.chunks(step).map(|points| context.pick(points));
            let mut updated = model.condition(&parts.next().unwrap().context()).unwrap();
            for part in parts {
                updated = updated.update(&part.context()).unwrap();
            }
            assert_eq!(updated.n_points(), [150]);
            assert_eq!(updated.n_bytes(), whole.n_bytes());
            assert_predicted(&updated.predict(&test.x).unwrap(), &prediction, &format!("{name}, updates of {step}"));
        }
        // Updating leaves what was there as it was, and nothing new changes nothing.
        let again = whole.update(&Context::new(&[0.0; 0], &[])).unwrap();
        assert_eq!(bits(&again.predict(&test.x).unwrap()), bits(&whole.predict(&test.x).unwrap()), "{name}");
        assert_eq!(whole.n_points(), [150]);
    }
}

#[test]
fn parts_of_a_context_merge_in_any_order() {
    let (config, mut random) = (config(), Random::new(3));
    let checkpoint = random_checkpoint(&config, 4);
    let (context, test) = (data(&mut random, 1000), data(&mut random, 20));
    for (name, device) in devices() {
        let model = Cmanp::new(&device, &config, &checkpoint).unwrap();
        let whole = model.condition(&context.context()).unwrap();
        let prediction = whole.predict(&test.x).unwrap();
        let counts = if device == Device::cpu() { [2, 7, 1000].as_slice() } else { &[2, 7] };
        for &n_parts in counts {
            let parts: Vec<Posterior> = random
                .shuffled(1000)
                .chunks(1000usize.div_ceil(n_parts))
                .map(|points| model.condition(&context.pick(points).context()).unwrap())
                .collect();
            assert_eq!(parts.len(), n_parts);
            let merged = parts[1..].iter().fold(parts[0].clone(), |merged, part| merged.merge(part).unwrap());
            assert_eq!(merged.n_points(), [1000]);
            assert_eq!(merged.n_bytes(), whole.n_bytes());
            assert_predicted(&merged.predict(&test.x).unwrap(), &prediction, &format!("{name}, {n_parts} parts"));
        }
    }
}

#[test]
fn data_sets_of_a_batch_may_differ_in_length() {
    let (config, mut random) = (config(), Random::new(5));
    let checkpoint = random_checkpoint(&config, 6);
    let (first, second, test) = (data(&mut random, 40), data(&mut random, 25), data(&mut random, 30));
    // The second is padded with what must not be read.
    let padded = |a: &[f32], b: &[f32], dim: usize| [a, b, &vec![f32::NAN; 15 * dim][..]].concat();
    let (x, y) = (padded(&first.x, &second.x, 2), padded(&first.y, &second.y, 3));
    let keep: Vec<bool> = (0..80).map(|i| i < 65).collect();
    for (name, device) in devices() {
        let model = Cmanp::new(&device, &config, &checkpoint).unwrap();
        for block in [9, 4096] {
            let context = Context::new(&x, &y).batch(2).mask(&keep);
            let posterior = model.condition_in_blocks(&context, block).unwrap();
            assert_eq!(posterior.n_points(), [40, 25]);
            let both = posterior.predict(&[&test.x[..], &test.x].concat()).unwrap();
            for (b, data) in [&first, &second].into_iter().enumerate() {
                let alone = model.condition(&data.context()).unwrap().predict(&test.x).unwrap();
                let part = both.activations()[b * 180..][..180].to_vec();
                let of_both = Prediction::new(both.output(), alone.shape(), part).unwrap();
                assert_predicted(&of_both, &alone, &format!("{name}, data set {b}"));
            }
        }
    }
}

#[test]
fn a_saved_posterior_goes_on_with_the_same_bits() {
    let (config, mut random) = (config(), Random::new(7));
    let checkpoint = random_checkpoint(&config, 8);
    let (before, after, test) = (data(&mut random, 50), data(&mut random, 50), data(&mut random, 40));
    let path = std::env::temp_dir().join(format!("cmanp-{}.safetensors", std::process::id()));
    let mut sizes = Vec::new();
    for (name, device) in devices() {
        let model = Cmanp::new(&device, &config, &checkpoint).unwrap();
        let posterior = model.condition(&before.context()).unwrap();
        posterior.save(&path).unwrap();
        sizes.push(std::fs::metadata(&path).unwrap().len());
        let restored = model.open_posterior(&path).unwrap();
        assert_eq!(restored.n_points(), [50]);
        let goes_on = |posterior: &Posterior| posterior.update(&after.context()).unwrap().predict(&test.x).unwrap();
        assert_eq!(bits(&goes_on(&posterior)), bits(&goes_on(&restored)), "{name}");
        posterior.update(&after.context()).unwrap().save(&path).unwrap();
        sizes.push(std::fs::metadata(&path).unwrap().len());

        let other = Cmanp::new(&device, &config, &random_checkpoint(&config, 9)).unwrap();
        let message = other.open_posterior(&path).unwrap_err().to_string();
        assert!(message.contains("parameters") && message.contains("allowed"), "{message}");
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 8, 100, bytes.len() / 2, bytes.len() - 1] {
            let message = Checkpoint::from_bytes(&bytes[..length]).unwrap_err().to_string();
            assert!(message.contains("not a readable checkpoint"), "{message}");
        }
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let message = Checkpoint::from_bytes(&damaged).unwrap_err().to_string();
        assert!(message.contains("not those that were saved"), "{message}");
        let message = model.restore(&checkpoint).unwrap_err().to_string();
        assert!(message.contains("posterior"), "{message}");
        let other = Config { bound_std: false, ..config.clone() };
        let message = Cmanp::new(&device, &other, &checkpoint).unwrap().open_posterior(&path).unwrap_err().to_string();
        assert!(message.contains("another configuration"), "{message}");
    }
    std::fs::remove_file(&path).unwrap();
    // The numbers of points differ, their digits do not.
    assert!(sizes.iter().all(|size| size.abs_diff(sizes[0]) <= 8), "{sizes:?}");
}

#[test]
fn a_context_may_be_split_over_devices() {
    let (config, mut random) = (config(), Random::new(16));
    let checkpoint = random_checkpoint(&config, 17);
    let (context, test) = (data(&mut random, 90), data(&mut random, 20));
    let [near, far] = [0..40, 40..90].map(|points| context.pick(&points.collect::<Vec<_>>()));
    let elsewhere = Cmanp::new(&Device::cpu(), &config, &checkpoint).unwrap();
    let sent = elsewhere.condition(&far.context()).unwrap().to_checkpoint().unwrap().to_bytes().unwrap();
    for (name, device) in devices() {
        let model = Cmanp::new(&device, &config, &checkpoint).unwrap();
        let received = model.restore(&Checkpoint::from_bytes(&sent).unwrap()).unwrap();
        let merged = model.condition(&near.context()).unwrap().merge(&received).unwrap();
        let whole = model.condition(&context.context()).unwrap().predict(&test.x).unwrap();
        assert_predicted(&merged.predict(&test.x).unwrap(), &whole, &name);
        if device != Device::cpu() {
            let message = elsewhere.condition(&near.context()).unwrap().merge(&received).unwrap_err().to_string();
            let (found, allowed) = message.split_once("allowed").unwrap();
            assert!(!found.contains("CPU") && allowed.contains("CPU"), "{message}");
        }
    }
}

#[test]
fn posteriors_go_to_other_threads_and_answer_asynchronously() {
    let (config, mut random) = (config(), Random::new(10));
    let checkpoint = random_checkpoint(&config, 11);
    let (context, test) = (data(&mut random, 20), data(&mut random, 20));
    for (name, device) in devices() {
        let model = Cmanp::new(&device, &config, &checkpoint).unwrap();
        let posterior = model.condition(&context.context()).unwrap();
        std::thread::scope(|scope| {
            let there: Vec<_> =
                (0..4).map(|_| scope.spawn(|| pollster::block_on(posterior.predict_async(&test.x)).unwrap())).collect();
            for there in there {
                assert_eq!(there.join().unwrap(), posterior.predict(&test.x).unwrap(), "{name}");
            }
        });
        let none = posterior.predict(&[0.0; 0]).unwrap();
        assert_eq!((none.shape(), none.mean().len()), ([1, 0, 3], 0));
    }
}

#[test]
fn samples_have_the_predicted_mean_and_covariance() {
    for kind in [CovarianceKind::Cholesky, CovarianceKind::LowRank] {
        let (config, mut random) = (joint(kind), Random::new(12));
        let model = Cmanp::new(&Device::cpu(), &config, &random_checkpoint(&config, 13)).unwrap();
        let (context, test) = (data(&mut random, 20), data(&mut random, 4));
        let posterior = model.condition(&context.context()).unwrap();
        let prediction = &posterior.predict_joint(&test.x).unwrap()[0];
        let n = prediction.len();
        assert_eq!(n, 12);
        let n_samples = 20_000;
        let samples = prediction.sample(3, n_samples).unwrap();
        assert_eq!(samples, prediction.sample(3, n_samples).unwrap());
        assert_ne!(samples[..n], prediction.sample(4, 1).unwrap()[..]);
        let (mean, std, covariance) = (prediction.mean(), prediction.std(), prediction.covariance());
        let average = |of: &dyn Fn(&[f64]) -> f64| samples.chunks(n).map(of).sum::<f64>() / n_samples as f64;
        for i in 0..n {
            assert!((std[i].powi(2) - covariance[i * n + i]).abs() <= 1e-9 * covariance[i * n + i]);
            for j in 0..n {
                // Six standard deviations of the averages of 20,000 draws.
                let allowed = 6.0 * std[i] * std[j] * (2.0 / n_samples as f64).sqrt();
                let found = average(&|y| (y[i] - mean[i]) * (y[j] - mean[j]));
                assert!((found - covariance[i * n + j]).abs() <= allowed, "{kind:?}: covariance of {i} and {j}");
            }
            let found = average(&|y| y[i]);
            assert!((found - mean[i]).abs() <= 6.0 * std[i] / (n_samples as f64).sqrt(), "{kind:?}: mean of {i}");
        }
    }
}

#[test]
fn one_block_is_the_joint_density_and_samples_follow_the_seed() {
    for kind in [CovarianceKind::Cholesky, CovarianceKind::LowRank] {
        let (config, mut random) = (joint(kind), Random::new(14));
        let checkpoint = random_checkpoint(&config, 15);
        let (context, test) = (data(&mut random, 30), data(&mut random, 11));
        for (name, device) in devices() {
            let model = Cmanp::new(&device, &config, &checkpoint).unwrap();
            let posterior = model.condition(&context.context()).unwrap();
            let joint = posterior.predict_joint(&test.x).unwrap()[0].log_density(&test.y).unwrap();
            let evaluation = posterior.evaluate(&test.x, &test.y, 11).unwrap();
            assert_eq!(evaluation.per_target, [joint / 11.0], "{name}");
            let blocks = posterior.evaluate(&test.x, &test.y, 4).unwrap();
            assert_eq!((blocks.log_densities.len(), blocks.mean.len(), blocks.std.len()), (3, 33, 33));
            let first = &posterior.predict_joint(&test.x[..8]).unwrap()[0];
            assert_eq!((&blocks.mean[..12], &blocks.std[..12]), (&first.mean()[..], &first.std()[..]), "{name}");
            let draw = |seed| posterior.draws_in_blocks(&test.x, seed, 1, 4).unwrap();
            assert_eq!(draw(1), draw(1), "{name}");
            assert_ne!(draw(1), draw(2), "{name}");
            assert!(draw(1).len() == 33 && draw(1).iter().all(|y| y.is_finite()), "{name}");
        }
    }
}

#[test]
fn states_that_no_observations_leave_are_refused() {
    let config = config();
    let model = Cmanp::new(&Device::cpu(), &config, &random_checkpoint(&config, 18)).unwrap();
    let saved = model.condition(&data(&mut Random::new(19), 20).context()).unwrap().to_checkpoint().unwrap();
    // 5 latents and 2 heads, whose rows are a reference, two halves of a weight and of 6 values.
    let state = |row: &[f32]| row.iter().copied().cycle().take(10 * 15).collect::<Vec<f32>>();
    let with = |state: Vec<f32>, n_points: &str| {
        let mut wrong = saved.clone();
        wrong.insert("state_0", &[1, 5, 2, 15], state).unwrap();
        let metadata: serde_json::Value = serde_json::from_str(saved.metadata("posterior").unwrap()).unwrap();
        let [before, after] = [&saved, &wrong].map(|checkpoint| format!("\"states\":{}", checkpoint.fingerprint()));
        let text = serde_json::to_string(&metadata).unwrap();
        assert!(text.contains(&before) && text.contains("[20]"), "{text}");
        wrong.set_metadata("posterior", text.replace(&before, &after).replace("[20]", n_points));
        model.restore(&wrong)
    };
    let row = |reference: f32, weight: f32, rest: f32| {
        let mut row = [rest; 15];
        (row[0], row[1], row[2]) = (reference, weight, 0.0);
        row
    };
    assert!(with(state(&row(8.0, 0.5, 0.1)), "[20]").is_ok());
    assert!(with(state(&row(MASKED, 0.0, 0.0)), "[20]").is_ok());
    for wrong in [row(0.0, 0.0, 0.0), row(8.0, -0.5, 0.1), row(MASKED, 0.0, 0.1), row(MASKED, 0.5, 0.0)] {
        let message = with(state(&wrong), "[20]").unwrap_err().to_string();
        assert!(message.contains("row 0 of the posterior's state_0") && message.contains("allowed"), "{message}");
    }
    let mut one = state(&row(8.0, 0.5, 0.1));
    one[9 * 15 + 1] = 0.0;
    assert!(with(one, "[20]").unwrap_err().to_string().contains("row 9"));
    let message = with(state(&row(8.0, 0.5, 0.1)), "[0]").unwrap_err().to_string();
    assert!(message.contains("0 observations in batch element 0"), "{message}");
}

#[test]
fn elements_of_a_batch_draw_different_numbers() {
    let (config, mut random) = (joint(CovarianceKind::LowRank), Random::new(20));
    let model = Cmanp::new(&Device::cpu(), &config, &random_checkpoint(&config, 21)).unwrap();
    let (context, test) = (data(&mut random, 10), data(&mut random, 3));
    let twice = |x: &[f32]| [x, x].concat();
    let (x, y) = (twice(&context.x), twice(&context.y));
    let posterior = model.condition(&Context::new(&x, &y).batch(2)).unwrap();
    let drawn = posterior.draws_in_blocks(&twice(&test.x), 1, 1, 2).unwrap();
    assert_eq!(drawn.len(), 18);
    assert!(drawn[..9].iter().zip(&drawn[9..]).all(|(a, b)| a != b), "{drawn:?}");
    let predictions = posterior.predict_joint(&twice(&test.x)).unwrap();
    assert_ne!(predictions[0].sample(1, 1).unwrap(), predictions[1].sample(1, 1).unwrap());
}

#[test]
fn a_base_model_draws_one_block() {
    let (config, mut random) = (joint(CovarianceKind::LowRank), Random::new(22));
    let config = Config { n_latents_per_layer: None, ..config };
    let model = Cmanp::new(&Device::cpu(), &config, &random_checkpoint(&config, 23)).unwrap();
    let (context, test) = (data(&mut random, 10), data(&mut random, 3));
    let posterior = model.condition(&context.context()).unwrap();
    assert_eq!(posterior.draws_in_blocks(&test.x, 1, 1, 3).unwrap().len(), 9);
    assert!(posterior.draws_in_blocks(&test.x, 1, 1, 2).unwrap_err().to_string().contains("LBANP"));
}

/// A state larger than a binding was refused.
#[cfg(feature = "gpu")]
#[test]
fn f15_batches_beyond_one_binding() {
    use wgpu_attention::{device::GpuOptions, wgpu::Limits};
    let limits = Limits { max_storage_buffer_binding_size: 64 << 10, ..Limits::default() };
    let options = GpuOptions::default().limits(limits);
    // 600 bytes of state in each layer for a batch element.
    let (batch, mut random) = (300, Random::new(7));
    let checkpoint = random_checkpoint(&config(), 2);
    let (first, second) = (data(&mut random, 3 * batch), data(&mut random, 2 * batch));
    let test = random.scaled(2 * 2 * batch, 2.0);
    let run = |device: &Device| {
        let model = Cmanp::new(device, &config(), &checkpoint).unwrap();
        let condition = |data: &Data| model.condition(&data.context().batch(batch)).unwrap();
        let posterior = condition(&first).update(&second.context().batch(batch)).unwrap();
        let merged = posterior.merge(&condition(&first)).unwrap();
        [posterior.predict(&test).unwrap(), merged.predict(&test).unwrap()]
    };
    let truth = run(&Device::cpu());
    for adapter in Device::adapters() {
        for (found, truth) in run(&Device::on_adapter(&adapter, &options).unwrap()).iter().zip(&truth) {
            assert_predicted(found, truth, &adapter.name);
        }
    }
}

/// More workgroups than a dimension of a launch may have.
#[cfg(feature = "gpu")]
#[test]
fn f15_batches_of_more_than_65_535_heads() {
    let config = Config {
        d_model: 4,
        dim_feedforward: 4,
        n_latents: 1,
        n_latents_per_layer: Some(1),
        n_layers: 1,
        emb_depth: 2,
        ..config()
    };
    let (batch, mut random) = (33_000, Random::new(8));
    let (context, test) = (data(&mut random, batch), random.scaled(2 * batch, 2.0));
    let checkpoint = random_checkpoint(&config, 2);
    let run = |device: &Device| {
        let model = Cmanp::new(device, &config, &checkpoint).unwrap();
        model.condition(&context.context().batch(batch)).unwrap().predict(&test).unwrap()
    };
    let truth = run(&Device::cpu());
    for (name, device) in crate::support::gpus() {
        assert_predicted(&run(&device), &truth, &name);
    }
}
