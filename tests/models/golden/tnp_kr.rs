//! The cases of TNP-KR and BSA-TNP (arXiv 2411.12502, 2506.09163).

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;
use wgpu_attention::{
    Device, Tensor,
    models::{
        layers::MlpConfig,
        tnp_kr::{Config, Context, DeepKernelAttention, KrBlock, Locations, TnpKr},
    },
    ops::{
        Activation, Bias, BiasKernel, BiasTerm, Distance, FeatureKind, FeatureMap, Layout, LinearAttention,
        ScanAttention, feature_map, scan_attention,
    },
};

use super::Outputs;
#[cfg(target_arch = "wasm32")]
use crate::support::blocking::*;
use crate::support::fixture::Fixture;

/// `None` if the case is of another system.
pub fn run(fixture: &Fixture, path: &Path, device: &Device) -> Option<Result<Outputs, String>> {
    match fixture.config["op"].as_str()? {
        "scan_attention" | "BiasedScanAttention -> biased_scan_attention" => Some(Ok(attention(fixture, device))),
        "build_*_phi(proj)(x)" => Some(features(fixture, device)),
        "FastAttention" => Some(Ok(favor(fixture, device))),
        "DeepKernelAttention" => Some(deep_kernel(fixture, device)),
        "KRBlock" => Some(block(fixture, device)),
        "BSATNP" | "BTNP" => Some(model(fixture, path, device)),
        _ => None,
    }
}

fn attention(fixture: &Fixture, device: &Device) -> Outputs {
    let (q, k, v) = (fixture.tensor(device, "in.qs"), fixture.tensor(device, "in.ks"), fixture.tensor(device, "in.vs"));
    let mut outputs = Outputs::new();
    for (name, call) in fixture.config["calls"].as_object().unwrap() {
        let mask = call["mask"].as_str().map(|mask| fixture.mask(device, &format!("in.{mask}")));
        let biases: Vec<(&String, &Value)> =
            call["bias"].as_object().map(|biases| biases.iter().collect()).unwrap_or_default();
        let mut terms = Vec::new();
        let (mut q_groups, mut k_groups) = (Vec::new(), Vec::new());
        let mut first = 0;
        for (group, bias) in &biases {
            let q_name = format!("in.{}", bias["qs"].as_str().unwrap());
            let k_name = format!("in.{}", bias["ks"].as_str().unwrap());
            let dim = fixture.shape(&q_name)[2];
            terms.push(bias_term(fixture, group, bias, first..first + dim));
            first += dim;
            q_groups.push(q_name);
            k_groups.push(k_name);
        }
        let coords = (!terms.is_empty()).then(|| (pack(fixture, device, &q_groups), pack(fixture, device, &k_groups)));
        let bias = coords.as_ref().map(|(q, k)| Bias::new(q, k, &terms));
        let mut options = ScanAttention::new(Layout::HeadMajor);
        options.key_mask = mask.as_ref();
        options.bias = bias;
        let read = scan_attention(&q, &k, &v, &options).unwrap();
        outputs.insert(name.clone(), read.values.read().unwrap());
    }
    outputs
}

/// Groups of coordinates `[batch, length, dim]`, side by side.
fn pack(fixture: &Fixture, device: &Device, names: &[String]) -> Tensor {
    let groups: Vec<(usize, Vec<f32>)> =
        names.iter().map(|name| (fixture.shape(name)[2], fixture.numbers(name))).collect();
    let shape = fixture.shape(&names[0]);
    let points = shape[0] * shape[1];
    let packed: Vec<f32> = (0..points)
        .flat_map(|i| groups.iter().flat_map(move |(dim, numbers)| numbers[i * dim..][..*dim].iter().copied()))
        .collect();
    Tensor::new(device, &[shape[0], shape[1], packed.len() / points], &packed).unwrap()
}

fn bias_term(fixture: &Fixture, group: &str, bias: &Value, columns: std::ops::Range<usize>) -> BiasTerm {
    let kind = bias["kind"].as_str().unwrap();
    let (kind, is_causal) = kind.strip_suffix("_causal_dt").map_or((kind, false), |kind| (kind, true));
    let (kind, is_geodesic) = kind.strip_prefix("geodesic_").map_or((kind, false), |kind| (kind, true));
    let kernel = match kind {
        "scalar" => BiasKernel::Scalar,
        "rbf_network" => BiasKernel::Rbf,
        "tisa" => BiasKernel::Tisa,
        "network" => BiasKernel::Exponential,
        other => panic!("{}: this test does not know the bias {other:?}", fixture.name),
    };
    let distance = match (is_causal, is_geodesic) {
        (true, _) => Distance::CausalTime,
        (false, true) => Distance::GreatCircle,
        (false, false) => Distance::Euclidean,
    };
    let parameter = |letter: &str| {
        let name = format!("param.{}{group}_bias_{letter}", bias["params"].as_str().unwrap_or_default());
        if fixture.has(&name) { fixture.numbers(&name) } else { Vec::new() }
    };
    let parameters: Vec<Vec<f32>> = kernel.parameters().iter().map(|letter| parameter(letter)).collect();
    let parameters: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
    BiasTerm::built_in(columns, distance, kernel, &parameters)
}

fn features(fixture: &Fixture, device: &Device) -> Result<Outputs, String> {
    let x = fixture.tensor(device, "in.x");
    let projection = fixture.tensor(device, "in.proj");
    let outputs = fixture.outputs().into_iter().map(|name| {
        let kind = match name.as_str() {
            // Two ways to compute the same numbers.
            "stable_positive_softmax" | "simple_positive_softmax" => FeatureKind::Softmax,
            "relu" => FeatureKind::Relu,
            "gelu" => FeatureKind::Gelu,
            "exp" => FeatureKind::Exp,
            "elu" => FeatureKind::Elu,
            other => return Err(format!("this test does not know the features {other:?}")),
        };
        let map = FeatureMap { kind, projection: Some(projection.clone()), scale: 1.0 };
        Ok((name, feature_map(&x, &map).unwrap().read().unwrap()))
    });
    outputs.collect()
}

fn favor(fixture: &Fixture, device: &Device) -> Outputs {
    let (q, k, v) = (fixture.tensor(device, "in.qs"), fixture.tensor(device, "in.ks"), fixture.tensor(device, "in.vs"));
    let attention = LinearAttention::favor(Layout::HeadMajor, fixture.tensor(device, "param.projections.qk_orf"));
    let outputs = fixture.outputs().into_iter().map(|name| {
        let mask = name.starts_with("mask").then(|| fixture.mask(device, &format!("in.{name}")));
        let state = attention.write(None, &k, &v, mask.as_ref()).unwrap();
        (name, attention.read(&q, &state).unwrap().values.read().unwrap())
    });
    outputs.collect()
}

fn deep_kernel(fixture: &Fixture, device: &Device) -> Result<Outputs, String> {
    let config = &fixture.config;
    let dims = |name: &str| -> Vec<usize> { serde_json::from_value(config[name].clone()).unwrap() };
    let mlp = |name| MlpConfig { dims: dims(name), activation: Activation::GeluTanh };
    let tensor = |name: &str| fixture.tensor(device, &format!("in.{name}"));
    let (q, k, v, q_s, k_s) = (tensor("qs"), tensor("ks"), tensor("vs"), tensor("qs_s"), tensor("ks_s"));
    let mut outputs = Outputs::new();
    for n_heads in dims("num_heads") {
        let (qks, vs, width, dim) = (mlp("proj_qks_dims"), mlp("proj_vs_dims"), q.shape()[2], q_s.shape()[2]);
        let attention = fixture
            .checkpoint()
            .load(device, |parameters| DeepKernelAttention::load(parameters, n_heads, &qks, &vs, width, dim));
        let attention = attention.map_err(|error| error.to_string())?;
        for has_mask in [true, false] {
            let mask = has_mask.then(|| fixture.mask(device, "in.mask_valid"));
            let state = attention.write(&k, &v, &k_s, 0..k_s.shape()[2], mask.as_ref()).unwrap();
            let read = attention.read(&q, &state, &q_s, 0..q_s.shape()[2], has_mask, None).unwrap();
            let name = format!("h{n_heads}_{}", if has_mask { "mask" } else { "nomask" });
            outputs.insert(name, read.read().unwrap());
        }
    }
    Ok(outputs)
}

/// The coordinate groups that a file has, in the order of concatenation.
fn groups<'a>(fixture: &Fixture, context: &str) -> Vec<(&'a str, usize)> {
    let of = |name: &'a str| {
        let tensor = format!("in.{name}_{context}");
        fixture.has(&tensor).then(|| (name, fixture.shape(&tensor)[2]))
    };
    ["x", "s", "t"].into_iter().filter_map(of).collect()
}

fn block(fixture: &Fixture, device: &Device) -> Result<Outputs, String> {
    let (qv, kv) = (fixture.tensor(device, "in.qvs"), fixture.tensor(device, "in.kvs"));
    let width = qv.shape()[2];
    // The block alone: what stands around it in a model is made up to fit.
    let model = serde_json::json!({
        "num_blks": 1,
        "blk": fixture.config["blk"],
        "embed_all": { "dims": [width] },
        "head": { "dims": [2] },
    });
    let groups = groups(fixture, "ctx");
    let config = Config::from_dl4bi(&model, 1, &groups).map_err(|error| error.to_string())?;
    let block = fixture.checkpoint().load(device, |parameters| KrBlock::load(parameters, &config));
    let block = block.map_err(|error| error.to_string())?;
    let mut columns = Vec::new();
    for (_, dim) in &groups {
        let first = columns.last().map_or(0, |last: &std::ops::Range<usize>| last.end);
        columns.push(first..first + dim);
    }
    let names = |suffix: &str| groups.iter().map(|(name, _)| format!("in.{name}_{suffix}")).collect::<Vec<_>>();
    let coords =
        (!groups.is_empty()).then(|| (pack(fixture, device, &names("test")), pack(fixture, device, &names("ctx"))));
    let mut outputs = Outputs::new();
    for (name, call) in fixture.config["calls"].as_object().unwrap() {
        let mask = (call["mask"] == true).then(|| fixture.mask(device, "in.mask"));
        let has_bias = call["bias"] == true;
        let matrix = |name: &str| has_bias.then(|| fixture.tensor(device, name));
        let q_coords = coords.as_ref().map(|(q, _)| (q, &columns[..]));
        let k_coords = coords.as_ref().map(|(_, k)| (k, &columns[..]));
        let memory = block.write(&kv, k_coords, mask.as_ref()).unwrap();
        let qvs = block.read(&qv, &memory, q_coords, matrix("in.bias_qk").as_ref()).unwrap();
        let kvs = block.read(&kv, &memory, k_coords, matrix("in.bias_kk").as_ref()).unwrap();
        outputs.insert(format!("{name}_qvs"), qvs.read().unwrap());
        outputs.insert(format!("{name}_kvs"), kvs.read().unwrap());
    }
    Ok(outputs)
}

fn model(fixture: &Fixture, path: &Path, device: &Device) -> Result<Outputs, String> {
    let n_values = fixture.shape("in.f_ctx")[2];
    let groups = groups(fixture, "ctx");
    let config = Config::from_dl4bi(&fixture.config["model"], n_values, &groups).map_err(|error| error.to_string())?;
    let checkpoint = match fixture.config["params_from"].as_str() {
        Some(other) => Fixture::open(&path.with_file_name(format!("{other}.safetensors"))).checkpoint(),
        None => fixture.checkpoint(),
    };
    let model = TnpKr::new(device, &config, &checkpoint).map_err(|error| error.to_string())?;
    let batch = fixture.shape("in.f_ctx")[0];
    let coords = |suffix: &str| -> Vec<Vec<f32>> {
        groups.iter().map(|(name, _)| fixture.numbers(&format!("in.{name}_{suffix}"))).collect()
    };
    let (ctx, test) = (coords("ctx"), coords("test"));
    let mut at_context = Locations::default().batch(batch);
    let mut at_test = Locations::default().batch(batch);
    for (i, (name, dim)) in groups.iter().enumerate() {
        at_context = at_context.group(name, *dim, &ctx[i]);
        at_test = at_test.group(name, *dim, &test[i]);
    }
    let values = fixture.numbers("in.f_ctx");
    let mut context = Context::new(at_context, &values);
    let mask = fixture.has("in.mask_ctx").then(|| fixture.booleans("in.mask_ctx"));
    if let Some(mask) = &mask {
        context = context.mask(mask);
    }
    let prediction = model.condition(&context).and_then(|posterior| posterior.predict(&at_test));
    let prediction = prediction.map_err(|error| error.to_string())?;
    let mut outputs = BTreeMap::new();
    if fixture.has("in.f_test") {
        let densities = prediction.log_density(&fixture.numbers("in.f_test")).map_err(|error| error.to_string())?;
        let mean = densities.iter().sum::<f64>() / prediction.mean().len() as f64;
        outputs.insert("nll".to_owned(), vec![-mean as f32]);
    }
    outputs.extend([
        ("mean".to_owned(), prediction.mean().to_vec()),
        ("p".to_owned(), prediction.mean().to_vec()),
        ("std".to_owned(), prediction.std().to_vec()),
        ("logits".to_owned(), prediction.activations().to_vec()),
        ("act".to_owned(), prediction.activations().to_vec()),
    ]);
    Ok(outputs)
}
