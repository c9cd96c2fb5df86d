//! What a patch is completed with where there is no network: the nearest pixel, and an exact Gaussian process
//! that is fitted to the pixels seen.

use anyhow::{Context as _, Result};
use shared::{
    normal::Normal,
    process::{Hyper, Process, between},
};

/// The least deviation of the networks, in grey; without one, a flat patch would be worth any number.
pub const MIN_STD: f64 = 0.05 * 0.25;

/// In units of the places, where a pixel is a twelfth, and shares of noise, that are tried.
const LENGTHS: [f64; 7] = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4];
const NOISES: [f64; 4] = [1e-4, 0.01, 0.1, 0.5];

fn nearest(places: &[[f64; 2]], at: [f64; 2], but: Option<usize>) -> usize {
    let others = (0..places.len()).filter(|&i| Some(i) != but);
    others.min_by(|&i, &j| between(places[i], at).total_cmp(&between(places[j], at))).unwrap_or(0)
}

/// The grey of the nearest pixel seen. How far off that is, is how far the pixels seen are off each other.
pub fn nearest_pixel(places: &[[f64; 2]], grey: &[f64], at: &[[f64; 2]]) -> Vec<Normal> {
    let off = |i: usize| (grey[i] - grey[nearest(places, places[i], Some(i))]).powi(2);
    let mean_square = (0..grey.len()).map(off).sum::<f64>() / grey.len() as f64;
    let std = mean_square.sqrt().max(MIN_STD);
    at.iter().map(|&at| Normal { mean: grey[nearest(places, at, None)], std }).collect()
}

/// The Gaussian process under which the pixels seen are likeliest.
pub fn process(places: &[[f64; 2]], grey: &[f64], at: &[[f64; 2]]) -> Result<Vec<Normal>> {
    let tried = Hyper::grid(&LENGTHS, &NOISES).filter_map(|hyper| Process::read(hyper, places, grey));
    let likeliest = tried.max_by(|a, b| a.log_likelihood.total_cmp(&b.log_likelihood));
    let process = likeliest.context("no covariance of the Gaussian process is positive definite")?;
    let predict = |&at: &[f64; 2]| {
        let Normal { mean, std } = process.predict(at);
        Normal { mean, std: std.max(MIN_STD) }
    };
    Ok(at.iter().map(predict).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_goes_on_with_a_slope_and_the_nearest_pixel_does_not() {
        let places: Vec<[f64; 2]> = (0..10).map(|i| [f64::from(i) / 12.0, f64::from(i % 3) / 12.0]).collect();
        let grey: Vec<f64> = places.iter().map(|place| 0.2 + 0.5 * place[0]).collect();
        let between = [4.5 / 12.0, 1.0 / 12.0];
        let process = process(&places, &grey, &[between]).unwrap()[0];
        assert!((process.mean - (0.2 + 0.5 * between[0])).abs() < 0.01, "{process:?}");
        let nearest = nearest_pixel(&places, &grey, &[between])[0];
        assert!(grey.contains(&nearest.mean) && nearest.std > MIN_STD, "{nearest:?}");
        // Of what is flat nothing is sure beyond the least deviation.
        let flat = nearest_pixel(&places, &[0.5; 10], &[between])[0];
        assert_eq!((flat.mean, flat.std), (0.5, MIN_STD));
    }
}
