//! Exact Gaussian processes, one for each neighbourhood: the yardstick. The level and the variance are
//! those of the neighbourhood; roughness, length and noise are the same everywhere, those under which a
//! sample of neighbourhoods is most likely.

use anyhow::{Context as _, Result};
use shared::{
    normal::Normal,
    process::{Hyper, Process, between},
};
use wgpu_attention::models::Neighbourhood;

use crate::field::Field;

/// Multiples of a neighbourhood's size, and shares of noise, that are tried.
const LENGTHS: [f64; 6] = [0.3, 0.6, 1.2, 2.5, 5.0, 10.0];
const NOISES: [f64; 5] = [1e-4, 0.01, 0.03, 0.1, 0.3];
/// Neighbourhoods that the choice sees.
const SAMPLE: usize = 60;

/// The observations of a neighbourhood, in straight coordinates.
fn observations(field: &Field, straight: &[[f64; 2]], part: &Neighbourhood) -> (Vec<[f64; 2]>, Vec<f64>) {
    part.observations.iter().map(|&i| (straight[i], field.values[i])).unzip()
}

/// The choice under which a sample of neighbourhoods is most likely.
pub fn fit(field: &Field, straight: &[[f64; 2]], parts: &[Neighbourhood]) -> Result<Hyper> {
    let step = parts.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<_> = parts.iter().step_by(step).map(|part| observations(field, straight, part)).collect();
    let reach = |places: &[[f64; 2]]| places.iter().map(|&place| between(place, places[0])).fold(0.0, f64::max);
    let size = sample.iter().map(|(places, _)| reach(places)).sum::<f64>() / sample.len().max(1) as f64;
    let mut best: Option<(f64, Hyper)> = None;
    for hyper in Hyper::grid(&LENGTHS.map(|length| size * length), &NOISES) {
        let each = sample.iter().map(|(places, values)| Process::read(hyper, places, values));
        let Some(sum) = each.map(|local| local.map(|local| local.log_likelihood)).sum::<Option<f64>>() else {
            continue;
        };
        if best.is_none_or(|(most, _)| sum > most) {
            best = Some((sum, hyper));
        }
    }
    best.map(|(_, hyper)| hyper).context("no covariance of the Gaussian process is positive definite")
}

/// The predictions at the places of a neighbourhood.
pub fn predict(
    hyper: Hyper,
    field: &Field,
    straight: &[[f64; 2]],
    part: &Neighbourhood,
    at: &[[f64; 2]],
) -> Result<Vec<Normal>> {
    let (places, values) = observations(field, straight, part);
    let local = Process::read(hyper, &places, &values).context("a covariance is not positive definite")?;
    Ok(part.places.iter().map(|&i| local.predict(at[i])).collect())
}
