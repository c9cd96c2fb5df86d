//! What the shipped checkpoints say of themselves, computed again: on the tasks of `tests/tasks`, which
//! `training/figures.py` drew and scored.

use std::path::{Path, PathBuf};

use crate::support::fixture::Fixture;
use serde_json::Value;
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        Output, Prediction,
        cmanp::{self, Cmanp},
        nam::{Episode, FewShot, LsamAe, NamTmAe},
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

/// Each by the name that `training/figures.py` gives it.
type Scores = Vec<(String, f64)>;

/// How good predictions are.
fn scores(prediction: &Prediction, y: &[f32]) -> Scores {
    let log_densities = prediction.log_density(y).unwrap();
    let log_likelihood = ("log_likelihood".into(), log_densities.iter().sum::<f64>() / log_densities.len() as f64);
    let square = |(y, mean): (&f32, &f32)| f64::from(y - mean).powi(2);
    let squares = y.iter().zip(prediction.mean()).map(square).sum::<f64>();
    let [batch, n_points, n_classes] = prediction.shape();
    let n = (batch * n_points) as f64;
    if prediction.output() == Output::Categorical {
        let most_likely = |p: &[f32]| (0..n_classes).max_by(|a, b| p[*a].total_cmp(&p[*b]));
        let pairs = y.chunks(n_classes).zip(prediction.mean().chunks(n_classes));
        let right = pairs.filter(|(y, p)| most_likely(y) == most_likely(p)).count() as f64;
        return vec![log_likelihood, ("brier".into(), squares / n), ("most_likely_right".into(), right / n)];
    }
    let [low, high] = prediction.interval(0.95).unwrap();
    let is_inside = |(y, (low, high)): &(&f32, (&f64, &f64))| (**low..**high).contains(&f64::from(**y));
    let covered = y.iter().zip(low.iter().zip(&high)).filter(is_inside).count() as f64;
    vec![log_likelihood, ("rmse".into(), (squares / n).sqrt()), ("coverage".into(), covered / n)]
}

/// Sums over the logits of some places: of the log-likelihood of the right class, and whether it is the largest.
#[derive(Default)]
struct Logits {
    n: f64,
    log_likelihood: f64,
}

impl Logits {
    /// Whether the class is the largest of its logits.
    fn add(&mut self, logits: &[f32], class: usize) -> bool {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
        self.n += 1.0;
        self.log_likelihood += f64::from(logits[class] - largest) - sum.ln();
        logits[class] >= largest
    }

    fn mean(&self) -> (String, f64) {
        ("log_likelihood".into(), self.log_likelihood / self.n)
    }
}

fn classes(tasks: &Fixture, name: &str) -> Vec<usize> {
    tasks.truth(name).iter().map(|&x| x as usize).collect()
}

/// How an algorithm does on problems of several lengths, whose answers stand at their end.
fn score_algorithm(checkpoint: &Checkpoint, tasks: &Fixture) -> Scores {
    let device = Device::cpu();
    let logits = |batch: usize, tokens: &[usize]| match checkpoint.metadata("model").unwrap() {
        "nam_lsam" => LsamAe::from_checkpoint(&device, checkpoint).unwrap().predict(batch, tokens).unwrap(),
        _ => NamTmAe::from_checkpoint(&device, checkpoint).unwrap().predict(batch, tokens).unwrap(),
    };
    let (mut all, mut scores) = (Logits::default(), Vec::new());
    for n in [8, 16, 24] {
        let (tokens, answers) = (classes(tasks, &format!("tokens.{n}")), classes(tasks, &format!("answers.{n}")));
        let [batch, n_answers] = *tasks.shape(&format!("answers.{n}")) else { panic!("answers of no batch") };
        let logits = logits(batch, &tokens);
        let vocabulary = logits.len() / tokens.len();
        let problem = |(logits, answer): (&[f32], &[usize])| {
            let last = logits.rchunks(n_answers * vocabulary).next().unwrap();
            let places = last.chunks(vocabulary).zip(answer);
            places.filter(|(logits, class)| !all.add(logits, **class)).count() == 0
        };
        let problems = logits.chunks(logits.len() / batch).zip(answers.chunks(n_answers));
        let right = problems.map(problem).filter(|is_right| *is_right).count();
        scores.push((format!("right_{n}"), right as f64 / batch as f64));
    }
    scores.push(all.mean());
    scores
}

/// How a few-shot classifier does on episodes of rows of `data/digits.csv`.
fn score_few_shot(checkpoint: &Checkpoint, tasks: &Fixture) -> Scores {
    let about: Value = serde_json::from_str(checkpoint.metadata("task").unwrap()).unwrap();
    let scale = about["pixel_scale"].as_f64().unwrap();
    let digits = std::fs::read_to_string(root().join("data/digits.csv")).unwrap();
    let pixels = |row: &str| row.split(',').skip(2).map(|x| (x.parse::<f64>().unwrap() * scale) as f32).collect();
    let images: Vec<Vec<f32>> = digits.lines().skip(1).map(pixels).collect();
    let of = |rows: &[usize]| rows.iter().flat_map(|&row| images[row].clone()).collect::<Vec<f32>>();
    let list = |name: &str| serde_json::from_value::<Vec<usize>>(about[name].clone()).unwrap();
    let (base_ids, n_novel) = (list("base_ids"), list("novel_classes").len());
    let (n_supports, n_queries) = (tasks.shape("supports")[1], tasks.shape("queries")[1]);
    let label = |i: usize| (0..n_novel).map(move |class| f32::from(u8::from(i * n_novel / n_supports == class)));
    let labels: Vec<f32> = (0..n_supports).flat_map(label).collect();

    let model = FewShot::from_checkpoint(&Device::cpu(), checkpoint).unwrap();
    let n_classes = base_ids.len() + n_novel;
    let (supports, queries) = (classes(tasks, "supports"), classes(tasks, "queries"));
    let (mut all, mut right) = (Logits::default(), 0.0);
    for (supports, queries) in supports.chunks(n_supports).zip(queries.chunks(n_queries)) {
        let supports = of(supports);
        let episode = Episode { batch: 1, n_novel, supports: &supports, labels: &labels, base_ids: &base_ids };
        let classifier = model.condition(&episode).unwrap();
        let scores = classifier.scores(&model.features(1, &of(queries)).unwrap()).unwrap().read().unwrap();
        for (i, scores) in scores.chunks(n_classes).enumerate() {
            right += f64::from(u8::from(all.add(scores, i * n_classes / n_queries)));
        }
    }
    vec![("both".into(), right / all.n), all.mean()]
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn checkpoints_are_as_good_as_they_say() {
    let mut paths: Vec<PathBuf> =
        root().join("checkpoints").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 22, "only {} checkpoints", paths.len());
    for path in paths {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy();
        let said: Value = serde_json::from_str(checkpoint.metadata("evaluation").unwrap()).unwrap();
        let kind = said["tasks"].as_str().unwrap();
        let tasks = Fixture::open(&root().join(format!("tests/tasks/{kind}.safetensors")));
        let found = match checkpoint.metadata("model").unwrap() {
            "tnp_kr" | "cmanp" => scores(&predict(&checkpoint, kind, &tasks), &tasks.numbers("f_test")),
            "nam_tm" | "nam_lsam" => score_algorithm(&checkpoint, &tasks),
            "nam_few_shot" => score_few_shot(&checkpoint, &tasks),
            other => panic!("{name}: nothing scores the model {other}"),
        };
        assert_eq!(found.len(), said["model"].as_object().unwrap().len(), "{name}: {said}");
        for (what, found) in found {
            let said = said["model"][&what].as_f64().unwrap();
            // Five digits are written; both are float32 throughout, in another order of the sums. One target
            // in a thousand may lie so near the end of an interval, or between two classes, that the two differ.
            let is_mean = ["log_likelihood", "rmse", "brier"].contains(&&what[..]);
            let allowed = if is_mean { 1e-4 } else { 1e-3 };
            assert!((found - said).abs() <= allowed, "{name}: {what} {found}, it says {said}");
        }
    }
}
