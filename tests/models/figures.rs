//! What the shipped checkpoints say of themselves, computed again: on the tasks of `tests/tasks`, which
//! `training/figures.py` drew and scored.

use std::path::Path;

use crate::support::fixture::Fixture;
use serde_json::Value;
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Prediction,
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
        let n = y.len() as f64;
        let square = |(y, mean): (&f32, &f32)| f64::from(y - mean).powi(2);
        let [low, high] = prediction.interval(0.95).unwrap();
        let covered =
            y.iter().zip(low.iter().zip(&high)).filter(|(y, (low, high))| (**low..**high).contains(&f64::from(**y)));
        let found = [
            ("log_likelihood", prediction.log_density(&y).unwrap().iter().sum::<f64>() / n),
            ("rmse", (y.iter().zip(prediction.mean()).map(square).sum::<f64>() / n).sqrt()),
            ("coverage", covered.count() as f64 / n),
        ];
        for (what, found) in found {
            let said = said["model"][what].as_f64().unwrap();
            // Five digits are written; both are float32 throughout, in another order of the sums. One target
            // in a thousand may lie so near an end of its interval that the two differ.
            let allowed = if what == "coverage" { 1e-3 } else { 1e-4 };
            assert!((found - said).abs() <= allowed, "{name}: {what} {found}, it says {said}");
        }
        scored.push(name);
    }
    scored.sort();
    assert_eq!(scored, ["cmanp_gp_1d", "field", "gp_1d", "gp_1d_deep_kernel", "record"]);
}
