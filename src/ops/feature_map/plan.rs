//! A tile of features, as `shaders/lib/feature_map.wgsl` makes it.

use serde::Serialize;

use super::problem::FeatureKind;

/// Along the short side of a tile: the keys whose features a write of linear attention makes at a time, and the
/// features that a read does.
pub(crate) const SHORT: usize = 32;

/// Numbers of a row, and of one of the projection, that are in workgroup memory at once.
const DEPTH: usize = 32;
// Vectors of a row change places by the bits of their numbers.
const _: () = assert!((DEPTH / 4).is_power_of_two());

/// Features of 32 rows by `side`, or of `side` rows by 32.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct FeatureTile {
    pub kind: FeatureKind,
    /// Whether rows and projection are read four numbers at a time.
    pub vectors: bool,
    /// Whether the rows are the 32.
    pub x_is_short: bool,
    pub side: usize,
    /// Each makes 4 x 4 features.
    pub threads: usize,
    pub depth: usize,
    /// Vectors of four numbers in workgroup memory.
    pub tile: usize,
}

impl FeatureTile {
    pub fn new(kind: FeatureKind, vectors: bool, x_is_short: bool, side: usize) -> Self {
        let rows = if x_is_short { SHORT } else { side };
        // Both operands, and for the norms of the rows a vector for each four by four of them.
        let tile = match kind {
            FeatureKind::Identity => 0,
            FeatureKind::Softmax => (SHORT + side) * DEPTH / 4 + rows * DEPTH / 16,
            _ => (SHORT + side) * DEPTH / 4,
        };
        Self { kind, vectors, x_is_short, side, threads: SHORT * side / 16, depth: DEPTH, tile }
    }

    /// With at least so many vectors of workgroup memory.
    pub fn with_vectors(self, vectors: usize) -> Self {
        Self { tile: self.tile.max(vectors), ..self }
    }

    /// Loop iterations of a thread, no fewer, where there is a projection.
    pub fn iterations(&self, head_dim: usize) -> usize {
        let loads = |rows: usize| (rows * DEPTH / 16).div_ceil(self.threads);
        let of_slice = 1 + loads(SHORT) + loads(self.side) + DEPTH / 4;
        head_dim.div_ceil(DEPTH) * of_slice + DEPTH / 4
    }
}
