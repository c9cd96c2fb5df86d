//! Which tile a dense layer is computed in: a pure function of the sizes and the device.

use super::problem::{Activation, Linear, OP, Problem, check};
use crate::{
    device::{Capabilities, Decision, variants::LINEAR},
    error::Result,
    tensor::Tensor,
};

/// Threads along each side of a workgroup, which makes a tile of 16 times as many outputs.
pub(super) const VARIANTS: [(&str, usize); 2] = [(LINEAR[0], 8), (LINEAR[1], 16)];

/// How a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub variant: &'static str,
    /// Threads along each side of a workgroup.
    pub threads: usize,
    why: &'static str,
}

/// Large tiles read less memory; small problems need many workgroups more.
pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Result<Plan> {
    let is_large = problem.rows >= 1024 && problem.n_out >= 64;
    let (threads, why) = match capabilities.forced(OP, &VARIANTS)? {
        Some(threads) => (threads, "it was asked for"),
        None if is_large => (16, "1,024 rows of 64 outputs and more fill the device with large tiles"),
        None => (8, "fewer than 1,024 rows of 64 outputs need many small workgroups"),
    };
    let variant = VARIANTS.iter().find(|(_, its)| *its == threads).map_or("", |(name, _)| name);
    Ok(Plan { variant, threads, why })
}

impl Linear {
    /// How [`linear`](super::linear()) would run on `x [.., n_in]`, and why.
    ///
    /// # Errors
    /// An `x` of another width; a variant that was asked for and does not exist.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::Linear};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::cpu();
    /// let layer = Linear { weight: Tensor::zeros(&device, &[8, 4])?, bias: None };
    /// let decision = layer.decision(&Tensor::zeros(&device, &[100, 8])?)?;
    /// assert_eq!((decision.op, decision.variant, decision.launches), ("linear", "cpu", 0));
    /// println!("{decision}"); // with the reason
    /// # Ok(())
    /// # }
    /// ```
    pub fn decision(&self, x: &Tensor) -> Result<Decision> {
        let capabilities = x.device().capabilities();
        let problem = check(x, self, Activation::None, None)?.0;
        if capabilities.adapter.is_none() {
            return Ok(Decision::on_cpu(OP, "cpu", "the tensors are there; panels of the weight stay in the cache"));
        }
        decide(&problem, &capabilities)
    }
}

fn decide(problem: &Problem, capabilities: &Capabilities) -> Result<Decision> {
    let Plan { variant, why, .. } = plan(problem, capabilities)?;
    let width = problem.n_in.max(problem.n_out);
    let launches = capabilities.row_pieces(problem.rows, width, problem.cost_of_row()).len();
    Ok(Decision { op: OP, variant, launches, why: why.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::AdapterKind;

    #[test]
    fn decisions() {
        let mut text = String::new();
        for kind in [AdapterKind::Discrete, AdapterKind::Integrated, AdapterKind::Software] {
            for [rows, n_in, n_out] in
                [[1, 64, 64], [1023, 64, 64], [4096, 64, 32], [4096, 128, 256], [1 << 20, 64, 128]]
            {
                let problem = Problem { rows, n_in, n_out, activation: Activation::None };
                let decision = decide(&problem, &Capabilities::webgpu(kind)).unwrap();
                text += &format!("{kind:?} {rows} x {n_in} x {n_out}: {decision}\n");
            }
        }
        insta::assert_snapshot!(text);
    }
}
