//! What a workgroup makes, and how many keys become a partial sum: a pure function of the sizes and
//! the device.

use super::{
    problem::{LinearAttention, OP, Problem},
    stable,
};
use crate::{
    device::{
        Capabilities, Decision, Work,
        variants::{LINEAR_ATTENTION, name_of},
    },
    error::Result,
    ops::feature_map::{FeatureKind, FeatureTile, SHORT},
    tensor::{Tensor, n_elements},
};

/// Keys of a part: enough parts to fill a device, few enough to add.
const PART: usize = 256;

/// Partial sums that exist at once, in numbers.
const MAX_PARTIAL: usize = 1 << 24;

/// Partial sums that a thread adds.
pub(crate) const FAN_IN: usize = 32;

/// Storage buffers of the texts that read vectors: operands of those share no binding.
const VECTOR_BUFFERS: u32 = 5;

/// Variants by name: whether the operands are read four numbers at a time.
const VARIANTS: [(&str, bool); 2] = [(LINEAR_ATTENTION[0], true), (LINEAR_ATTENTION[1], false)];

/// What a workgroup makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Whether the operands are read four numbers at a time.
    pub vectors: bool,
    /// Features of a write, queries of a read.
    pub side: usize,
    /// Of the values.
    pub columns: usize,
    why: &'static str,
}

/// The tile for so many features of a write, or queries of a read.
fn tile(problem: &Problem, rows: usize, capabilities: &Capabilities) -> Result<Tile> {
    let unfit = if problem.head_dim % 4 + problem.v_dim % 4 > 0 {
        Some("a width is no multiple of four")
    } else {
        (capabilities.storage_buffers < VECTOR_BUFFERS).then_some("the device binds few storage buffers")
    };
    let (vectors, why) = match (capabilities.forced(OP, &VARIANTS)?, unfit) {
        (Some(true) | None, Some(why)) => (false, why),
        (Some(vectors), _) => (vectors, "it was asked for"),
        (None, None) => (true, "widths are multiples of four"),
    };
    let large = |n: usize| if n > 32 { 64 } else { 32 };
    Ok(Tile { vectors, side: large(rows), columns: large(problem.v_dim), why })
}

impl Tile {
    /// Fours of rows that a thread has, each by four columns.
    #[cfg(feature = "gpu")]
    pub fn tall(&self) -> usize {
        self.columns / 32
    }

    /// The features of the tile, `x_is_short` in a write; behind them as many vectors of workgroup memory
    /// as the columns need.
    pub fn features(&self, kind: FeatureKind, x_is_short: bool) -> FeatureTile {
        let vectors = SHORT * (self.side + self.columns) / 4;
        FeatureTile::new(kind, self.vectors, x_is_short, self.side).with_vectors(vectors)
    }

    /// Loop iterations of a thread for the products of [`SHORT`] features or keys, no fewer.
    pub fn iterations(&self, problem: &Problem, x_is_short: bool) -> usize {
        let of_features = if problem.is_projected {
            self.features(FeatureKind::Softmax, x_is_short).iterations(problem.head_dim)
        } else {
            0
        };
        // The values or sums that a thread loads, and the products, four at a time.
        1 + of_features + (SHORT * self.columns / 4).div_ceil(2 * self.side) + 2 * SHORT / 4
    }

    /// Floating-point operations for those products.
    fn cost(&self, problem: &Problem) -> f64 {
        let depth = self.columns + if problem.is_projected { problem.head_dim } else { 0 };
        2.0 * (SHORT * self.side * depth) as f64
    }
}

/// Every tile that may be chosen.
#[cfg(feature = "gpu")]
pub(crate) fn tiles() -> Vec<Tile> {
    let mut all = Vec::new();
    for (_, vectors) in VARIANTS {
        for side in [32, 64] {
            all.extend([32, 64].map(|columns| Tile { vectors, side, columns, why: "" }));
        }
    }
    all
}

/// How a write is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub tile: Tile,
    /// Keys of a part.
    pub part: usize,
    pub n_parts: usize,
}

pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Result<Plan> {
    let tile = tile(problem, problem.n_features, capabilities)?;
    // Larger parts rather than more partial sums than memory should hold.
    let len: usize = problem.state_shape().iter().product();
    let max_parts = (MAX_PARTIAL / len.max(1)).max(1);
    let part = PART.max(problem.n.div_ceil(max_parts));
    let by_iterations = (capabilities.max_iterations / tile.iterations(problem, true)).saturating_mul(SHORT);
    let part = part.min(by_iterations).max(SHORT);
    Ok(Plan { tile, part, n_parts: problem.n.div_ceil(part) })
}

impl Plan {
    /// Workgroups of a write.
    pub(crate) fn n_groups(&self, problem: &Problem) -> usize {
        let tiles = problem.n_features.div_ceil(self.tile.side) * problem.v_dim.div_ceil(self.tile.columns);
        self.n_parts * problem.outer * problem.inner * tiles
    }

    /// That of a workgroup of a write.
    pub(crate) fn work(&self, problem: &Problem) -> Work {
        let blocks = self.part.min(problem.n).div_ceil(SHORT);
        Work {
            cost: self.tile.cost(problem) * blocks as f64,
            iterations: self.tile.iterations(problem, true) * blocks + 8,
        }
    }
}

/// The tile of a read, its workgroups and the work of one of them.
#[cfg(feature = "gpu")]
pub(crate) fn read(problem: &Problem, capabilities: &Capabilities) -> Result<(Tile, usize, Work)> {
    let tile = tile(problem, problem.n, capabilities)?;
    let n_groups = problem.outer * problem.inner * problem.n.div_ceil(tile.side) * problem.v_dim.div_ceil(tile.columns);
    let blocks = problem.n_features.div_ceil(SHORT);
    let work = Work {
        cost: tile.cost(problem) * blocks as f64,
        iterations: tile.iterations(problem, false) * blocks + 2 * tile.columns,
    };
    Ok((tile, n_groups, work))
}

impl LinearAttention {
    /// How [`LinearAttention::write`] would run on these keys and values, and why. The launches of
    /// [`Normalizer::Stable`](super::Normalizer::Stable) are about that many.
    ///
    /// # Errors
    /// As there.
    pub fn decision(&self, k: &Tensor, v: &Tensor) -> Result<Decision> {
        let (sizes, v_dim) = self.layout.keys_values(OP, k, v)?;
        let problem = self.problem(OP, sizes, v_dim)?;
        let capabilities = k.device().capabilities();
        if capabilities.adapter.is_none() {
            return Ok(Decision::on_cpu(OP, "cpu", "the tensors are there; sums of a few dozen keys are added in f64"));
        }
        if problem.n == 0 || n_elements(&problem.state_shape()) == 0 {
            return Ok(Decision { op: OP, variant: "none", launches: 0, why: "there is nothing to write".into() });
        }
        if problem.is_stable() {
            let launches = stable::launches(&problem, k, v)?;
            let why = "stable features are softmax attention of the projection's rows, then one launch for each \
                       array that it needs";
            return Ok(Decision { op: OP, variant: "scan attention", launches, why: why.into() });
        }
        decide(&problem, &capabilities)
    }
}

fn decide(problem: &Problem, capabilities: &Capabilities) -> Result<Decision> {
    let plan = plan(problem, capabilities)?;
    let writes = capabilities.row_pieces(plan.n_groups(problem), 1, plan.work(problem).cost).len();
    let (mut sums, mut n) = (1, plan.n_parts);
    while n > FAN_IN {
        (sums, n) = (sums + 1, n.div_ceil(FAN_IN));
    }
    let Plan { tile: Tile { vectors, side, columns, why }, part, n_parts } = plan;
    let variant = name_of(&VARIANTS, &vectors);
    let why = format!(
        "{why}; tiles of {side} features and {columns} columns, {n_parts} partial sum(s) of {part} keys, added {FAN_IN} \
         at a time"
    );
    Ok(Decision { op: OP, variant, launches: writes + sums, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        device::AdapterKind,
        ops::{FeatureMap, Layout, Normalizer, layout::Sizes},
    };

    #[test]
    fn decisions() {
        let mut text = String::new();
        for kind in [AdapterKind::Discrete, AdapterKind::Integrated, AdapterKind::Software] {
            for [n_heads, n, dim] in [[1, 1, 8], [4, 4096, 64], [8, 100_000, 128], [1, 10_000_000, 16]] {
                let attention = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
                let problem = attention.problem(OP, Sizes { batch: 1, n_heads, n, dim }, dim).unwrap();
                let decision = decide(&problem, &Capabilities::webgpu(kind)).unwrap();
                text += &format!("{kind:?} {n_heads} heads of {dim}, {n} keys: {decision}\n");
            }
        }
        insta::assert_snapshot!(text);
    }
}
