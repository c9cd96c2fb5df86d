//! Posteriors as data, with each of the attentions: size, order, tiles, saving, merging.

use crate::support::{Random, devices, refused};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Output,
        layers::MlpConfig,
        tnp_kr::{AttentionConfig, Config, Context, Locations, Posterior, TnpKr},
    },
    ops::Activation,
};

/// Small networks, one for each attention.
fn configs() -> Vec<(&'static str, Config)> {
    let small = |config: Config| Config { n_blocks: 2, ..config };
    vec![
        ("scan", small(Config::scan(1))),
        ("deep kernel", small(Config::deep_kernel(2, 1))),
        ("Performer", small(Config::performer(2, 1))),
    ]
}

/// `n` points in the plane and their values.
fn data(n: usize) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new(n as u64);
    (random.scaled(2 * n, 2.0), random.numbers(n))
}

fn condition(model: &TnpKr, x: &[f32], y: &[f32]) -> Posterior {
    model.condition(&Context::new(Locations::space(2, x), y)).unwrap()
}

fn predict(posterior: &Posterior, x: &[f32]) -> Vec<f32> {
    posterior.predict(&Locations::space(2, x)).unwrap().activations().to_vec()
}

#[track_caller]
fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(b) {
        // Other orders of summation, through a few layers.
        assert!((a - b).abs() <= 2e-5 * (1.0 + b.abs()), "{what}: {a} and {b}");
    }
}

#[test]
fn linear_attention_keeps_as_much_of_any_context() {
    let (x, y) = data(10_000);
    for (name, config) in configs() {
        let model = TnpKr::random(&Device::cpu(), &config, 1).unwrap();
        let bytes = |n: usize| condition(&model, &x[..2 * n], &y[..n]).n_bytes();
        match config.attention {
            AttentionConfig::Scan { .. } => assert_eq!(bytes(1000), 10 * bytes(100), "{name}"),
            // 2 layers of features x value width: 1 head of 128 x 64, or 4 of 128 x (32 + 1).
            AttentionConfig::DeepKernel { .. } => assert_eq!([bytes(1), bytes(10_000)], [2 * 4 * 128 * 64; 2]),
            _ => assert_eq!([bytes(1), bytes(10_000)], [2 * 4 * 4 * 128 * 33; 2], "{name}"),
        }
    }
}

#[test]
fn the_order_of_a_context_of_many_tiles_does_not_matter() {
    // More than one tile on the CPU, which is where a large context is quick.
    let n = 10_000;
    let (x, y) = data(n);
    let (at, _) = data(50);
    let reversed: Vec<f32> = x.chunks(2).rev().flatten().copied().collect();
    let y_reversed: Vec<f32> = y.iter().rev().copied().collect();
    for (name, config) in configs().into_iter().filter(|(name, _)| *name != "scan") {
        let model = TnpKr::random(&Device::cpu(), &config, 2).unwrap();
        let there = predict(&condition(&model, &x, &y), &at);
        let back = predict(&condition(&model, &reversed, &y_reversed), &at);
        assert_close(&there, &back, name);
        // The device's own tile and any other.
        let posterior = condition(&model, &x[..2000], &y[..1000]);
        let whole = predict(&posterior, &x);
        for tile in [1, 77, 4096] {
            let mut parts = Vec::new();
            let receive = |_, part: wgpu_attention::models::Prediction| {
                parts.extend_from_slice(part.activations());
                Ok(())
            };
            posterior.predict_tiles(&Locations::space(2, &x[..2000]), tile, receive).unwrap();
            assert_close(&parts, &whole[..2000], name);
        }
    }
}

#[test]
fn masked_points_change_nothing() {
    let (x, y) = data(100);
    let (at, _) = data(30);
    for (device_name, device) in devices() {
        for (name, config) in configs() {
            let model = TnpKr::random(&device, &config, 3).unwrap();
            // 60 points, with and without 40 that do not exist.
            let mut padded = (x.clone(), y.clone());
            padded.0[120..].fill(f32::NAN);
            padded.1[60..].fill(f32::INFINITY);
            let keep: Vec<bool> = (0..100).map(|i| i < 60).collect();
            let masked = Context::new(Locations::space(2, &padded.0), &padded.1).mask(&keep);
            let masked = model.condition(&masked).unwrap();
            let all = Context::new(Locations::space(2, &x[..120]), &y[..60]).mask(&[true; 60]);
            let all = model.condition(&all).unwrap();
            assert_close(&predict(&masked, &at), &predict(&all, &at), &format!("{name} on {device_name}"));
        }
    }
}

/// Tiles of a few points, masks that differ from tile to tile and from batch element to batch
/// element.
#[test]
fn batches_of_masked_contexts_pass_in_tiles() {
    let (batch, n) = (300, 150);
    let mut random = Random::new(12);
    let (x, y) = (random.scaled(2 * batch * n, 2.0), random.numbers(batch * n));
    let keep: Vec<bool> = random.booleans(batch * n, 0.6);
    let (at, _) = data(3);
    for (device_name, device) in devices() {
        for (name, config) in configs().into_iter().filter(|(name, _)| *name != "scan") {
            let narrow = Config {
                embed_all: MlpConfig { dims: vec![64], activation: Activation::Relu },
                ffn: MlpConfig { dims: vec![64], activation: Activation::Relu },
                ..config
            };
            let model = TnpKr::random(&device, &narrow, 3).unwrap();
            let context = Context::new(Locations::space(2, &x).batch(batch), &y).mask(&keep);
            let everywhere = at.repeat(batch);
            let all = model.condition(&context).unwrap();
            let all = all.predict(&Locations::space(2, &everywhere).batch(batch)).unwrap().activations().to_vec();
            for b in [0, 1, 255, 299] {
                let of = |x: &[f32], dim: usize| x[b * n * dim..(b + 1) * n * dim].to_vec();
                let (x, y) = (of(&x, 2), of(&y, 1));
                let alone = Context::new(Locations::space(2, &x), &y).mask(&keep[b * n..(b + 1) * n]);
                let alone = predict(&model.condition(&alone).unwrap(), &at);
                assert_close(&all[b * 6..][..6], &alone, &format!("{name}, element {b} on {device_name}"));
            }
        }
    }
}

#[test]
fn saved_and_loaded_posteriors_predict_the_same_bits() {
    let (x, y) = data(70);
    let (at, _) = data(40);
    let path = std::env::temp_dir().join(format!("posterior-{}.safetensors", std::process::id()));
    for (device_name, device) in devices() {
        for (name, config) in configs() {
            for has_mask in [false, true] {
                let model = TnpKr::random(&device, &config, 4).unwrap();
                let keep: Vec<bool> = (0..70).map(|i| i % 3 != 0).collect();
                let mut context = Context::new(Locations::space(2, &x), &y);
                if has_mask {
                    context = context.mask(&keep);
                }
                let posterior = model.condition(&context).unwrap();
                posterior.save(&path).unwrap();
                let loaded = model.open_posterior(&path).unwrap();
                let bits = |p: &Posterior| predict(p, &at).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&loaded), bits(&posterior), "{name} on {device_name}");
                assert_eq!((loaded.n_context(), loaded.n_bytes()), (70, posterior.n_bytes()), "{name}");
                let saved = posterior.to_checkpoint().unwrap().to_bytes().unwrap();
                assert_eq!(saved, std::fs::read(&path).unwrap(), "the same bytes for the same content");
            }
        }
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn saved_posteriors_of_something_else_are_refused() {
    let (x, y) = data(20);
    for (name, config) in configs() {
        let model = TnpKr::random(&Device::cpu(), &config, 5).unwrap();
        let saved = condition(&model, &x, &y).to_checkpoint().unwrap();
        let bytes = saved.to_bytes().unwrap();
        for n in [0, 10, bytes.len() / 2, bytes.len() - 1] {
            refused(Checkpoint::from_bytes(&bytes[..n]), &["not a readable checkpoint"]);
        }
        let other = TnpKr::random(&Device::cpu(), &config, 6).unwrap();
        refused(other.restore(&saved), &["parameters"]);
        refused(model.restore(&Checkpoint::default()), &["posterior"]);
        for (_, other) in configs().into_iter().filter(|(other, _)| *other != name) {
            let other = TnpKr::random(&Device::cpu(), &other, 5).unwrap();
            refused(other.restore(&saved), &["parameters"]);
        }
        // The same parameters, but another activation and another output.
        let mut altered = config.clone();
        altered.ffn.activation = Activation::Relu;
        altered.output = Output::Gaussian { min_std: 0.5 };
        let parameters = Checkpoint::random(5, |checkpoint| TnpKr::new(&Device::cpu(), &config, checkpoint)).unwrap();
        let altered = TnpKr::new(&Device::cpu(), &altered, &parameters).unwrap();
        refused(altered.restore(&saved), &["another configuration"]);
        let mut misshapen = saved.clone();
        let tensor = saved.names().find(|name| name.starts_with("memory_1.")).unwrap().to_owned();
        misshapen.insert(&tensor, &[7], vec![0.0; 7]).unwrap();
        refused(model.restore(&misshapen), &["states are not those that were saved"]);
        let metadata = saved.metadata("posterior").unwrap();
        let states = |of: &Checkpoint| format!("\"states\":{}", of.fingerprint());
        assert!(metadata.contains(&states(&saved)), "{metadata}");
        misshapen.set_metadata("posterior", metadata.replace(&states(&saved), &states(&misshapen)));
        refused(model.restore(&misshapen), &[&tensor, "[7]"]);
        for (from, to) in [
            ("\"batch\":1", "\"batch\":0"),
            ("\"batch\":1", "\"batch\":2"),
            ("\"n_context\":20", "\"n_context\":21"),
            ("\"n_context\":20", "\"n_context\":18446744073709551615"),
            ("\"n_keys\":[", "\"n_keys\":[7"),
            ("\"columns\":[{\"start\":0", "\"columns\":[{\"start\":1"),
        ] {
            let mut wrong = saved.clone();
            let metadata = saved.metadata("posterior").unwrap();
            assert!(metadata.contains(from), "{metadata}");
            wrong.set_metadata("posterior", metadata.replace(from, to));
            assert!(model.restore(&wrong).is_err(), "{to} was accepted by {name}");
        }
    }
}

#[test]
fn one_layer_of_linear_attention_merges() {
    let n = 70;
    let (x, y) = data(n);
    let (at, _) = data(25);
    for (device_name, device) in devices() {
        for (name, config) in configs().into_iter().filter(|(name, _)| *name != "scan") {
            let model = TnpKr::random(&device, &Config { n_blocks: 1, ..config }, 7).unwrap();
            let part = |range: std::ops::Range<usize>| {
                condition(&model, &x[2 * range.start..2 * range.end], &y[range.clone()])
            };
            let whole = part(0..n);
            for cuts in [vec![0, 1, n], vec![0, 25, 50, n], (0..=n).collect()] {
                let mut parts: Vec<Posterior> = cuts.windows(2).map(|cut| part(cut[0]..cut[1])).collect();
                parts.reverse();
                let merged = parts[1..].iter().fold(parts[0].clone(), |sum, part| sum.merge(part).unwrap());
                assert_eq!((merged.n_context(), merged.n_bytes()), (n, whole.n_bytes()));
                let what = format!("{name}, {} parts on {device_name}", parts.len());
                assert_close(&predict(&merged, &at), &predict(&whole, &at), &what);
            }
        }
    }
}

#[test]
fn what_does_not_merge_is_refused() {
    let (x, y) = data(10);
    for (_, config) in configs() {
        let model = TnpKr::random(&Device::cpu(), &config, 8).unwrap();
        let posterior = condition(&model, &x, &y);
        refused(posterior.merge(&posterior), &["2 attention layers", "a single layer"]);
    }
    let config = Config { n_blocks: 1, ..Config::deep_kernel(2, 1) };
    let model = TnpKr::random(&Device::cpu(), &config, 8).unwrap();
    let other = TnpKr::random(&Device::cpu(), &config, 9).unwrap();
    refused(condition(&model, &x, &y).merge(&condition(&other, &x, &y)), &["another model"]);
    let masked = model.condition(&Context::new(Locations::space(2, &x), &y).mask(&[true; 10])).unwrap();
    refused(masked.merge(&condition(&model, &x, &y)), &["masked"]);
    let two = Context::new(Locations::space(2, &x).batch(2), &y);
    refused(model.condition(&two).unwrap().merge(&condition(&model, &x, &y)), &["batch 1", "batch 2"]);
}
