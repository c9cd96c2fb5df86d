//! Properties of the whole model, with random parameters and with the committed checkpoint.

use std::collections::BTreeMap;

use crate::support::{CHECKPOINT, Random, assert_predicted, devices, parameters};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Output, Prediction,
        layers::MlpConfig,
        tnp_kr::{AttentionConfig, BiasConfig, BiasParameters, Config, Context, GroupConfig, Locations, TnpKr},
    },
    ops::{Activation, BiasKernel, Distance},
};

fn mlp(dims: &[usize]) -> MlpConfig {
    MlpConfig { dims: dims.to_vec(), activation: Activation::GeluTanh }
}

/// A small model whose coordinates act through biases alone.
fn config() -> Config {
    let bias = |kernel, distance, n_basis| Some(BiasConfig { kernel, distance, n_basis });
    let group = |name: &str, bias| GroupConfig { name: name.into(), dim: None, embed: false, bias, category: None };
    Config {
        n_blocks: 2,
        n_repeats: 2,
        obs_dim: 4,
        n_values: 2,
        groups: vec![
            group("s", bias(BiasKernel::Rbf, Distance::Euclidean, 3)),
            group("t", bias(BiasKernel::Exponential, Distance::CausalTime, 2)),
        ],
        embed_all: mlp(&[24, 12]),
        attention: AttentionConfig::Scan {
            n_heads: 2,
            proj_qs: mlp(&[12]),
            proj_ks: mlp(&[12]),
            proj_vs: mlp(&[20]),
            proj_out: mlp(&[12]),
            adaptive_rank: None,
        },
        bias_parameters: BiasParameters::default(),
        ffn: mlp(&[24, 12]),
        head: mlp(&[16, 4]),
        output: Output::Gaussian { min_std: 0.1 },
    }
}

fn random_checkpoint(config: &Config, seed: u64) -> Checkpoint {
    let mut random = Random::new(seed);
    let draw = |name: &str, shape: &[usize]| {
        let numbers = random.scaled(shape.iter().product(), 2.0 / (shape[0] as f32).sqrt());
        if name.ends_with("bias_b") { numbers.iter().map(|x| 0.2 * x.abs()).collect() } else { numbers }
    };
    parameters(|checkpoint| TnpKr::new(&Device::cpu(), config, checkpoint), draw).1
}

struct Data {
    s: Vec<f32>,
    t: Vec<f32>,
    values: Vec<f32>,
}

fn data(random: &mut Random, n: usize) -> Data {
    let t = random.numbers(n).iter().map(|t| t.abs()).collect();
    Data { s: random.scaled(2 * n, 2.0), t, values: random.numbers(2 * n) }
}

impl Data {
    fn locations(&self) -> Locations<'_> {
        Locations::space(2, &self.s).time(&self.t)
    }

    fn context(&self) -> Context<'_> {
        Context::new(self.locations(), &self.values)
    }

    fn pick(&self, points: &[usize]) -> Self {
        let of = |data: &[f32], dim: usize| -> Vec<f32> {
            points.iter().flat_map(|i| &data[i * dim..][..dim]).copied().collect()
        };
        Self { s: of(&self.s, 2), t: of(&self.t, 1), values: of(&self.values, 2) }
    }
}

#[test]
fn translation_changes_nothing() {
    let (config, mut random) = (config(), Random::new(1));
    let checkpoint = random_checkpoint(&config, 2);
    let (context, test) = (data(&mut random, 50), data(&mut random, 70));
    let shift = |data: &Data| {
        // Exact in f32 for these sizes, so that only the model is tested.
        let s = data.s.iter().map(|x| (x * 1024.0).round() / 1024.0);
        let t = data.t.iter().map(|x| (x * 1024.0).round() / 1024.0);
        let here = Data { s: s.clone().collect(), t: t.clone().collect(), values: data.values.clone() };
        let there = Data { s: s.map(|x| x + 64.0).collect(), t: t.map(|x| x + 32.0).collect(), ..here.pick(&[]) };
        (here, Data { values: data.values.clone(), ..there })
    };
    let ((context, context_there), (test, test_there)) = (shift(&context), shift(&test));
    for (name, device) in devices() {
        let model = TnpKr::new(&device, &config, &checkpoint).unwrap();
        let here = model.condition(&context.context()).unwrap().predict(&test.locations()).unwrap();
        let there = model.condition(&context_there.context()).unwrap().predict(&test_there.locations()).unwrap();
        assert_predicted(&here, &there, &name);
    }
}

#[test]
fn the_order_of_the_context_does_not_matter() {
    let (config, mut random) = (config(), Random::new(3));
    let checkpoint = random_checkpoint(&config, 4);
    let (context, test) = (data(&mut random, 65), data(&mut random, 33));
    let mut order: Vec<usize> = (0..65).collect();
    for i in (1..65).rev() {
        order.swap(i, random.below(i + 1));
    }
    for (name, device) in devices() {
        let model = TnpKr::new(&device, &config, &checkpoint).unwrap();
        let a = model.condition(&context.context()).unwrap().predict(&test.locations()).unwrap();
        let b = model.condition(&context.pick(&order).context()).unwrap().predict(&test.locations()).unwrap();
        assert_predicted(&a, &b, &name);
    }
}

#[test]
fn masked_points_and_tiles_of_any_size_change_nothing() {
    let (config, mut random) = (config(), Random::new(5));
    let checkpoint = random_checkpoint(&config, 6);
    // Two data sets of 40 and 25 points, the second padded with what must not be read.
    let (first, second) = (data(&mut random, 40), data(&mut random, 25));
    let test = data(&mut random, 30);
    let padded = |a: &[f32], b: &[f32], dim: usize| [a, b, &vec![f32::NAN; 15 * dim][..]].concat();
    let (s, t) = (padded(&first.s, &second.s, 2), padded(&first.t, &second.t, 1));
    let values = padded(&first.values, &second.values, 2);
    let keep: Vec<bool> = (0..80).map(|i| i < 65).collect();
    let (s_test, t_test) = ([&test.s[..], &test.s].concat(), [&test.t[..], &test.t].concat());
    for (name, device) in devices() {
        let model = TnpKr::new(&device, &config, &checkpoint).unwrap();
        let locations = Locations::space(2, &s).time(&t).batch(2);
        let posterior = model.condition(&Context::new(locations, &values).mask(&keep)).unwrap();
        let at = Locations::space(2, &s_test).time(&t_test).batch(2);
        let both = posterior.predict(&at).unwrap();
        for (b, data) in [&first, &second].into_iter().enumerate() {
            let alone = model.condition(&data.context()).unwrap().predict(&test.locations()).unwrap();
            let part = both.activations()[b * 120..][..120].to_vec();
            let of_both = Prediction::new(both.output(), alone.shape(), part).unwrap();
            assert_predicted(&alone, &of_both, &format!("{name}, data set {b}"));
        }
        for tile in [1, 7, 30, 1000] {
            let mut seen = BTreeMap::new();
            posterior
                .predict_tiles(&at, tile, |range, prediction| {
                    for (i, point) in range.clone().enumerate() {
                        // Both batch elements of the point.
                        let of = |b: usize| prediction.mean()[(b * range.len() + i) * 2];
                        seen.insert(point, [of(0), of(1)]);
                    }
                    Ok(())
                })
                .unwrap();
            assert_eq!(seen.len(), 30, "{name}: tiles of {tile}");
            for (point, means) in seen {
                for (b, mean) in means.into_iter().enumerate() {
                    let whole = both.mean()[(b * 30 + point) * 2];
                    assert!((mean - whole).abs() <= 1e-5 * (1.0 + whole.abs()), "{name}: tiles of {tile}");
                }
            }
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let (config, mut random) = (config(), Random::new(7));
    let checkpoint = random_checkpoint(&config, 8);
    let (context, test) = (data(&mut random, 100), data(&mut random, 100));
    for (name, device) in devices() {
        let model = TnpKr::new(&device, &config, &checkpoint).unwrap();
        let run = || model.condition(&context.context()).unwrap().predict(&test.locations()).unwrap();
        let (a, b) = (run(), run());
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(a.activations()), bits(b.activations()), "{name}");
    }
}

#[test]
fn posteriors_go_to_other_threads_and_answer_asynchronously() {
    let (config, mut random) = (config(), Random::new(9));
    let checkpoint = random_checkpoint(&config, 10);
    let (context, test) = (data(&mut random, 20), data(&mut random, 20));
    for (name, device) in devices() {
        let model = TnpKr::new(&device, &config, &checkpoint).unwrap();
        let posterior = model.condition(&context.context()).unwrap();
        let here = posterior.predict(&test.locations()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let there = pollster::block_on(posterior.predict_async(&test.locations())).unwrap();
                    assert_eq!(here, there, "{name}");
                });
            }
        });
        let none = posterior.predict(&Locations::space(2, &[0.0; 0]).time(&[0.0; 0])).unwrap();
        assert_eq!((none.shape(), none.mean().len()), ([1, 0, 2], 0));
    }
}

#[test]
fn the_committed_checkpoint_interpolates_a_sine() {
    let x: Vec<f32> = (0..60).map(|i| -2.0 + 4.0 * i as f32 / 59.0).collect();
    let y: Vec<f32> = x.iter().map(|x| (3.0 * x).sin()).collect();
    let between: Vec<f32> = x.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    for (name, device) in devices() {
        let model = TnpKr::open(&device, CHECKPOINT).unwrap();
        let posterior = model.condition(&Context::new(Locations::space(1, &x), &y)).unwrap();
        let prediction = posterior.predict(&Locations::space(1, &between)).unwrap();
        let squares = between.iter().zip(prediction.mean()).map(|(x, mean)| (mean - (3.0 * x).sin()).powi(2));
        let rmse = (squares.sum::<f32>() / between.len() as f32).sqrt();
        // A network that learned nothing predicts zero, which is off by 0.7.
        assert!(rmse < 0.2, "{name}: off by {rmse}");
        assert!(prediction.std().iter().all(|std| *std > 0.0 && *std < 1.0), "{name}");
    }
}
