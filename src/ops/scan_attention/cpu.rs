//! The CPU twin of `shaders/scan_attention.wgsl`.
use super::{CpuInputs, Problem};

/// Returns the values and the log-sum-exp, in the layout of the problem.
pub(super) fn scan_attention(problem: &Problem, inputs: &CpuInputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let _ = (problem, inputs);
    todo!()
}
