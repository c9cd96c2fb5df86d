//! How a call is cut for a GPU: a pure function of the problem and the device, so that it
//! can be tested without one.

use std::ops::Range;

use super::problem::{OP, Problem, ScanAttention};
use crate::{
    device::{Capabilities, Decision},
    error::Result,
    tensor::Tensor,
};

/// Threads along each side of a workgroup; each makes 4 x 4 numbers.
pub(crate) const SIDE: usize = 8;

/// Queries, keys and columns of v that a workgroup takes at a time.
pub(crate) const TILE: usize = 4 * SIDE;

/// Workgroups that keep a large GPU busy.
const ENOUGH_GROUPS: usize = 2048;

/// Key tiles that are worth a split: fewer, and merging costs more than it saves.
const TILES_PER_SPLIT: usize = 8;

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

impl ScanAttention<'_> {
    /// How [`scan_attention`](super::scan_attention()) would run with these options, and why.
    ///
    /// # Errors
    /// As there.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::ScanAttention};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let x = Tensor::zeros(&Device::best(), &[1, 4, 1000, 32])?;
    /// let decision = ScanAttention::default().decision(&x, &x, &x)?;
    /// assert_eq!(decision.op, "scan_attention");
    /// println!("{decision}"); // the variant, the launches, and why
    /// # Ok(())
    /// # }
    /// ```
    pub fn decision(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Decision> {
        let problem = Problem::new(q, k, v, self)?;
        let capabilities = q.device().capabilities();
        if problem.is_empty() {
            return Ok(Decision { op: OP, variant: "none", launches: 0, why: "there is nothing to read".into() });
        }
        if capabilities.adapter.is_none() {
            return Ok(Decision::on_cpu(OP, "cpu", "the tensors are there; blocks of keys stay in the cache"));
        }
        Ok(plan(&problem, &capabilities).decision())
    }
}

impl Plan {
    fn decision(&self) -> Decision {
        let Self { pieces, keys, n_splits } = self;
        let merges = if keys.len() * n_splits > 1 { pieces.len() } else { 0 };
        let mut why = format!("there is no other; {} piece(s) of the queries fit a binding and a submit", pieces.len());
        if keys.len() > 1 {
            why += &format!(", the keys only in {} ranges", keys.len());
        }
        if *n_splits > 1 {
            why += &format!("; {n_splits} splits of the keys keep the device busy");
        }
        Decision { op: OP, variant: "portable", launches: pieces.len() * keys.len() + merges, why }
    }
}

/// Floating-point operations, roughly; an exponential counts as ten.
pub(crate) fn cost(problem: &Problem) -> f64 {
    let pairs = problem.batch as f64 * problem.n_heads as f64 * problem.n_queries as f64 * problem.n_keys as f64;
    pairs * (2 * (problem.head_dim + problem.v_dim) + 10 + 10 * problem.n_basis.max(problem.iterations)) as f64
}

/// Loop iterations of an invocation for a tile of keys, no fewer; with each loop the test that ends it
/// is one more. What is done once a launch is within what a device leaves of its limit.
pub(crate) fn iterations(problem: &Problem) -> usize {
    // The loop over tiles, the maxima of a row of threads, and what is not finite.
    let softmax = 1 + (SIDE + 1) + 5;
    // For 32 depths q and k are filled, and multiplied four depths at a time.
    let products = problem.head_dim.div_ceil(TILE) * (5 + 5 + 9);
    // A row of the matrix for each of four queries, and that for four keys.
    let matrix = if problem.has_matrix { 4 * 5 } else { 0 };
    // For 32 columns v is filled, and its rows summed four at a time; where pairs may be masked and
    // a value is not finite, one at a time.
    let by_pair = problem.has_matrix || problem.n_basis > 0;
    let sums = problem.v_dim.div_ceil(TILE) * (5 + if by_pair { TILE + 1 } else { 9 });
    // Four keys for four queries.
    problem.iterations.saturating_mul(16).saturating_add(softmax + products + matrix + sums)
}

/// Cuts a call.
pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Plan {
    let Problem { batch, n_heads, n_queries, n_keys, has_matrix, n_operands, .. } = *problem;
    // A binding may begin up to 256 bytes early, to be aligned. Where there are too few, all that
    // is read shares one.
    let sharing = if n_operands > capabilities.storage_buffers as usize { n_operands - 2 } else { 1 };
    let per_binding = (capabilities.max_binding.saturating_sub(256) / 4) as usize / sharing;
    // Numbers that one unit of a dimension takes in the widest operand: steps along a
    // dimension must keep every operand within a binding.
    let width = problem.head_dim.max(problem.v_dim).max(problem.n_columns);
    let row = if problem.head_major { width } else { width * n_heads };
    let length = n_queries.max(n_keys);
    let cost = cost(problem).max(1.0);
    let fitting =
        |numbers: usize, cost: f64| (per_binding / numbers.max(1)).min((capabilities.submit_budget / cost) as usize);
    let ranges =
        |n: usize, step: usize| (0..n).step_by(step).map(move |start| start..n.min(start + step)).collect::<Vec<_>>();
    // Where a piece spans several batch elements or heads, all their keys fit by construction.
    let cost_of_query = cost / (batch * n_queries) as f64 / if problem.head_major { n_heads as f64 } else { 1.0 };
    // One tile of queries must stay within the budget, too.
    let cost_of_key = cost_of_query / n_keys as f64 * n_queries.min(TILE) as f64;
    let by_iterations = (capabilities.max_iterations / iterations(problem)).saturating_mul(TILE);
    let fits = fitting(row, cost_of_key).min(by_iterations);
    let keys = ranges(n_keys, if fits >= n_keys { n_keys } else { (fits / 64 * 64).max(64) });
    // A matrix has a number for every pair, but for those along which it is the same.
    let [matrix_batch, matrix_head, matrix_row] = problem.bias.matrix;
    let matrix_of_head = if has_matrix { (n_queries - 1) * matrix_row + n_keys } else { 0 };
    let matrix_of_batch = if has_matrix { (n_heads - 1) * matrix_head + matrix_of_head } else { 0 };
    let steps = |own: usize, matrix: usize, stride: usize, cost: f64| {
        if matrix > per_binding { 0 } else { fitting(own.max(stride), cost) }
    };
    // Each range of keys, and each split of them, leaves a partial result, and all of them are merged
    // from one binding.
    let parts = keys.len() * problem.n_splits.unwrap_or(1);
    let of_head = (length * width).max(n_queries * problem.v_dim * parts);
    let batch_step = steps(n_heads * of_head, matrix_of_batch, matrix_batch, cost / batch as f64);
    let head_step = steps(of_head, matrix_of_head, matrix_head, cost / (batch * n_heads) as f64);
    let of_query = (row * parts).max(matrix_row);
    let query_step = (fitting(of_query, cost_of_query / keys.len() as f64) / TILE * TILE).max(TILE);

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

    let (groups, values) = pieces.first().map_or((1, 1), |piece| {
        let slices = piece.batch.len() * piece.heads.len();
        (slices * piece.queries.len().div_ceil(TILE), slices * piece.queries.len() * problem.v_dim)
    });
    let keys_of_launch = keys.first().map_or(1, Range::len);
    let n_splits = problem.n_splits.unwrap_or_else(|| {
        let wanted = ENOUGH_GROUPS.div_ceil(groups);
        let worthwhile = keys_of_launch.div_ceil(TILE * TILES_PER_SPLIT);
        // Splits cost a merge; two groups a processor are not worth one.
        if groups * 2 > ENOUGH_GROUPS { 1 } else { wanted.min(worthwhile).min(per_binding / (values * keys.len())) }
    });
    Plan { pieces, keys, n_splits: n_splits.clamp(1, keys_of_launch) }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::{super::strides::BiasStrides, *};
    use crate::device::AdapterKind;

    fn device(max_binding: u64, submit_budget: f64) -> Capabilities {
        Capabilities { max_binding: max_binding + 256, submit_budget, ..Capabilities::webgpu(AdapterKind::Discrete) }
    }

    fn devices() -> [(&'static str, Capabilities); 3] {
        [("discrete", device(2 << 30, 1e11)), ("browser", device(128 << 20, 1e10)), ("tiny", device(64 << 10, 1e9))]
    }

    fn problem([batch, n_heads, n_queries, n_keys, head_dim]: [usize; 5], head_major: bool) -> Problem {
        Problem {
            batch,
            n_heads,
            kv_group: 1,
            n_queries,
            n_keys,
            head_dim,
            v_dim: head_dim,
            head_major,
            scale: 1.0,
            n_columns: 2,
            n_basis: 5,
            iterations: 2,
            has_matrix: false,
            bias: BiasStrides { q_coords: n_queries, k_coords: n_keys, matrix: [0; 3] },
            n_operands: 7,
            n_splits: None,
        }
    }

    #[test]
    fn decisions() {
        let problems = [
            [1, 4, 4096, 4096, 32],
            [1, 4, 1, 100_000, 32],
            [1, 4, 128, 10_000, 32],
            [16, 4, 50, 47, 32],
            [1, 4, 16_384, 100_000, 32],
            [1, 4, 100_000, 100_000, 32],
            [70_000, 1, 1, 2, 1],
            [8, 16, 2048, 2048, 128],
        ];
        let mut text = String::new();
        for (name, capabilities) in devices() {
            for sizes in problems {
                for head_major in [true, false] {
                    let plan = plan(&problem(sizes, head_major), &capabilities);
                    let layout = if head_major { "by head" } else { "projected" };
                    let (first, keys) = (&plan.pieces[0], &plan.keys[0]);
                    writeln!(
                        text,
                        "{name:<8} {sizes:?} {layout:<9} {} pieces of {}x{}x{} queries, {} ranges of {} keys, {} splits",
                        plan.pieces.len(),
                        first.batch.len(),
                        first.heads.len(),
                        first.queries.len(),
                        plan.keys.len(),
                        keys.len(),
                        plan.n_splits,
                    )
                    .unwrap();
                }
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn pieces_cover_everything_once_and_fit() {
        for (_, capabilities) in devices() {
            for sizes in [[3, 5, 70, 900, 16], [1, 2, 3000, 3000, 16], [200, 1, 10, 10, 64], [2, 8, 1000, 40_000, 32]] {
                for head_major in [true, false] {
                    let problem = problem(sizes, head_major);
                    let plan = plan(&problem, &capabilities);
                    let mut seen = vec![0u8; problem.batch * problem.n_heads * problem.n_queries];
                    for piece in &plan.pieces {
                        for b in piece.batch.clone() {
                            for h in piece.heads.clone() {
                                for i in piece.queries.clone() {
                                    seen[(b * problem.n_heads + h) * problem.n_queries + i] += 1;
                                }
                            }
                        }
                        let rows = piece.queries.len().max(plan.keys[0].len());
                        let bytes = 4 * piece.batch.len() * piece.heads.len() * rows * problem.head_dim;
                        assert!(bytes as u64 <= capabilities.max_binding, "{sizes:?} {piece:?}");
                    }
                    assert!(seen.iter().all(|&n| n == 1), "{sizes:?}");
                    assert_eq!(plan.keys.iter().map(Range::len).sum::<usize>(), problem.n_keys);
                    assert!(plan.n_splits >= 1 && plan.n_splits <= plan.keys[0].len());
                }
            }
        }
    }
}
