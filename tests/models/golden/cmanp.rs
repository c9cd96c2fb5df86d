//! The cases of CMANP, CMANP-AND and LBANP (arXiv 2305.14567), and of the layers they share.

use std::path::Path;

use wgpu_attention::{
    Device, Error, Tensor,
    checkpoint::{Checkpoint, Parameters},
    models::{
        Prediction,
        cmanp::{
            Attention, Cmab, CmabSizes, Cmanp, Config, Context, CovarianceConfig, CovarianceKind, DecoderLayer,
            FeedForward, JointPrediction, Posterior, PreNormAttention, PreNormFeedForward, TransformerLayer,
        },
        layers::{Mlp, softplus, torch_linear},
    },
    ops::{Activation, RollingState, geglu, linear},
};

use super::Outputs;
#[cfg(target_arch = "wasm32")]
use crate::support::blocking::*;
use crate::support::fixture::Fixture;

/// `None` if the case is of another system.
pub fn run(fixture: &Fixture, _path: &Path, device: &Device) -> Option<Result<Outputs, String>> {
    let case = fixture.case.as_str();
    let model = fixture.config.get("num_layers").is_some();
    let outputs = match case {
        _ if case.starts_with("cmanp_attention_mask") => masked(fixture, device),
        _ if case.starts_with("cmanp_attention") => attention(fixture, device),
        _ if case.starts_with("cmanp_cmab") => cmab(fixture, device),
        _ if case.starts_with("cmanp_decoder_layer") => decoder_layer(fixture, device),
        _ if case.starts_with("cmanpand_") && model => joint(fixture, device),
        _ if (case.starts_with("cmanp_") || case.starts_with("lbanp_")) && model => whole(fixture, device),
        _ if case.starts_with("op_geglu_ff") => feed_forward(fixture, device),
        _ if case.starts_with("op_mlp") => mlp(fixture, device),
        _ if case.starts_with("op_softplus") => {
            let y = fixture.numbers("in.x").into_iter().map(softplus).collect();
            Ok(Outputs::from([("y".to_owned(), y)]))
        }
        _ => return None,
    };
    Some(outputs.map_err(|error| error.to_string()))
}

fn size(fixture: &Fixture, name: &str) -> usize {
    fixture.config[name].as_u64().unwrap_or_else(|| panic!("{}: config.{name}", fixture.name)) as usize
}

fn counts(fixture: &Fixture) -> usize {
    fixture.config["update_counts"].as_array().map_or(0, Vec::len)
}

/// The parameters whose names begin with one of some prefixes.
fn part(fixture: &Fixture, prefixes: &[&str]) -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    for name in fixture.checkpoint().names().filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))) {
        let param = format!("param.{name}");
        checkpoint.insert(name, fixture.shape(&param), fixture.numbers(&param)).unwrap();
    }
    checkpoint
}

/// Loads a part of the model by the scope of its parameters.
fn load<T>(
    fixture: &Fixture,
    device: &Device,
    scope: &str,
    build: impl Fn(&Parameters<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    part(fixture, &[&format!("{scope}.")]).load(device, |parameters| build(&parameters.scope(scope)))
}

/// Notes a state as the papers' code lays it out: `[batch * heads, n, 1]` and `[.., n, dim]`.
fn insert_state(outputs: &mut Outputs, name: &str, state: &RollingState) -> Result<(), Error> {
    let read = state.read()?;
    let &[batch, n, heads] = read.log_sum_exp.shape() else { panic!("a projected state") };
    let by_head = |numbers: Vec<f32>| {
        let dim = numbers.len() / (batch * n * heads);
        let at = move |b, h, i: usize| ((b * n + i) * heads + h) * dim;
        let rows = (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..n).map(move |i| at(b, h, i))));
        rows.flat_map(|at| numbers[at..at + dim].to_vec()).collect::<Vec<f32>>()
    };
    outputs.insert(format!("{name}.constant"), by_head(read.log_sum_exp.read()?));
    outputs.insert(format!("{name}.embedding"), by_head(read.values.read()?));
    Ok(())
}

fn load_attention(fixture: &Fixture, device: &Device) -> Result<Attention, Error> {
    let [query, context, heads, dim] =
        ["query_dim", "context_dim", "heads", "dim_head"].map(|name| size(fixture, name));
    fixture.checkpoint().load(device, |parameters| Attention::load(parameters, query, context, heads, dim))
}

fn attention(fixture: &Fixture, device: &Device) -> Result<Outputs, Error> {
    let attention = load_attention(fixture, device)?;
    let q = fixture.tensor(device, "in.q");
    let contexts: Vec<String> = (0..).map(|i| format!("in.ctx{i}")).take_while(|name| fixture.has(name)).collect();
    let rolling = attention.queries(&q)?;
    let mut outputs = Outputs::new();
    let mut state: Option<RollingState> = None;
    for (i, context) in contexts.iter().enumerate() {
        let [k, v] = attention.keys_values(&fixture.tensor(device, context))?;
        let written = rolling.write(state.as_ref(), &k, &v, None)?;
        let y = attention.finish(&written.read()?.values, None)?;
        outputs.insert(format!("y{i}"), y.read()?);
        if i == 0 {
            outputs.insert("y0_plain".into(), attention.forward(&q, &[k, v], None, None)?.read()?);
        }
        insert_state(&mut outputs, &format!("state{i}"), &written)?;
        state = Some(written);
    }
    let all = concat(fixture, device, &contexts);
    let [k, v] = attention.keys_values(&all)?;
    let full = rolling.write(None, &k, &v, None)?;
    insert_state(&mut outputs, "full_state", &full)?;
    outputs.insert("full_with_state".into(), attention.finish(&full.read()?.values, None)?.read()?);
    outputs.insert("full".into(), attention.forward(&q, &[k, v], None, None)?.read()?);
    Ok(outputs)
}

/// Points `[batch, n, dim]` after each other.
fn concat(fixture: &Fixture, device: &Device, names: &[String]) -> Tensor {
    let parts: Vec<Vec<f32>> = names.iter().map(|name| fixture.numbers(name)).collect();
    let (batch, dim) = (fixture.shape(&names[0])[0], fixture.shape(&names[0])[2]);
    let of_batch = |b| parts.iter().flat_map(move |part| part.chunks(part.len() / batch).nth(b).unwrap());
    let all: Vec<f32> = (0..batch).flat_map(of_batch).copied().collect();
    Tensor::new(device, &[batch, all.len() / batch / dim, dim], &all).unwrap()
}

fn masked(fixture: &Fixture, device: &Device) -> Result<Outputs, Error> {
    let attention = load_attention(fixture, device)?;
    let keys_values = attention.keys_values(&fixture.tensor(device, "in.ctx"))?;
    let mask = fixture.mask(device, "in.mask");
    let y = attention.forward(&fixture.tensor(device, "in.q"), &keys_values, Some(&mask), None)?;
    Ok(Outputs::from([("y".into(), y.read()?)]))
}

fn cmab(fixture: &Fixture, device: &Device) -> Result<Outputs, Error> {
    let sizes = CmabSizes {
        n_latents: size(fixture, "num_latents"),
        latent_dim: size(fixture, "latent_dim"),
        context_dim: size(fixture, "d_model"),
        n_heads: size(fixture, "nhead"),
        dim_feedforward: size(fixture, "dim_feedforward"),
    };
    let cmab = fixture.checkpoint().load(device, |parameters| Cmab::load(parameters, &sizes))?;
    let context = fixture.tensor(device, "in.ctx");
    let latents = fixture.tensor(device, "in.latents");
    let queries = cmab.queries(context.shape()[0])?;
    let mut outputs = Outputs::new();
    let mut insert = |suffix: &str, state: &RollingState| {
        insert_state(&mut outputs, &format!("state{suffix}"), state)?;
        outputs.insert(format!("y{suffix}"), cmab.read(&queries, state, &latents)?.read()?);
        Ok::<_, Error>(())
    };
    let whole = cmab.write(&queries, None, &context, None)?;
    insert("", &whole)?;
    let blocks = slices(fixture, device, "in.ctx", size(fixture, "CMAB_block_size"));
    let blocked = blocks.iter().try_fold(None, |state: Option<RollingState>, block| {
        cmab.write(&queries, state.as_ref(), block, None).map(Some)
    });
    insert("_blocked", &blocked?.unwrap())?;
    let mut state = whole;
    let mut names = vec!["in.ctx".to_owned()];
    for i in 0..counts(fixture) {
        names.push(format!("in.new{i}"));
        state = cmab.write(&queries, Some(&state), &fixture.tensor(device, &names[i + 1]), None)?;
        insert(&format!("_update{i}"), &state)?;
    }
    let all = cmab.write(&queries, None, &concat(fixture, device, &names), None)?;
    insert("_concat", &all)?;
    // Every sub-layer by itself, in its order.
    let (width, heads, hidden) = (sizes.latent_dim, sizes.n_heads, sizes.dim_feedforward);
    let attend = |name: &str, context_dim, x: &Tensor, context: Option<&Tensor>| {
        let layer = load(fixture, device, name, |p| PreNormAttention::load(p, width, context_dim, heads))?;
        layer.forward(x, context)
    };
    let feed = |name: &str, x: &Tensor| {
        load(fixture, device, name, |p| PreNormFeedForward::load(p, width, hidden))?.forward(x)
    };
    let own: Vec<f32> = fixture.numbers("param.latents").repeat(context.shape()[0]);
    let own = Tensor::new(device, &[context.shape()[0], sizes.n_latents, width], &own)?;
    let mut mid = |name: &str, x: Tensor| {
        outputs.insert(format!("mid.{name}"), x.read()?);
        Ok::<_, Error>(x)
    };
    let z = attend("layer_cross_attn", Some(sizes.context_dim), &own, Some(&context))?;
    let z = mid("layer_cross_attn", z)?;
    let z = mid("layer_cross_ff", feed("layer_cross_ff", &z)?)?;
    let z = mid("layer_latent_self_attn", attend("layer_latent_self_attn", None, &z, None)?)?;
    let z = mid("layer_latent_ff", feed("layer_latent_ff", &z)?)?;
    let x = mid("cross_attn", attend("cross_attn", Some(width), &latents, Some(&z))?)?;
    let x = mid("cross_ff", feed("cross_ff", &x)?)?;
    let x = mid("latent_self_attn", attend("latent_self_attn", None, &x, None)?)?;
    mid("latent_ff", feed("latent_ff", &x)?)?;
    Ok(outputs)
}

/// Points `[batch, n, dim]` in blocks of `step`.
fn slices(fixture: &Fixture, device: &Device, name: &str, step: usize) -> Vec<Tensor> {
    let &[batch, n, dim] = fixture.shape(name) else { panic!("points") };
    let numbers = fixture.numbers(name);
    let block = |start: usize| {
        let end = n.min(start + step);
        let rows: Vec<f32> = numbers.chunks(n * dim).flat_map(|rows| &rows[start * dim..end * dim]).copied().collect();
        Tensor::new(device, &[batch, end - start, dim], &rows).unwrap()
    };
    (0..n).step_by(step).map(block).collect()
}

fn decoder_layer(fixture: &Fixture, device: &Device) -> Result<Outputs, Error> {
    let [width, heads, hidden] = ["d_model", "nhead", "dim_feedforward"].map(|name| size(fixture, name));
    let (x, context) = (fixture.tensor(device, "in.x"), fixture.tensor(device, "in.ctx"));
    let layer = fixture.checkpoint().load(device, |p| DecoderLayer::load(p, width, heads, hidden))?;
    let y = layer.read(&x, &layer.keys_values(&context)?)?;
    let first = load(fixture, device, "cross_attn", |p| PreNormAttention::load(p, width, Some(width), heads))?;
    let after = first.forward(&x, Some(&context))?;
    Ok(Outputs::from([("y".into(), y.read()?), ("after_cross_attn".into(), after.read()?)]))
}

fn feed_forward(fixture: &Fixture, device: &Device) -> Result<Outputs, Error> {
    let [width, hidden] = ["dim", "dim_feedforward"].map(|name| size(fixture, name));
    let x = fixture.tensor(device, "in.x");
    let layer = fixture.checkpoint().load(device, |p| FeedForward::load(p, width, hidden))?;
    let first = load(fixture, device, "net.0", |p| torch_linear(p, width, 2 * hidden, true))?;
    let both = linear(&x, &first, Activation::None, None)?;
    let y = layer.forward(&x, None)?;
    Ok(Outputs::from([
        ("geglu".into(), geglu(&both)?.read()?),
        ("hidden".into(), both.read()?),
        ("y".into(), y.read()?),
    ]))
}

fn mlp(fixture: &Fixture, device: &Device) -> Result<Outputs, Error> {
    let mut dims = vec![size(fixture, "dim_hid"); size(fixture, "depth")];
    *dims.last_mut().unwrap() = size(fixture, "dim_out");
    let mlp = fixture.checkpoint().load(device, |p| Mlp::load_torch(p, size(fixture, "dim_in"), &dims))?;
    Ok(Outputs::from([("y".into(), mlp.forward(&fixture.tensor(device, "in.x"), None)?.read()?)]))
}

/// The configuration of a whole model.
fn config(fixture: &Fixture) -> Config {
    let get = |name| size(fixture, name);
    let covariance = fixture.config["cov_approx"].as_str().map(|kind| CovarianceConfig {
        kind: match kind {
            "cholesky" => CovarianceKind::Cholesky,
            "lowrank" => CovarianceKind::LowRank,
            other => panic!("{}: this test does not know the covariance {other:?}", fixture.name),
        },
        n_layers: get("num_std_layers"),
        prj_dim: get("prj_dim"),
        prj_depth: get("prj_depth"),
        diag_depth: get("diag_depth"),
    });
    Config {
        dim_x: get("dim_x"),
        dim_y: get("dim_y"),
        d_model: get("d_model"),
        dim_feedforward: get("dim_feedforward"),
        n_heads: get("nhead"),
        n_latents: get("num_latents"),
        n_latents_per_layer: fixture.config["num_latents_per_layer"].as_u64().map(|n| n as usize),
        n_layers: get("num_layers"),
        emb_depth: get("emb_depth"),
        bound_std: fixture.config["bound_std"] == true,
        covariance,
    }
}

fn whole(fixture: &Fixture, device: &Device) -> Result<Outputs, Error> {
    let model = Cmanp::new(device, &config(fixture), &fixture.checkpoint())?;
    let batch = fixture.shape("in.xc")[0];
    let [xc, yc, xt, yt] = ["xc", "yc", "xt", "yt"].map(|name| fixture.numbers(&format!("in.{name}")));
    let mut outputs = Outputs::new();
    let mut insert = |suffix: &str, posterior: &Posterior| -> Result<Prediction, Error> {
        let prediction = posterior.predict(&xt)?;
        outputs.insert(format!("mean{suffix}"), prediction.mean().to_vec());
        outputs.insert(format!("std{suffix}"), prediction.std().to_vec());
        for (l, state) in posterior.states().iter().enumerate() {
            insert_state(&mut outputs, &format!("state{suffix}.{l}"), state)?;
        }
        Ok(prediction)
    };
    let posterior = model.condition(&Context::new(&xc, &yc).batch(batch))?;
    let prediction = insert("", &posterior)?;
    // Blocks of 7 points of each batch element.
    insert("_blocked", &model.condition_in_blocks(&Context::new(&xc, &yc).batch(batch), 7 * batch)?)?;
    if counts(fixture) > 0 {
        let (mut updated, mut names) = (posterior.clone(), vec!["c".to_owned()]);
        for i in 0..counts(fixture) {
            names.push(format!("u{i}"));
            let [x, y] = ["x", "y"].map(|name| fixture.numbers(&format!("in.{name}u{i}")));
            updated = updated.update(&Context::new(&x, &y).batch(batch))?;
            insert(&format!("_update{i}"), &updated)?;
        }
        let all = |letter| {
            let names: Vec<String> = names.iter().map(|name| format!("in.{letter}{name}")).collect();
            concat(fixture, &Device::cpu(), &names).read().unwrap()
        };
        insert("_concat", &model.condition(&Context::new(&all("x"), &all("y")).batch(batch))?)?;
    }
    for (l, encoding) in posterior.encodings()?.iter().enumerate() {
        outputs.insert(format!("ctx_enc.{l}"), encoding.read()?);
    }
    let points = prediction.log_density(&yt)?;
    outputs.insert("tar_ll".into(), vec![(points.iter().sum::<f64>() / points.len() as f64) as f32]);
    outputs.insert("tar_ll_points".into(), narrow(&points));
    Ok(outputs)
}

fn narrow(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&x| x as f32).collect()
}

fn joint(fixture: &Fixture, device: &Device) -> Result<Outputs, Error> {
    let config = config(fixture);
    let model = Cmanp::new(device, &config, &fixture.checkpoint())?;
    let batch = fixture.shape("in.xc")[0];
    let [xc, yc, xt, yt] = ["xc", "yc", "xt", "yt"].map(|name| fixture.numbers(&format!("in.{name}")));
    let posterior = model.condition(&Context::new(&xc, &yc).batch(batch))?;
    let mut outputs = Outputs::new();
    let all = |predictions: &[JointPrediction], of: fn(&JointPrediction) -> Vec<f64>| -> Vec<f32> {
        predictions.iter().flat_map(|prediction| narrow(&of(prediction))).collect()
    };
    let predictions = posterior.predict_joint(&xt)?;
    outputs.insert("joint.mean".into(), all(&predictions, JointPrediction::mean));
    outputs.insert("joint.scale_tril".into(), all(&predictions, JointPrediction::factor));
    outputs.insert("joint.covariance".into(), all(&predictions, JointPrediction::covariance));
    let of_batch = predictions.iter().zip(yt.chunks(yt.len() / batch));
    let log_prob = of_batch.map(|(prediction, y)| prediction.log_density(y)).collect::<Result<Vec<_>, _>>()?;
    outputs.insert("joint.log_prob".into(), narrow(&log_prob));
    let projections = predictions.iter().flat_map(|prediction| prediction.projections().to_vec());
    outputs.insert("std_prj".into(), projections.collect());
    let encoded = posterior.encode(&xt)?;
    outputs.insert("target_encoding".into(), encoded.read()?);
    let mut x = encoded;
    for l in 0..config.covariance.map_or(0, |covariance| covariance.n_layers) {
        let layer = load(fixture, device, &format!("std_encoder.layers.{l}"), |p| {
            TransformerLayer::load(p, config.d_model, config.n_heads, config.dim_feedforward)
        })?;
        x = layer.forward(&x)?;
    }
    outputs.insert("std_encoder".into(), x.read()?);
    let evaluation = posterior.evaluate(&xt, &yt, size(fixture, "AND_block_size"))?;
    // The covariances of the blocks, which it does not keep.
    let mut posterior = posterior;
    let (block, n) = (size(fixture, "AND_block_size"), xt.len() / config.dim_x / batch);
    let mut last = Vec::new();
    for (i, log_densities) in evaluation.log_densities.iter().enumerate() {
        let pick = |numbers: &[f32], dim: usize| -> Vec<f32> {
            let of_batch = numbers.chunks(n * dim);
            of_batch.flat_map(|rows| &rows[i * block * dim..n.min((i + 1) * block) * dim]).copied().collect()
        };
        let (x, y) = (pick(&xt, config.dim_x), pick(&yt, config.dim_y));
        let predictions = posterior.predict_joint(&x)?;
        outputs.insert(format!("eval.block{i}.mean"), all(&predictions, JointPrediction::mean));
        outputs.insert(format!("eval.block{i}.scale_tril"), all(&predictions, JointPrediction::factor));
        outputs.insert(format!("eval.block{i}.log_prob"), narrow(log_densities));
        last = all(&predictions, JointPrediction::covariance);
        posterior = posterior.update(&Context::new(&x, &y).batch(batch))?;
    }
    outputs.insert("eval.mean_std".into(), vec![last.iter().sum::<f32>() / last.len() as f32]);
    outputs.insert("eval.tar_ll".into(), narrow(&evaluation.per_target));
    let mean = evaluation.per_target.iter().sum::<f64>() / batch as f64;
    outputs.insert("eval.tar_ll_mean".into(), vec![mean as f32]);
    Ok(outputs)
}
