//! Every configuration of a TNP-KR among dl4bi's benchmarks, at its own size: what dl4bi's code makes of it is in
//! `upstream.json`, which `upstream.py` writes.

use serde_json::{Value, from_value};
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Output,
        tnp_kr::{Config, Context, Locations, TnpKr},
    },
};

use crate::support::{bound, devices, error};

/// As in `upstream.py`.
const BATCH: usize = 2;
const N_CONTEXT: usize = 12;
const N_TEST: usize = 4;
const N_MASKED: usize = 5;

/// Numbers from -1 to 1 by name: FNV-1a of the name, then Wellons' lowbias32 of it and the element's number.
fn uniform(name: &str, n: usize) -> Vec<f64> {
    let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    let seed = name.bytes().fold(2_166_136_261, fnv);
    let number = |i: u32| {
        let mut h = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9));
        h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
        h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
        f64::from((h ^ (h >> 16)) >> 8) / f64::from(1 << 23) - 1.0
    };
    (0..n as u32).map(number).collect()
}

fn parameter(name: &str, shape: &[usize]) -> Vec<f32> {
    let last = name.rsplit('.').next().unwrap();
    let scaled = |u: f64| match last {
        "kernel" => u * (3.0 / shape[0] as f64).sqrt(),
        "U" | "V" => u * (3.0 / shape[1] as f64).sqrt(),
        "scale" => 1.0 + 0.25 * u,
        _ if last.ends_with("bias_b") => 0.5 + 0.45 * u,
        _ if last.ends_with("bias") => 0.3 * u,
        _ => 1.7 * u,
    };
    uniform(name, shape.iter().product()).into_iter().map(|u| scaled(u) as f32).collect()
}

/// The same parameters as those of `upstream.py`, whose names and shapes the network asks for.
fn parameters(config: &Config) -> Checkpoint {
    let asked = Checkpoint::random(0, |checkpoint| TnpKr::new(&Device::cpu(), config, checkpoint)).unwrap();
    let mut checkpoint = Checkpoint::default();
    for name in asked.names() {
        let shape = asked.shape(name).unwrap();
        checkpoint.insert(name, shape, parameter(name, shape)).unwrap();
    }
    checkpoint
}

/// The coordinates of a group, `[batch, n, dim]`.
fn coords(group: &str, part: &str, dim: usize, n: usize, n_categories: f64) -> Vec<f32> {
    let coord = |(i, u): (usize, f64)| match group {
        "t" => ((i / dim) % n) as f64 / n as f64 + 0.01 * (2.0 * u) + f64::from(u8::from(part == "test")),
        "x" if n_categories > 0.0 && i % dim == 0 => ((2.0 * u + 2.0) / 4.0 * n_categories).floor(),
        _ => 2.0 * u,
    };
    let numbers = uniform(&format!("{group}_{part}"), BATCH * n * dim);
    numbers.into_iter().enumerate().map(coord).map(|x| x as f32).collect()
}

/// What was observed, `[batch, n, n_values]`.
fn values(n_values: usize, output: Output) -> Vec<f32> {
    let numbers = uniform("f_ctx", BATCH * N_CONTEXT * n_values);
    let of_point = |f: &[f64]| -> Vec<f32> {
        let largest = f.iter().copied().fold(f64::MIN, f64::max);
        let value = |&f: &f64| match output {
            Output::Categorical => f32::from(u8::from(f == largest)),
            Output::Poisson => (4.0 * (f + 1.0)).floor() as f32,
            _ => f as f32,
        };
        f.iter().map(value).collect()
    };
    numbers.chunks(n_values).flat_map(of_point).collect()
}

fn at<'a>(groups: &[(&'a str, usize)], coords: &'a [Vec<f32>]) -> Locations<'a> {
    let groups = groups.iter().zip(coords);
    groups.fold(Locations::default().batch(BATCH), |at, (&(group, dim), x)| at.group(group, dim, x))
}

#[test]
fn every_configuration_of_the_authors_gives_their_numbers() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("upstream.json")).unwrap();
    assert_eq!(cases.len(), 37);
    for case in cases {
        let file = case["file"].as_str().unwrap();
        let groups: Vec<(String, usize)> = from_value(case["groups"].clone()).unwrap();
        let groups: Vec<(&str, usize)> = groups.iter().map(|(name, dim)| (&name[..], *dim)).collect();
        let n_values = case["n_values"].as_u64().unwrap() as usize;
        let config = Config::from_dl4bi(&case["settings"], n_values, &groups).unwrap_or_else(|e| panic!("{file}: {e}"));
        let checkpoint = parameters(&config);
        assert_eq!(checkpoint.n_parameters() as u64, case["n_parameters"], "{file}");

        let n_categories = case["settings"]["embed_x"]["num_ids"].as_f64().unwrap_or(0.0);
        let of = |part: &str, n: usize| -> Vec<Vec<f32>> {
            groups.iter().map(|(group, dim)| coords(group, part, *dim, n, n_categories)).collect()
        };
        let (context, test) = (of("ctx", N_CONTEXT), of("test", N_TEST));
        let values = values(n_values, config.output);
        let mask: Vec<bool> = (0..BATCH * N_CONTEXT).map(|i| i < BATCH * N_CONTEXT - N_MASKED).collect();
        let numbers = |name: &str| -> Vec<f64> { from_value(case[name].clone()).unwrap() };
        let (single, truth) = (numbers("out"), numbers("out64"));
        let recorded = error(&single.iter().map(|&x| x as f32).collect::<Vec<_>>(), &truth);
        for (name, device) in devices() {
            let model = TnpKr::new(&device, &config, &checkpoint).unwrap();
            let posterior = model.condition(&Context::new(at(&groups, &context), &values).mask(&mask)).unwrap();
            let found = posterior.predict(&at(&groups, &test)).unwrap().activations().to_vec();
            let (error, bound) = (error(&found, &truth), bound(&device, recorded));
            println!("{file:<50} {name} {error:.1e} of {bound:.1e}");
            assert!(error <= bound, "{file} on {name} is off by {error:.2e}, allowed {bound:.2e}");
        }
    }
}
