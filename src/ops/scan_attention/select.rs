//! How a call is cut for a GPU: a pure function of the problem and the device, so that it
//! can be tested without one.

use std::ops::Range;

use super::Problem;

/// Queries, and keys, that a workgroup takes at a time.
pub const TILE: usize = 32;

/// Depths of q and k, and columns of v, in workgroup memory at a time.
pub const DEPTH: usize = 32;

/// Workgroups that keep a large GPU busy.
const ENOUGH_GROUPS: usize = 512;

/// Key tiles that are worth a split: fewer, and merging costs more than it saves.
const TILES_PER_SPLIT: usize = 8;

/// What a device allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capabilities {
    /// Bytes in one binding.
    pub max_binding: u64,
    /// Floating-point operations in one submit.
    pub submit_budget: f64,
}

/// One launch, or one for each range of keys: parts of the batch, heads and queries whose
/// results lie side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub batch: Range<usize>,
    pub heads: Range<usize>,
    pub queries: Range<usize>,
}

/// How a call is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub pieces: Vec<Piece>,
    /// Ranges of keys whose bindings fit; each becomes a launch.
    pub keys: Vec<Range<usize>>,
    /// Into how many parts each of these ranges is split, one workgroup a part.
    pub n_splits: usize,
}

impl Plan {
    /// Partial results of one piece; more than one are merged.
    pub(crate) fn n_parts(&self) -> usize {
        self.keys.len() * self.n_splits
    }
}

/// Floating-point operations, roughly; an exponential counts as ten.
pub(crate) fn cost(problem: &Problem, n_basis: usize) -> f64 {
    let pairs = problem.batch as f64 * problem.n_heads as f64 * problem.n_queries as f64 * problem.n_keys as f64;
    pairs * (2 * (problem.head_dim + problem.v_dim) + 10 + 10 * n_basis) as f64
}

/// Cuts a call. `n_splits` is the caller's wish, if there is one.
pub(crate) fn plan(
    problem: &Problem,
    n_basis: usize,
    n_splits: Option<usize>,
    capabilities: &Capabilities,
) -> Plan {
    let Problem { batch, n_heads, n_queries, n_keys, .. } = *problem;
    let per_binding = (capabilities.max_binding / 4) as usize;
    // Numbers that one unit of a dimension takes in the widest operand: steps along a
    // dimension must keep every operand within a binding.
    let width = problem.head_dim.max(problem.v_dim).max(problem.n_columns);
    let row = if problem.head_major { width } else { width * n_heads };
    let length = n_queries.max(n_keys);
    let cost = cost(problem, n_basis).max(1.0);
    let fitting = |numbers: usize, cost: f64| {
        (per_binding / numbers.max(1)).min((capabilities.submit_budget / cost) as usize)
    };
    let of_batch = if problem.head_major { n_heads * length * width } else { length * row };
    let batch_step = fitting(of_batch, cost / batch as f64);
    let head_step = fitting(length * width, cost / (batch * n_heads) as f64);
    let cost_of_query =
        cost / (batch * n_queries) as f64 / if problem.head_major { n_heads as f64 } else { 1.0 };
    let query_step = (fitting(row, cost_of_query) / TILE * TILE).max(TILE);

    let ranges = |n: usize, step: usize| {
        (0..n).step_by(step).map(move |start| start..n.min(start + step)).collect::<Vec<_>>()
    };
    let mut pieces = Vec::new();
    if batch_step >= batch {
        pieces.push(Piece { batch: 0..batch, heads: 0..n_heads, queries: 0..n_queries });
    } else if batch_step >= 1 {
        let whole = |batch| Piece { batch, heads: 0..n_heads, queries: 0..n_queries };
        pieces.extend(ranges(batch, batch_step).into_iter().map(whole));
    } else {
        for b in 0..batch {
            let heads = match (problem.head_major, head_step) {
                (false, _) => ranges(n_heads, n_heads),
                (true, step) => ranges(n_heads, step.max(1)),
            };
            for heads in heads {
                let cut_queries = !problem.head_major || head_step == 0;
                let step = if cut_queries { query_step } else { n_queries };
                for queries in ranges(n_queries, step) {
                    pieces.push(Piece { batch: b..b + 1, heads: heads.clone(), queries });
                }
            }
        }
    }

    // A piece of several batch elements or heads holds all their keys by construction.
    let whole_keys = pieces.iter().all(|piece| piece.batch.len() > 1) || per_binding / row.max(1) >= n_keys;
    let keys = if whole_keys {
        ranges(n_keys, n_keys)
    } else {
        ranges(n_keys, (per_binding / row / 64 * 64).max(64))
    };
    let groups = pieces.first().map_or(1, |piece| {
        piece.batch.len() * piece.heads.len() * piece.queries.len().div_ceil(TILE)
    });
    let keys_of_launch = keys.first().map_or(1, Range::len);
    let n_splits = n_splits.unwrap_or_else(|| {
        let wanted = ENOUGH_GROUPS.div_ceil(groups);
        let worthwhile = keys_of_launch.div_ceil(TILE * TILES_PER_SPLIT);
        // Splits cost a merge; two groups a processor are not worth one.
        if groups * 2 > ENOUGH_GROUPS { 1 } else { wanted.min(worthwhile) }
    });
    Plan { pieces, keys, n_splits: n_splits.clamp(1, keys_of_launch) }
}
