//! Attention with nothing but a bias of the visitor's: each place reads the weighted mean of the
//! observations, and the text that they type says how much each counts.

use std::sync::Arc;

use wasm_bindgen::prelude::*;
use wgpu_attention::{
    Error, Tensor,
    ops::{
        Bias, BiasTerm, CustomBias, ScanAttention, scan_attention,
        scan_attention::{BiasFn, MASKED},
    },
};

use super::{
    error::{Result, refused, told},
    place::Place,
    twin::twin,
};

/// How many observations have their weights told.
const WEIGHED: usize = 62;

/// What is read at each place.
#[wasm_bindgen(getter_with_clone)]
pub struct Weighted {
    /// The weighted mean of the observations.
    pub mean: Vec<f32>,
    /// Their weighted standard deviation.
    pub std: Vec<f32>,
    /// The weights of the first observations, `[place, observation]`.
    pub weights: Vec<f32>,
    /// Of how many.
    pub weighed: usize,
}

/// Reads observations with a bias: the body of a function of WGSL over `q_coord`, `k_coord`, `head` and
/// `params(i)`.
#[wasm_bindgen(js_name = readWithBias)]
pub async fn read_with_bias(
    place: &Place,
    wgsl: String,
    params: Vec<f32>,
    x: Vec<f32>,
    y: Vec<f32>,
    at: Vec<f32>,
) -> Result<Weighted> {
    let cpu = if place.is_cpu() {
        let unread = CustomBias { name: "yours".into(), wgsl: wgsl.clone(), cpu: nowhere(), params: params.clone() };
        // The library refuses what does not end and what is large, which the twin would walk through.
        read(place, unread, &[0.0], &[0.0], &[0.0]).await.map_err(told)?;
        twin(&wgsl).map_err(|message: String| refused("BiasShader", &message))?
    } else {
        nowhere()
    };
    let custom = CustomBias { name: "yours".into(), wgsl, cpu, params };
    read(place, custom, &x, &y, &at).await.map_err(told)
}

/// On a GPU nobody asks for the twin.
fn nowhere() -> Arc<BiasFn> {
    Arc::new(|_, _, _, _| MASKED)
}

async fn read(
    Place(device): &Place,
    custom: CustomBias,
    x: &[f32],
    y: &[f32],
    at: &[f32],
) -> std::result::Result<Weighted, Error> {
    let (n, n_at, weighed) = (x.len(), at.len(), x.len().min(WEIGHED));
    if n == 0 {
        return Err(Error::EmptyContext { batch: None });
    }
    // Queries and keys of zero: what is left of the logits is the bias.
    let q = Tensor::new(device, &[1, 1, n_at, 1], &vec![0.0; n_at])?;
    let k = Tensor::new(device, &[1, 1, n, 1], &vec![0.0; n])?;
    // The value, its square, and one number for each observation: of these the weights come out.
    let width = 2 + weighed;
    let mut values = vec![0.0; n * width];
    for (i, (row, y)) in values.chunks_exact_mut(width).zip(y).enumerate() {
        row[..2].copy_from_slice(&[*y, y * y]);
        if i < weighed {
            row[2 + i] = 1.0;
        }
    }
    let v = Tensor::new(device, &[1, 1, n, width], &values)?;
    let here = Tensor::new(device, &[1, n_at, 1], at)?;
    let there = Tensor::new(device, &[1, n, 1], x)?;
    let terms = [BiasTerm::custom(0..1, custom)];
    let options = ScanAttention::default().bias(Bias::new(&here, &there, &terms));
    let read = scan_attention(&q, &k, &v, &options)?.values.read_async().await?;
    let rows = read.chunks_exact(width);
    Ok(Weighted {
        mean: rows.clone().map(|row| row[0]).collect(),
        std: rows.clone().map(|row| (row[1] - row[0] * row[0]).max(0.0).sqrt()).collect(),
        weights: rows.flat_map(|row| &row[2..]).copied().collect(),
        weighed,
    })
}
