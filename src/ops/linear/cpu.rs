//! The CPU twin of `shaders/linear.wgsl`.
use rayon::prelude::*;

use super::{Activation, Problem};

pub(super) fn linear(
    problem: &Problem,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let &Problem { rows, n_in, n_out, activation } = problem;
    let mut y = vec![0.0f32; rows * n_out];
    if n_out == 0 {
        return y;
    }
    y.par_chunks_mut(n_out).enumerate().for_each(|(row, y)| {
        if let Some(bias) = bias {
            y.copy_from_slice(bias);
        }
        for (i, &x) in x[row * n_in..][..n_in].iter().enumerate() {
            for (y, &w) in y.iter_mut().zip(&weight[i * n_out..][..n_out]) {
                *y += x * w;
            }
        }
        for (column, y) in y.iter_mut().enumerate() {
            *y = match activation {
                Activation::None => *y,
                Activation::Relu => y.max(0.0),
                Activation::GeluTanh => {
                    let x = *y;
                    let u = 0.797_884_6 * (x + 0.044715 * x * x * x);
                    x / (1.0 + (-2.0 * u).min(87.0).exp())
                }
                Activation::GeluErf => 0.5 * *y * libm::erfcf(-*y * std::f32::consts::FRAC_1_SQRT_2),
            };
            if let Some(residual) = residual {
                *y += residual[row * n_out + column];
            }
        }
    });
    y
}
