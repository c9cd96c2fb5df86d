//! The tile of the kernel on matrix units, `shaders/scan_attention_matrix.wgsl`.

use serde::Serialize;

use super::problem::{Problem, TILE};
use crate::device::Capabilities;

/// Weights are at most this: f16 holds 65504, and loses what is below `2^-24`, so `2^-38` of the largest.
const WEIGHT_SCALE: u32 = 1 << 14;

/// Bytes for the few single numbers beside the arrays.
const SINGLE_BYTES: usize = 128;

/// What the text of the kernel depends on, beside the sizes of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MatrixTile {
    /// Rows and columns of a matrix.
    pub size: usize,
    /// Queries and threads of a workgroup.
    pub queries: usize,
    pub threads: usize,
    /// Numbers of f16 in the place of the keys, where weights and values lie later.
    pub halves: usize,
    /// Vectors of four columns of a row of the result that a thread owns.
    pub v_quads: usize,
    weight_scale: u32,
}

impl MatrixTile {
    /// As many queries as there are and as workgroup memory has room for; `None` where the device was not
    /// opened for its matrix units, or has no room, or heads are of a width that is no multiple of 4.
    pub fn new(problem: &Problem, capabilities: &Capabilities) -> Option<Self> {
        let size = capabilities.matrix_units? as usize;
        // Apple's are all of 32, which Metal tells only of a compiled kernel.
        let is_apple = capabilities.driver.to_lowercase().contains("apple");
        let subgroups = if is_apple { [32; 2] } else { capabilities.subgroups? };
        let [smallest, largest] = subgroups.map(|size| size as usize);
        let is_whole = problem.head_dim.is_multiple_of(4) && problem.v_dim.is_multiple_of(4);
        let fits = |tile: &Self| {
            // Whole subgroups, and as many of them as have a turn each.
            tile.threads.is_multiple_of(largest.max(1))
                && tile.threads <= capabilities.threads as usize
                && tile.bytes(problem) <= capabilities.workgroup_bytes as usize
        };
        let sizes: &[usize] = if problem.n_queries <= 32 { &[32] } else { &[64, 32] };
        sizes.iter().map(|&queries| Self::of(problem, size, queries, smallest)).find(|tile| is_whole && fits(tile))
    }

    pub(super) fn of(problem: &Problem, size: usize, queries: usize, subgroup: usize) -> Self {
        // No more subgroups than rows of matrices; 8 threads for four queries own a vector of 32 columns each.
        let threads = (queries / size * subgroup).min(2 * queries);
        let lanes = (4 * threads / queries).max(1);
        let [depth, v_read] = padded(problem, size);
        let weights_and_values = queries * (TILE + 8) + TILE * (v_read + 8);
        Self {
            size,
            queries,
            threads,
            halves: weights_and_values.max(TILE * (depth + 8)),
            v_quads: v_read.div_ceil(4 * lanes),
            weight_scale: WEIGHT_SCALE,
        }
    }

    /// Bytes of workgroup memory.
    pub(super) fn bytes(&self, problem: &Problem) -> usize {
        let [depth, _] = padded(problem, self.size);
        let halves = self.queries * (depth + 8) + self.halves;
        let floats = self.queries * (TILE + 4) + 4 * self.threads;
        2 * halves + 4 * floats + SINGLE_BYTES
    }

    /// Loop iterations of an invocation for a tile of keys beyond those of other variants, no fewer: where
    /// every number is read on its own.
    pub fn iterations(&self, problem: &Problem) -> usize {
        let [depth, v_read] = padded(problem, self.size);
        let keys_of_thread = TILE * self.queries / 4 / self.threads;
        let scores = keys_of_thread * (4 * (depth / 4 + 1) + 2);
        let fills = TILE * (depth + v_read) / 4 / self.threads + 2;
        let products = (self.queries / self.size + 1) * ((depth + v_read + TILE) / self.size + 8);
        scores + fills + products + 2 * TILE
    }
}

/// The widths of keys and values in whole matrices.
pub(super) fn padded(problem: &Problem, size: usize) -> [usize; 2] {
    [problem.head_dim, problem.v_dim].map(|dim| dim.next_multiple_of(size))
}

#[cfg(test)]
mod tests {
    use super::{super::strides::BiasStrides, *};
    use crate::device::AdapterKind;

    /// Queries, threads and bytes of the tile for heads of a width, on a device as its driver describes it.
    fn tile(driver: &str, side: u32, subgroups: [u32; 2], kib: u32, dim: usize) -> Option<[usize; 3]> {
        let capabilities = Capabilities {
            driver: driver.into(),
            matrix_units: Some(side),
            subgroups: Some(subgroups),
            workgroup_bytes: kib << 10,
            ..Capabilities::webgpu(AdapterKind::Discrete)
        };
        let problem = Problem {
            batch: 1,
            n_heads: 1,
            kv_group: 1,
            n_queries: 1000,
            n_keys: 1000,
            head_dim: dim,
            v_dim: dim,
            head_major: true,
            scale: 1.0,
            n_columns: 0,
            n_basis: 0,
            iterations: 0,
            operations: 0,
            on_sphere: false,
            has_matrix: false,
            bias: BiasStrides::default(),
            n_operands: 5,
            n_splits: None,
        };
        MatrixTile::new(&problem, &capabilities).map(|tile| [tile.queries, tile.threads, tile.bytes(&problem)])
    }

    #[test]
    fn tiles_fit_their_devices() {
        for (found, expected) in [
            (tile("NVIDIA", 16, [32, 32], 48, 64), Some([64, 128, 30_336])),
            (tile("NVIDIA", 16, [32, 32], 48, 128), Some([64, 128, 42_624])),
            (tile("AMD", 16, [32, 64], 64, 256), Some([32, 64, 42_112])),
            (tile("Apple M1", 8, [4, 64], 32, 64), Some([64, 128, 30_336])),
            (tile("Apple M1", 8, [4, 64], 32, 128), Some([32, 64, 25_728])),
            (tile("llvmpipe", 8, [8, 8], 32, 20), Some([64, 64, 21_632])),
            (tile("least", 16, [32, 32], 16, 32), Some([32, 64, 13_440])),
            // No room, no vectors of four, and subgroups that would not be whole.
            (tile("least", 16, [32, 32], 16, 64), None),
            (tile("NVIDIA", 16, [32, 32], 48, 30), None),
            (tile("Qualcomm", 16, [128, 128], 32, 256), None),
        ] {
            assert_eq!(found, expected);
        }
    }
}
