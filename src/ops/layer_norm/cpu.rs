//! The CPU twin of `shaders/layer_norm.wgsl`.
use rayon::prelude::*;

pub(super) fn layer_norm(x: &[f32], width: usize, scale: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(width).zip(x.par_chunks(width)).for_each(|(y, x)| {
        let mean = x.iter().sum::<f32>() / width as f32;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        for (i, y) in y.iter_mut().enumerate() {
            *y = (x[i] - mean) * inverse * scale[i] + bias[i];
        }
    });
    y
}
