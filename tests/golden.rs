//! Golden cases from the papers' own code: every `.safetensors` file of `tests/fixtures`, or of
//! the folder that `WGPU_ATTENTION_FIXTURES` names, is rebuilt from its metadata, run on the CPU
//! and on every adapter, and compared with float64. A case that is not known is a failure.

mod support;

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;
use support::{bound, devices, error, fixture, fixture::Fixture};
use wgpu_attention::{
    Device, Tensor,
    models::tnp_kr::{Config, Context, KrBlock, Locations, TnpKr},
    ops::{Bias, BiasTerm, Distance, Kernel, ScanAttention, scan_attention},
};

/// The outputs of a case on a device, by name.
type Outputs = BTreeMap<String, Vec<f32>>;

#[test]
fn golden() {
    let folder = fixture::folder();
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no .safetensors file in {}", folder.display());
    let devices = devices();
    let mut failures = Vec::new();
    for path in &paths {
        let fixture = Fixture::open(path);
        let mut line = format!("{:<52}", fixture.name);
        for (name, device) in &devices {
            match run(&fixture, path, device) {
                Err(message) => failures.push(format!("{} on {name}: {message}", fixture.name)),
                Ok(outputs) => {
                    let worst = compare(&fixture, name, device, &outputs, &mut failures);
                    line += &format!("  {name} {worst:.1e}");
                }
            }
        }
        println!("{line}");
    }
    assert!(failures.is_empty(), "{} failure(s):\n{}", failures.len(), failures.join("\n"));
}

/// The largest error of a case on a device; what exceeds its bound is noted.
fn compare(fixture: &Fixture, name: &str, device: &Device, outputs: &Outputs, failures: &mut Vec<String>) -> f64 {
    let mut worst = 0.0f64;
    if fixture.outputs().is_empty() {
        failures.push(format!("{} has no float64 output to compare with", fixture.name));
    }
    for output in fixture.outputs() {
        // Scan attention here is the textbook softmax; upstream's running maximum starts at
        // -1e-6, which two cases pin: there the truth is the textbook's.
        let reference = format!("ref64.{output}");
        let truth = if fixture.has(&reference) { reference } else { format!("out64.{output}") };
        let Some(found) = outputs.get(&output) else {
            failures.push(format!("{} on {name}: output {output} was not computed", fixture.name));
            continue;
        };
        let error = error(found, fixture.truth(&truth));
        let bound = bound(device, fixture.recorded(&output));
        if error > bound {
            failures.push(format!("{} on {name}: {output} is off by {error:.2e}, allowed {bound:.2e}", fixture.name));
        }
        worst = worst.max(error);
    }
    worst
}

fn run(fixture: &Fixture, path: &Path, device: &Device) -> Result<Outputs, String> {
    let op = fixture.config["op"].as_str().unwrap_or_default();
    match op {
        "scan_attention" | "BiasedScanAttention -> biased_scan_attention" => Ok(attention(fixture, device)),
        "KRBlock" => block(fixture, device),
        "BSATNP" | "BTNP" => model(fixture, path, device),
        other => Err(format!("this test does not know the operation {other:?}")),
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
        let options = ScanAttention { key_mask: mask.as_ref(), bias, ..Default::default() };
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
        "scalar" => Kernel::Scalar,
        "rbf_network" => Kernel::Rbf,
        "tisa" => Kernel::Tisa,
        "network" => Kernel::Exponential,
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
    let b = if kernel == Kernel::Scalar { Vec::new() } else { parameter("b") };
    let c = if kernel == Kernel::Tisa { parameter("c") } else { Vec::new() };
    BiasTerm::new(columns, distance, kernel, &parameter("a"), &b, &c)
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
        let memory = block.write(&kv, &columns).unwrap();
        let q_coords = coords.as_ref().map(|(q, k)| (q, k));
        let k_coords = coords.as_ref().map(|(_, k)| (k, k));
        let qvs = block.read(&qv, &memory, q_coords, mask.as_ref(), matrix("in.bias_qk").as_ref()).unwrap();
        let kvs = block.read(&kv, &memory, k_coords, mask.as_ref(), matrix("in.bias_kk").as_ref()).unwrap();
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
    Ok(BTreeMap::from([
        ("mean".to_owned(), prediction.mean.clone()),
        ("p".to_owned(), prediction.mean),
        ("std".to_owned(), prediction.std),
        ("logits".to_owned(), prediction.activations.clone()),
        ("act".to_owned(), prediction.activations),
    ]))
}
