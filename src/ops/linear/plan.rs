//! Which tile a dense layer is computed in: a pure function of the sizes and the device.

use super::problem::{Activation, Linear, OP, Problem, check};
use crate::{
    device::{Capabilities, Decision, variants::LINEAR},
    error::Result,
    tensor::Tensor,
};

/// The tile that a workgroup computes, and how its kernel reads and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Threads along each side of a workgroup.
    pub threads: usize,
    /// Quads of rows, and of columns, that a thread computes.
    pub quads: usize,
    /// Numbers of each operand, along the sum, that are in workgroup memory at once.
    pub depth: usize,
    /// Whether operands are read as vectors of four.
    pub has_vectors: bool,
}

impl Tile {
    /// Rows of it, and columns.
    pub const fn edge(&self) -> usize {
        4 * self.quads * self.threads
    }
}

/// With vectors, all threads of a workgroup load whole rows of a slice, each as many vectors.
pub(super) const VARIANTS: [(&str, Tile); 4] = [
    (LINEAR[0], Tile { threads: 8, quads: 1, depth: 16, has_vectors: false }),
    (LINEAR[1], Tile { threads: 16, quads: 1, depth: 16, has_vectors: false }),
    (LINEAR[2], Tile { threads: 8, quads: 1, depth: 32, has_vectors: true }),
    (LINEAR[3], Tile { threads: 8, quads: 2, depth: 16, has_vectors: true }),
];

/// How a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub variant: &'static str,
    pub(super) tile: Tile,
    why: &'static str,
}

/// Storage buffers of a text, which with vectors share none.
const BUFFERS: u32 = 5;

/// Tiles for each processor at least, for a large tile to be chosen: its threads compute most for what they read,
/// and are few.
const LARGE_TILES: usize = 8;

pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Result<Plan> {
    let Problem { rows, n_in, n_out, .. } = *problem;
    let fits = n_in > 0 && n_in.is_multiple_of(4) && n_out.is_multiple_of(4);
    let can_bind = capabilities.storage_buffers >= BUFFERS;
    let plan = |at: usize, why| {
        let (variant, tile) = VARIANTS[at];
        Ok(Plan { variant, tile, why })
    };
    if let Some(asked) = capabilities.forced(OP, &VARIANTS)? {
        let at = VARIANTS.iter().position(|(_, tile)| *tile == asked).unwrap_or(0);
        return match at {
            2 | 3 if !fits || !can_bind => {
                plan(at - 2, "vectors were asked for, which are for widths that are multiples of 4 and five bindings")
            }
            at => plan(at, "it was asked for"),
        };
    }
    if fits && can_bind {
        let n_tiles = |tile: Tile| rows.div_ceil(tile.edge()).saturating_mul(n_out.div_ceil(tile.edge()));
        return if n_out >= VARIANTS[3].1.edge() && n_tiles(VARIANTS[3].1) >= LARGE_TILES * capabilities.processors {
            plan(3, "so many rows and columns fill the device with tiles of 64 x 64, which read least")
        } else {
            plan(2, "tiles of 64 x 64 would be too few to fill the device, or emptier")
        };
    }
    if rows >= 1024 && n_out >= 64 {
        plan(1, "widths are no multiples of 4, or bindings few; 1,024 rows of 64 outputs fill the device")
    } else {
        plan(0, "widths are no multiples of 4, or bindings few; small problems need many small workgroups")
    }
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
            for [rows, n_in, n_out] in [
                [1, 64, 64],
                [1023, 64, 64],
                [4096, 64, 32],
                [4096, 128, 256],
                [32_768, 128, 128],
                [1 << 20, 64, 128],
                [1 << 20, 64, 2],
                [1 << 20, 3, 128],
            ] {
                let problem = Problem { rows, n_in, n_out, activation: Activation::None };
                let decision = decide(&problem, &Capabilities::webgpu(kind)).unwrap();
                text += &format!("{kind:?} {rows} x {n_in} x {n_out}: {decision}\n");
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn few_bindings_read_no_vectors() {
        let problem = Problem { rows: 4096, n_in: 64, n_out: 64, activation: Activation::None };
        let few = Capabilities { storage_buffers: 4, ..Capabilities::webgpu(AdapterKind::Integrated) };
        assert_eq!(plan(&problem, &few).unwrap().variant, LINEAR[1]);
        let mut forced = few.clone();
        forced.forced.insert(OP.into(), LINEAR[3].into());
        assert_eq!(plan(&problem, &forced).unwrap().variant, LINEAR[1]);
        forced.storage_buffers = 8;
        assert_eq!(plan(&problem, &forced).unwrap().variant, LINEAR[3]);
        assert_eq!(plan(&Problem { n_in: 62, ..problem }, &forced).unwrap().variant, LINEAR[1]);
    }

    #[test]
    fn a_thread_loads_its_part_of_a_slice() {
        for (name, tile) in VARIANTS.into_iter().filter(|(_, tile)| tile.has_vectors) {
            let (all, width) = (tile.threads * tile.threads, tile.quads * tile.threads);
            assert!(all.is_multiple_of(tile.depth / 4) && all.is_multiple_of(width), "{name}");
            assert!((tile.depth * width).is_multiple_of(all), "{name}");
        }
    }
}
