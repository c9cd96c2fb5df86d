//! What the shipped checkpoints say of themselves, computed again: on the tasks of `tests/tasks`, which
//! `training/figures.py` drew and scored.

use std::path::Path;

use crate::support::fixture::Fixture;
use serde_json::Value;
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Output, Prediction,
        cmanp::{self, Cmanp},
        tnp_kr::{Context, Locations, TnpKr},
    },
};

/// Coordinate groups of a point, in order, with their sizes.
fn locations<'a>(groups: &'a [(&str, usize, Vec<f32>)], batch: usize) -> Locations<'a> {
    groups.iter().fold(Locations::default().batch(batch), |all, (name, dim, x)| all.group(name, *dim, x))
}

fn groups<'a>(kind: &str, dim: usize, points: &[f32]) -> Vec<(&'a str, usize, Vec<f32>)> {
    let part = |from: usize, to: usize| points.chunks(dim).flat_map(|x| &x[from..to]).copied().collect();
    match kind {
        "record" => vec![("s", 1, part(0, 1)), ("phase", 2, part(1, 3))],
        "epidemic" => vec![("s", 2, part(0, 2)), ("t", 1, part(2, 3))],
        _ => vec![("s", dim, part(0, dim))],
    }
}

fn predict(checkpoint: &Checkpoint, kind: &str, tasks: &Fixture) -> Prediction {
    let device = Device::cpu();
    let (batch, dim) = (tasks.shape("s_test")[0], tasks.shape("s_test")[2]);
    let (s, y, at) = (tasks.numbers("s_ctx"), tasks.numbers("f_ctx"), tasks.numbers("s_test"));
    let keep = tasks.booleans("mask_ctx");
    if checkpoint.metadata("model").unwrap() == "cmanp" {
        let model = Cmanp::from_checkpoint(&device, checkpoint).unwrap();
        let context = cmanp::Context::new(&s, &y).batch(batch).mask(&keep);
        return model.condition(&context).unwrap().predict(&at).unwrap();
    }
    let model = TnpKr::from_checkpoint(&device, checkpoint).unwrap();
    let (s, at) = (groups(kind, dim, &s), groups(kind, dim, &at));
    let context = Context::new(locations(&s, batch), &y).mask(&keep);
    model.condition(&context).unwrap().predict(&locations(&at, batch)).unwrap()
}

/// How good predictions are, by the names that `training/figures.py` gives the scores.
fn scores(prediction: &Prediction, y: &[f32]) -> Vec<(&'static str, f64)> {
    let log_densities = prediction.log_density(y).unwrap();
    let log_likelihood = ("log_likelihood", log_densities.iter().sum::<f64>() / log_densities.len() as f64);
    let square = |(y, mean): (&f32, &f32)| f64::from(y - mean).powi(2);
    let squares = y.iter().zip(prediction.mean()).map(square).sum::<f64>();
    let [batch, n_points, n_classes] = prediction.shape();
    let n = (batch * n_points) as f64;
    if prediction.output() == Output::Categorical {
        let most_likely = |p: &[f32]| (0..n_classes).max_by(|a, b| p[*a].total_cmp(&p[*b]));
        let pairs = y.chunks(n_classes).zip(prediction.mean().chunks(n_classes));
        let right = pairs.filter(|(y, p)| most_likely(y) == most_likely(p)).count() as f64;
        return vec![log_likelihood, ("brier", squares / n), ("most_likely_right", right / n)];
    }
    let [low, high] = prediction.interval(0.95).unwrap();
    let is_inside = |(y, (low, high)): &(&f32, (&f64, &f64))| (**low..**high).contains(&f64::from(**y));
    let covered = y.iter().zip(low.iter().zip(&high)).filter(is_inside).count() as f64;
    vec![log_likelihood, ("rmse", (squares / n).sqrt()), ("coverage", covered / n)]
}

#[test]
fn checkpoints_are_as_good_as_they_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut scored = Vec::new();
    for entry in root.join("checkpoints").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if !["tnp_kr", "cmanp"].contains(&checkpoint.metadata("model").unwrap()) {
            continue;
        }
        let said: Value = serde_json::from_str(checkpoint.metadata("evaluation").unwrap()).unwrap();
        let kind = said["tasks"].as_str().unwrap();
        let tasks = Fixture::open(&root.join(format!("tests/tasks/{kind}.safetensors")));
        let prediction = predict(&checkpoint, kind, &tasks);
        let y = tasks.numbers("f_test");
        for (what, found) in scores(&prediction, &y) {
            let said = said["model"][what].as_f64().unwrap();
            // Five digits are written; both are float32 throughout, in another order of the sums. One target
            // in a thousand may lie so near the end of an interval, or between two classes, that the two differ.
            let allowed = if ["coverage", "most_likely_right"].contains(&what) { 1e-3 } else { 1e-4 };
            assert!((found - said).abs() <= allowed, "{name}: {what} {found}, it says {said}");
        }
        scored.push(name);
    }
    scored.sort();
    assert_eq!(scored, ["cmanp_gp_1d", "epidemic", "field", "gp_1d", "gp_1d_deep_kernel", "record"]);
}
