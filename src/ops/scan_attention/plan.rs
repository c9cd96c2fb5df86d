//! How a call is cut for a GPU: a pure function of the problem and the device, so that it
//! can be tested without one.

use std::ops::Range;

use super::{
    matrix::MatrixTile,
    problem::{MAX_PLACES, OP, Problem, SIDE, ScanAttention, TILE},
};
use crate::{
    device::{
        Capabilities, Decision, Maker,
        variants::{SCAN_ATTENTION, name_of},
    },
    error::Result,
    tensor::Tensor,
};

/// Workgroups that keep a large GPU busy.
const ENOUGH_GROUPS: usize = 2048;

/// Key tiles that are worth a split: fewer, and merging costs more than it saves.
const TILES_PER_SPLIT: usize = 8;

/// A page does not fetch what no browser has (matrix units), nor texts for cards that were measured elsewhere: they are long.
pub(crate) const IS_PAGE: bool = cfg!(target_arch = "wasm32");

/// A variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Numbers one by one: any sizes, few bindings, few registers.
    Portable,
    /// Vectors of four from memory; 4 queries a thread.
    Wide,
    /// The same with 16 threads for each row of the result, which then hold half as much of it.
    Wide16,
    /// Like `Wide`, with loops that stay loops and coordinates in workgroup memory, for few registers.
    Rolled,
    /// The same with 16 threads for each row of the result.
    Rolled16,
    /// With 32 threads, which read half as many depths and rows at a time.
    Rolled32,
    /// Rows of q, k and v in workgroup memory as they are; 4 queries a thread.
    Rows4,
    /// The same with half as many threads, for heads wider than 64.
    Rows4Wide,
    /// 8 queries a thread: less workgroup memory is read for each product.
    Rows8,
    /// Two queries: what is read of the keys and values goes through no workgroup memory.
    Decode2,
    /// The same with 16 threads for each row of keys and values.
    Decode2By16,
    /// The same for four queries at a time.
    Decode,
    /// The same for eight.
    Decode8,
    /// Products on matrix units, of numbers rounded to f16.
    Matrix,
}

impl Rung {
    pub const ALL: [(&str, Self); 14] = [
        (SCAN_ATTENTION[0], Self::Portable),
        (SCAN_ATTENTION[1], Self::Wide),
        (SCAN_ATTENTION[2], Self::Wide16),
        (SCAN_ATTENTION[3], Self::Rolled),
        (SCAN_ATTENTION[4], Self::Rolled16),
        (SCAN_ATTENTION[5], Self::Rolled32),
        (SCAN_ATTENTION[6], Self::Rows4),
        (SCAN_ATTENTION[6], Self::Rows4Wide),
        (SCAN_ATTENTION[7], Self::Rows8),
        (SCAN_ATTENTION[8], Self::Decode2),
        (SCAN_ATTENTION[9], Self::Decode2By16),
        (SCAN_ATTENTION[10], Self::Decode),
        (SCAN_ATTENTION[11], Self::Decode8),
        (SCAN_ATTENTION[12], Self::Matrix),
    ];

    fn name(self) -> &'static str {
        name_of(&Self::ALL, &self)
    }

    /// Whether q, k, v and the result are vectors of four.
    pub fn is_wide(self) -> bool {
        self != Self::Portable
    }

    /// Whether loops stay loops.
    pub fn is_rolled(self) -> bool {
        matches!(self, Self::Portable | Self::Rolled | Self::Rolled16 | Self::Rolled32)
    }

    /// Whether coordinates are in workgroup memory rather than in registers.
    #[cfg(feature = "gpu")]
    pub fn is_short_of_registers(self) -> bool {
        self.is_rolled() || self.is_decode()
    }

    /// Whether it is a text for few queries.
    pub fn is_decode(self) -> bool {
        matches!(self, Self::Decode2 | Self::Decode2By16 | Self::Decode | Self::Decode8)
    }

    /// Whether rows are in workgroup memory as they are.
    pub fn is_rows(self) -> bool {
        matches!(self, Self::Rows4 | Self::Rows4Wide | Self::Rows8)
    }

    /// Vectors of four queries that a thread owns.
    pub fn quads(self) -> usize {
        if matches!(self, Self::Rows8 | Self::Decode8) { 2 } else { 1 }
    }

    /// Threads along queries.
    pub fn side(self) -> usize {
        match self {
            Self::Rows4 => 4 * SIDE,
            Self::Rows4Wide | Self::Rows8 => 2 * SIDE,
            _ => SIDE,
        }
    }

    /// Threads along keys and columns of v; those that read a row together, where there are few queries.
    pub fn across(self) -> usize {
        match self {
            Self::Wide16 | Self::Rolled16 | Self::Decode2By16 => 16,
            Self::Rolled32 => 32,
            _ => SIDE,
        }
    }

    /// Keys that a workgroup takes at a time, and columns of v.
    pub fn keys(self) -> usize {
        4 * self.across()
    }

    /// Depths of q and k, and rows of v, that are in workgroup memory at a time, at most.
    pub fn slice(self) -> usize {
        if self == Self::Rolled32 { TILE / 2 } else { TILE }
    }

    /// How many slices of depths a row of q has, and how long they are, no longer than all of it.
    pub fn slices(self, head_dim: usize) -> (usize, usize) {
        let all = head_dim.next_multiple_of(4);
        let n = all.div_ceil(self.slice());
        // Slices of equal length where any will do, the others as long as they may be.
        let depth = if self.is_rows() { all.div_ceil(n).next_multiple_of(4) } else { all.min(self.slice()) };
        (n, depth)
    }

    /// Queries of a workgroup.
    pub fn queries(self) -> usize {
        match self {
            Self::Decode2 | Self::Decode2By16 => 2,
            Self::Decode => 4,
            Self::Decode8 => 8,
            _ => 4 * self.quads() * self.side(),
        }
    }

    /// Numbers in an element of q, k, v and the result.
    pub fn words(self) -> usize {
        if self.is_wide() { 4 } else { 1 }
    }

    /// Whether rows of a problem are whole numbers of elements, and there is room for them.
    pub fn fits(self, problem: &Problem, workgroup_bytes: u32) -> bool {
        let is_whole = [problem.head_dim, problem.v_dim].iter().all(|dim| dim.is_multiple_of(self.words()));
        // Of a row of the result, how many vectors a thread holds.
        let width = problem.head_dim.max(problem.v_dim);
        let vectors = width.div_ceil(self.keys());
        let has_registers = match self {
            _ if self.is_decode() => vectors * self.queries() <= 16,
            _ if self.is_rows() => {
                let is_of_width = self == Self::Rows8 || (self == Self::Rows4Wide) == (width > 64);
                !IS_PAGE && is_of_width && vectors <= 4
            }
            _ => true,
        };
        is_whole && has_registers && self.bytes() <= workgroup_bytes as usize
    }

    /// Bytes of workgroup memory, no fewer.
    pub fn bytes(self) -> usize {
        const LEAST: usize = 16 << 10;
        if self == Self::Decode2By16 {
            // Parts of the scores and these, the queries of heads of 512, coordinates.
            return 16 * (64 * (self.across() + 1) + 4 * 64 + 2 * 128 + MAX_PLACES);
        }
        if self.is_rows() {
            // Rows of a slice of q, or weights; of a slice of keys, or as many values; single numbers.
            return 16 * (self.across() + 1) * (self.queries() + self.keys()) + 128;
        }
        let (Self::Wide16 | Self::Rolled16 | Self::Rolled32) = self else { return LEAST };
        // Weights; keys or values; maxima; coordinates; single numbers.
        let vectors = SIDE * self.keys() + self.across() * self.slice() + SIDE * self.across() + SIDE * MAX_PLACES;
        16 * vectors + 128
    }
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
    pub rung: Rung,
    why: &'static str,
    /// The tile of [`Rung::Matrix`].
    pub matrix: Option<MatrixTile>,
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
        Ok(plan(&problem, &capabilities)?.decision())
    }
}

impl Plan {
    /// Queries of a workgroup.
    #[cfg(feature = "gpu")]
    pub fn queries(&self) -> usize {
        queries_of_group(self.rung, self.matrix)
    }

    fn decision(&self) -> Decision {
        let Self { rung, why, pieces, keys, n_splits, .. } = self;
        let merges = if keys.len() * n_splits > 1 { pieces.len() } else { 0 };
        let mut why = format!("{why}; {} piece(s) of the queries fit a binding and a submit", pieces.len());
        if keys.len() > 1 {
            why += &format!(", the keys only in {} ranges", keys.len());
        }
        if *n_splits > 1 {
            why += &format!("; {n_splits} splits of the keys keep the device busy");
        }
        Decision { op: OP, variant: rung.name(), launches: pieces.len() * keys.len() + merges, why }
    }
}

fn queries_of_group(rung: Rung, matrix: Option<MatrixTile>) -> usize {
    matrix.map_or_else(|| rung.queries(), |tile| tile.queries)
}

/// Floating-point operations, roughly; an exponential counts as ten.
pub(crate) fn cost(problem: &Problem) -> f64 {
    let pairs = problem.batch as f64 * problem.n_heads as f64 * problem.n_queries as f64 * problem.n_keys as f64;
    pairs * (2 * (problem.head_dim + problem.v_dim) + 10).saturating_add(problem.operations) as f64
}

/// Loop iterations of an invocation for a tile of keys, no fewer; with each loop the test that ends it
/// is one more. What is done once a launch is within what a device leaves of its limit.
pub(crate) fn iterations(problem: &Problem, rung: Rung, matrix: Option<MatrixTile>) -> usize {
    if rung.is_rows() {
        // The loop over tiles, its share of the votes of 32 tiles; of each slice of depths vectors of q and of k that a thread
        // brings, and its depths; of four slices of v at most, vectors, and keys, one by one where a value is not finite.
        let threads = rung.side() * rung.across();
        let (n_slices, depth) = rung.slices(problem.head_dim);
        let fill = |rows: usize, vectors: usize| (rows * vectors).div_ceil(threads) + 1;
        let scores = n_slices * (fill(rung.queries(), depth / 4) + fill(rung.keys(), depth / 4) + depth / 4 + 1);
        let of_v = problem.v_dim.div_ceil(rung.keys()) * rung.across();
        let loops = 2 + scores + fill(rung.keys(), of_v) + rung.keys() + 3 * 4;
        return problem.iterations.saturating_mul(16 * rung.quads()).saturating_add(loops);
    }
    // The loop over tiles, its share of the votes of 32 tiles, and the maxima of a row of threads for
    // each vector of queries.
    let softmax = 1 + 1 + rung.quads() * (rung.across() + 1);
    // Where loops stay loops, slices are gone over by one, q and k are filled by two of them, and a thread's four
    // keys are gone over twice.
    let [fills, keys, loops] = if rung.is_rolled() { [9, 5 * (1 + rung.quads()), 1] } else { [0; 3] };
    // A slice of depths is multiplied four at a time.
    let slice = rung.slice();
    let products = problem.head_dim.div_ceil(slice) * (1 + slice / 4 + fills);
    // The rows of a tile of columns of v are summed four at a time; where pairs may be masked and a value is
    // not finite, one at a time.
    let of_slice = if problem.is_biased() { slice + 1 } else { slice / 4 + 1 };
    let sums = problem.v_dim.div_ceil(rung.keys()) * rung.keys() / slice * (of_slice + loops);
    // Four keys for each vector of four queries; on matrix units there are at most as many pairs as for two.
    let quads = if matrix.is_some() { 2 } else { rung.quads() };
    let more = matrix.map_or(0, |tile| tile.iterations(problem));
    problem.iterations.saturating_mul(16 * quads).saturating_add(softmax + keys + products + sums + more)
}

/// The text for few queries, if there are few; keys are read twice at most.
fn decode(problem: &Problem, maker: Maker, fits: impl Fn(Rung) -> bool) -> Option<Rung> {
    // Twice the queries, and twice the width, take twice the registers.
    let has_registers = maker.has_many_registers();
    let width = problem.head_dim.max(problem.v_dim);
    if problem.n_keys < 128 || width > 256 && !has_registers {
        return None;
    }
    let is_broad = width > 64;
    let wanted = match problem.n_queries {
        _ if width > 128 && !has_registers => Rung::Decode2By16,
        0..=2 => Rung::Decode2,
        _ if !has_registers && is_broad => Rung::Decode2,
        3..=4 => Rung::Decode,
        _ if has_registers => Rung::Decode8,
        _ => Rung::Decode,
    };
    let candidates: &[_] = match wanted {
        Rung::Decode2By16 => &[Rung::Decode2By16],
        _ => &[wanted, Rung::Decode, Rung::Decode2],
    };
    let rung = *candidates.iter().find(|rung| fits(**rung))?;
    (problem.n_queries <= 2 * rung.queries()).then_some(rung)
}

/// Whether every subgroup has so many threads, at least.
pub(crate) fn has_subgroups_of(threads: usize, capabilities: &Capabilities) -> bool {
    capabilities.subgroups.is_some_and(|[least, _]| least as usize >= threads)
}

/// Which variant runs, and why: of those whose texts the maker's compiler keeps in registers, the one
/// that it makes the fastest code of.
fn choose(problem: &Problem, capabilities: &Capabilities) -> Result<(Rung, &'static str)> {
    let width = problem.head_dim.max(problem.v_dim);
    let fits = |rung: Rung| {
        let has_subgroups = !rung.is_rows() || has_subgroups_of(rung.across(), capabilities);
        rung.fits(problem, capabilities.workgroup_bytes) && has_subgroups
    };
    let rows_4 = if width > 64 { Rung::Rows4Wide } else { Rung::Rows4 };
    let forced = capabilities.forced(OP, &Rung::ALL)?.map(|rung| if rung == Rung::Rows4 { rows_4 } else { rung });
    if !fits(Rung::Wide) {
        return Ok((Rung::Portable, "heads of a width that is no multiple of 4 are read number by number"));
    }
    // Vectors do not share bindings.
    if problem.n_operands > capabilities.storage_buffers as usize {
        return Ok((Rung::Portable, "operands that share a binding are read number by number"));
    }
    let has_matrix_tile = MatrixTile::new(problem, capabilities).is_some();
    match forced {
        Some(Rung::Matrix) if !has_matrix_tile => {
            return Ok((Rung::Wide, "the device has no matrix units, was not opened for them, or has no room"));
        }
        Some(rung) if fits(rung) => return Ok((rung, "it was asked for")),
        Some(_) => {
            return Ok((
                Rung::Wide,
                "what was asked for has no room for such heads, or is not there: in a browser, or without subgroups",
            ));
        }
        None => {}
    }
    let maker = Maker::of(capabilities);
    if let Some(rung) = decode(problem, maker, fits) {
        return Ok((rung, "few queries leave nothing to do but to read the keys"));
    }
    if has_matrix_tile && problem.n_queries > 8 {
        return Ok((Rung::Matrix, "the device was opened for its matrix units"));
    }
    let is_biased = problem.is_biased();
    // Of a row of the result, the more threads the fewer numbers are in the registers of each.
    let has_registers = maker.has_many_registers();
    let is_broad = problem.v_dim > if has_registers { 128 } else { 64 };
    // With a bias wider heads leave a thread too few registers for eight queries, and points on a sphere for four.
    let rows = if is_biased && width > 32 { rows_4 } else { Rung::Rows8 };
    let has_room = fits(rows) && !(problem.on_sphere && width > 64);
    // Of a group that is less than half full, most would be for nothing.
    if maker == Maker::Nvidia && problem.n_queries > rows.queries() / 2 && has_room {
        return Ok((rows, "rows as they are make few threads wait for one bank of workgroup memory"));
    }
    // A subgroup of Intel's is 16 wide from Xe2 on; its compiler needs fewer registers then.
    let is_xe2 = has_subgroups_of(16, capabilities);
    // Without subgroups it is FXC that compiles, for DX12: a minute for the unrolled loops of heads of 256.
    let is_slow = capabilities.subgroups.is_none() && problem.v_dim > 128;
    // Whether unrolled loops fit: what the compiler does not keep in registers costs more than loops do.
    let is_unrolled = match maker {
        _ if is_slow => false,
        Maker::Amd | Maker::Nvidia => true,
        Maker::Qualcomm => problem.v_dim <= if is_biased { 64 } else { 128 },
        Maker::Intel if is_xe2 && is_biased => problem.v_dim <= 32 && !problem.on_sphere,
        Maker::Intel => is_xe2 && problem.v_dim <= 128,
        Maker::Apple => problem.v_dim <= 32 && !is_biased,
        Maker::Unknown => false,
    };
    if is_unrolled {
        let is_16 = is_broad && fits(Rung::Wide16);
        return Ok((if is_16 { Rung::Wide16 } else { Rung::Wide }, "it has the registers for unrolled loops"));
    }
    let rungs: &[_] = match problem.v_dim {
        129.. if !has_registers => &[Rung::Rolled32, Rung::Rolled16],
        _ if is_broad => &[Rung::Rolled16],
        _ => &[],
    };
    let rung = rungs.iter().find(|rung| fits(**rung)).unwrap_or(&Rung::Rolled);
    Ok((*rung, "loops that stay loops need the fewest registers"))
}

/// Cuts a call.
pub(crate) fn plan(problem: &Problem, capabilities: &Capabilities) -> Result<Plan> {
    let (rung, why) = choose(problem, capabilities)?;
    let matrix = if rung == Rung::Matrix { MatrixTile::new(problem, capabilities) } else { None };
    let queries_of_group = queries_of_group(rung, matrix);
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
    let cost_of_key = cost_of_query / n_keys as f64 * n_queries.min(queries_of_group) as f64;
    let by_iterations = (capabilities.max_iterations / iterations(problem, rung, matrix)).saturating_mul(rung.keys());
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
    // Numbers of a row of one: its values, or its largest logit and its sum.
    let of_part = problem.v_dim.max(2);
    let of_head = (length * width).max(n_queries * of_part * parts);
    let batch_step = steps(n_heads * of_head, matrix_of_batch, matrix_batch, cost / batch as f64);
    let head_step = steps(of_head, matrix_of_head, matrix_head, cost / (batch * n_heads) as f64);
    let of_query = (row.max(if problem.head_major { of_part } else { of_part * n_heads }) * parts).max(matrix_row);
    let query_step = (fitting(of_query, cost_of_query / keys.len() as f64) / queries_of_group * queries_of_group)
        .max(queries_of_group);

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
        (slices * piece.queries.len().div_ceil(queries_of_group), slices * piece.queries.len() * of_part)
    });
    let keys_of_launch = keys.first().map_or(1, Range::len);
    let n_splits = problem.n_splits.unwrap_or_else(|| {
        let wanted = ENOUGH_GROUPS.div_ceil(groups);
        let worthwhile = keys_of_launch.div_ceil(TILE * TILES_PER_SPLIT);
        // Splits cost a merge; two groups a processor are not worth one.
        if groups * 2 > ENOUGH_GROUPS { 1 } else { wanted.min(worthwhile).min(per_binding / (values * keys.len())) }
    });
    Ok(Plan { rung, why, matrix, pieces, keys, n_splits: n_splits.clamp(1, keys_of_launch) })
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
            operations: 50,
            on_sphere: false,
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
                    let plan = plan(&problem(sizes, head_major), &capabilities).unwrap();
                    let layout = if head_major { "by head" } else { "projected" };
                    let (first, keys) = (&plan.pieces[0], &plan.keys[0]);
                    writeln!(
                        text,
                        "{name:<8} {sizes:?} {layout:<9} {:?}, {} pieces of {}x{}x{} queries, {} ranges of {} keys, {} splits",
                        plan.rung,
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

    /// GPUs as their drivers and browsers describe them.
    fn makers() -> [(&'static str, Option<[u32; 2]>); 10] {
        [
            ("NVIDIA H200 NVIDIA 570.00", Some([32, 32])),
            ("NVIDIA GeForce RTX 3060 (NVK GA106)", Some([32, 32])),
            ("NVIDIA H200, DX12 by FXC", None),
            ("AMD Radeon RX 7900 XTX (RADV NAVI31)", Some([32, 64])),
            ("Intel(R) Arc(tm) A770 Graphics (DG2)", Some([8, 32])),
            ("Apple M1", Some([4, 64])),
            ("Turnip Adreno (TM) 740", Some([64, 128])),
            ("", Some([32, 64])),
            ("", Some([8, 32])),
            ("", None),
        ]
    }

    #[test]
    fn variants() {
        let mut text = String::new();
        for (driver, subgroups) in makers() {
            let kind = AdapterKind::Discrete;
            // As much workgroup memory as each of these has at least.
            let workgroup_bytes = 32 << 10;
            let capabilities =
                Capabilities { driver: driver.into(), subgroups, workgroup_bytes, ..Capabilities::webgpu(kind) };
            for (sizes, kv_dim) in [
                ([1, 4, 4096, 4096, 32], 32),
                ([1, 4, 4096, 4096, 64], 64),
                ([1, 4, 4096, 4096, 128], 128),
                ([1, 4, 4096, 4096, 32], 7),
                ([1, 4, 4096, 4096, 256], 256),
                ([1, 4, 1, 4096, 128], 128),
                ([1, 4, 2, 4096, 256], 256),
                ([1, 4, 8, 100, 64], 64),
            ] {
                let problem = Problem { v_dim: kv_dim, ..problem(sizes, true) };
                let decision = plan(&problem, &capabilities).unwrap().decision();
                writeln!(text, "{driver:<40} {subgroups:?} {sizes:?}, v {kv_dim}: {decision}").unwrap();
            }
        }
        let few = Capabilities { storage_buffers: 4, ..Capabilities::webgpu(AdapterKind::Integrated) };
        writeln!(text, "four buffers: {}", plan(&problem([1, 4, 1, 4096, 32], true), &few).unwrap().decision())
            .unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn pieces_cover_everything_once_and_fit() {
        for (_, capabilities) in devices() {
            for sizes in [[3, 5, 70, 900, 16], [1, 2, 3000, 3000, 16], [200, 1, 10, 10, 64], [2, 8, 1000, 40_000, 32]] {
                for head_major in [true, false] {
                    let problem = problem(sizes, head_major);
                    let plan = plan(&problem, &capabilities).unwrap();
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
    /// Of values of one number the largest logits and sums are more.
    #[test]
    fn parts_of_narrow_values_fit() {
        for (_, capabilities) in devices() {
            for head_major in [true, false] {
                for (v_dim, n_splits) in [(1, 200), (2, 200), (1, 7), (16, 7)] {
                    let sizes = problem([2, 3, 1000, 1000, v_dim], head_major);
                    let plan = plan(&Problem { n_splits: Some(n_splits), n_basis: 0, ..sizes }, &capabilities).unwrap();
                    for Piece { batch, heads, queries } in &plan.pieces {
                        let rows = batch.len() * heads.len() * queries.len() * plan.keys.len() * n_splits;
                        // One tile of queries is the least that a piece has.
                        let is_tile = queries.len() <= queries_of_group(plan.rung, None);
                        let bytes = 4 * (rows * v_dim.max(2)) as u64;
                        assert!(is_tile || bytes <= capabilities.max_binding, "{v_dim}, {n_splits}: {bytes}");
                    }
                }
            }
        }
    }
}
