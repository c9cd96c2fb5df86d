//! How good predictions are: RMSE, mean log-likelihood and coverage.

use std::ops::Range;

use anyhow::Result;
use shared::{
    axis::number,
    normal::{Normal, quantile},
    say,
};

/// The scores of a model on a group of points.
#[derive(Clone)]
pub struct Scores {
    group: &'static str,
    model: &'static str,
    /// Points; over splits, their mean.
    n: f64,
    rmse: f64,
    log_likelihood: f64,
    /// The share that lies in the central 95%.
    coverage: f64,
}

/// The scores of each model that predicted, on all points and, where there is a gap, apart. Only
/// points that were observed count.
pub fn of_split(y: &[f64], gap: &Range<usize>, models: &[(&'static str, &Vec<Normal>)]) -> Vec<Scores> {
    let all: Vec<usize> = (0..y.len()).filter(|&i| y[i].is_finite()).collect();
    let (in_gap, scattered): (Vec<usize>, Vec<usize>) = all.iter().partition(|i| gap.contains(i));
    let mut groups = vec![("all", all)];
    if !in_gap.is_empty() && !scattered.is_empty() {
        groups.extend([("scattered", scattered), ("in the gap", in_gap)]);
    }
    let mut scores = Vec::new();
    for (group, points) in groups {
        for &(model, predictions) in models.iter().filter(|(_, predictions)| !predictions.is_empty()) {
            let n = points.len() as f64;
            let mean = |score: &dyn Fn(usize) -> f64| points.iter().map(|&i| score(i) / n).sum::<f64>();
            // Over the largest, so that no square overflows.
            let error = |i: usize| (y[i] - predictions[i].mean).abs();
            let largest = points.iter().map(|&i| error(i)).fold(f64::MIN_POSITIVE, f64::max);
            scores.push(Scores {
                group,
                model,
                n,
                rmse: largest * mean(&|i| (error(i) / largest).powi(2)).sqrt(),
                log_likelihood: mean(&|i| predictions[i].log_density(y[i])),
                coverage: mean(&|i| f64::from(u8::from(predictions[i].covers(y[i])))),
            });
        }
    }
    scores
}

/// The medians of scores over splits, which all have the same groups and models; of the coverage, the
/// mean.
pub fn medians(splits: &[Vec<Scores>]) -> Vec<Scores> {
    let n = splits.len() as f64;
    let Some(first) = splits.first() else { return Vec::new() };
    let mean = |i: usize, of: fn(&Scores) -> f64| splits.iter().map(|split| of(&split[i]) / n).sum();
    let median = |i: usize, of: fn(&Scores) -> f64| quantile(splits.iter().map(|split| of(&split[i])), 0.5);
    let scores = first.iter().enumerate().map(|(i, scores)| Scores {
        n: mean(i, |scores| scores.n),
        rmse: median(i, |scores| scores.rmse),
        log_likelihood: median(i, |scores| scores.log_likelihood),
        coverage: mean(i, |scores| scores.coverage),
        ..scores.clone()
    });
    scores.collect()
}

/// Prints a table.
pub fn print(scores: &[Scores]) -> Result<()> {
    say!(
        "\n{:<12} {:>6}  {:<18} {:>8} {:>15} {:>12}",
        "held out",
        "points",
        "",
        "RMSE",
        "log-likelihood",
        "in 95% band"
    )?;
    for Scores { group, model, n, rmse, log_likelihood, coverage } in scores {
        let (rmse, log_likelihood, coverage) = (number(*rmse), number(*log_likelihood), 100.0 * coverage);
        say!("{group:<12} {n:>6.0}  {model:<18} {rmse:>8} {log_likelihood:>15} {coverage:>10.1} %")?;
    }
    Ok(())
}
