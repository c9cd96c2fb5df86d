//! The CPU twin of `shaders/linear.wgsl`.
use super::{Activation, Problem};

pub(super) fn linear(
    problem: &Problem,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let _ = (problem, x, weight, bias, residual, Activation::None);
    todo!()
}
