//! What the text of `shaders/scan_attention.wgsl` depends on.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{
    bias::{BiasKernel, BiasTerm, Distance, TermKind},
    matrix::{MatrixTile, padded},
    plan::Rung,
    problem::{MAX_PLACES, MAX_UNIFORM_VECTORS, Problem},
};
use crate::ops::softmax::MASKED;

/// A bias term in the text.
#[derive(Clone, Debug, Serialize)]
struct Term {
    index: usize,
    kind: Kind,
    kernel: Option<BiasKernel>,
    /// The first coordinate column, and how many.
    first: usize,
    width: usize,
    n_basis: usize,
    /// Where its parameters begin, in vectors of four.
    offset: usize,
    /// Whether an exponent can be positive.
    grows: bool,
    /// The user's snippet, and how many parameters it has.
    body: String,
    n_params: usize,
}

/// A distance by its name, or `custom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Custom,
    #[serde(untagged)]
    Distance(Distance),
}

/// The constants of the text.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Constants {
    head_dim: usize,
    v_dim: usize,
    /// Threads along queries, and along keys and columns of v.
    side: usize,
    across: usize,
    /// Keys that a workgroup takes at a time, and columns of v.
    tile: usize,
    pub slice: usize,
    /// Depth of a slice of q and k, and how many slices there are.
    pub depth: usize,
    n_depth: usize,
    /// How many tiles of columns v has.
    n_v: usize,
    /// The longer of a slice of q and of a tile of weights, which lie in one place.
    left: usize,
    /// Whether q, k, v and the result are read and written four numbers at a time.
    wide: bool,
    /// Whether keys, and values, are of f16.
    k_halves: bool,
    v_halves: bool,
    /// Vectors of four queries that a thread owns; the queries of a workgroup where there are few.
    quads: usize,
    rows: usize,
    /// Whether loops stay loops: unrolled they need more registers than some GPUs have.
    is_rolled: bool,
    /// Multiplications that one turn of a loop makes of each number.
    unroll: usize,
    /// Whether neighbours in a group take the same keys, for which a subgroup must be long enough.
    pub is_paired: bool,
    /// Columns of v that are read, some of them beyond its width.
    v_read: usize,
    has_mask: bool,
    has_matrix: bool,
    /// Whether a key may be masked for some queries alone.
    by_pair: bool,
    n_columns: usize,
    /// The columns that some term looks at, and those in which what is later is masked.
    columns: Vec<usize>,
    causal_columns: Vec<usize>,
    /// Vectors in workgroup memory of what terms read of four queries, at first their columns, then which
    /// of them are anywhere; 0 if registers hold all that.
    n_places: usize,
    valid_place: usize,
    /// Whether whole tiles of keys may be masked.
    skips: bool,
    terms: Vec<Term>,
    /// Vectors of bias parameters, at least one.
    n_bias: usize,
    /// Whether they are in a buffer, because a uniform does not hold them.
    pub bias_in_storage: bool,
    uses_geodesic: bool,
    pub uses_custom: bool,
    masked: String,
    /// The tile on matrix units.
    #[serde(flatten)]
    pub matrix: Option<MatrixTile>,
}

impl Constants {
    pub fn new(
        problem: &Problem,
        rung: Rung,
        matrix: Option<MatrixTile>,
        [k_halves, v_halves]: [bool; 2],
        has_mask: bool,
        terms: &[BiasTerm],
    ) -> Self {
        let slice = rung.slice();
        // Where there are few queries, those of a row's threads.
        let mut depth = if rung.is_decode() { rung.keys() } else { rung.slices(problem.head_dim).1 };
        let mut v_read = problem.v_dim.next_multiple_of(rung.keys());
        if let Some(tile) = matrix {
            [depth, v_read] = padded(problem, tile.size);
        }
        let mut offset = 0;
        let terms: Vec<Term> = terms
            .iter()
            .enumerate()
            .map(|(index, term)| {
                let described = describe(index, offset, term, problem.n_heads);
                offset += term.n_vectors(problem.n_heads);
                described
            })
            .collect();
        let columns_of = |pick: fn(&&Term) -> bool| -> Vec<usize> {
            let all: BTreeSet<usize> =
                terms.iter().filter(pick).flat_map(|term| term.first..term.first + term.width).collect();
            all.into_iter().collect()
        };
        let columns = columns_of(|_| true);
        let causal_columns = columns_of(|term| term.kind == Kind::Distance(Distance::CausalTime));
        let count = |kind| terms.iter().filter(|term| term.kind == kind).count();
        let on_sphere = count(Kind::Distance(Distance::GreatCircle));
        // The columns, whether they are finite, and the points of great circles.
        let places = columns.len() + 1 + 4 * on_sphere;
        let has_places = rung.is_short_of_registers() && !terms.is_empty() && places <= MAX_PLACES;
        Self {
            head_dim: problem.head_dim,
            v_dim: problem.v_dim,
            side: rung.side(),
            across: rung.across(),
            tile: rung.keys(),
            slice,
            depth,
            n_depth: problem.head_dim.div_ceil(depth),
            n_v: problem.v_dim.div_ceil(rung.keys()),
            left: depth.max(rung.keys()),
            wide: rung.is_wide(),
            k_halves,
            v_halves,
            quads: rung.quads(),
            rows: if rung.is_decode() { rung.queries() } else { 4 * rung.quads() },
            is_rolled: rung.is_rolled(),
            // Where a compiler unrolls nothing else; it must divide the depth.
            unroll: if rung.is_rolled() && depth.is_multiple_of(8) { 8 } else { 4 },
            is_paired: true,
            v_read,
            has_mask,
            has_matrix: problem.has_matrix,
            by_pair: problem.has_matrix || !terms.is_empty(),
            n_columns: problem.n_columns,
            n_places: if has_places { places } else { 0 },
            valid_place: columns.len(),
            columns,
            skips: has_mask || !causal_columns.is_empty(),
            causal_columns,
            n_bias: offset.max(1),
            bias_in_storage: offset > MAX_UNIFORM_VECTORS,
            uses_geodesic: on_sphere > 0,
            uses_custom: count(Kind::Custom) > 0,
            masked: format!("{MASKED:e}"),
            matrix,
            terms,
        }
    }
}

fn describe(index: usize, offset: usize, term: &BiasTerm, n_heads: usize) -> Term {
    let n_basis = term.n_basis(n_heads);
    let (first, width) = (term.columns.start, term.columns.len());
    let (kind, kernel, grows, body, n_params) = match &term.kind {
        TermKind::Custom(custom) => (Kind::Custom, None, false, custom.wgsl.clone(), custom.params.len()),
        TermKind::Distance { distance, kernel, b, .. } => {
            // Causal distances are negative, so there an exponential of positive b grows.
            let signed = *distance == Distance::CausalTime && kernel.is_odd();
            let grows = signed || b.iter().any(|&b| b < 0.0);
            (Kind::Distance(*distance), Some(*kernel), grows, String::new(), 0)
        }
    };
    Term { index, kind, kernel, first, width, n_basis, offset, grows, body, n_params }
}

/// The parameters of all terms as the shader reads them: for a built-in one its
/// [coefficients](BiasTerm::coefficients).
pub(super) fn pack(terms: &[BiasTerm], n_heads: usize) -> Vec<[f32; 4]> {
    let mut packed = Vec::new();
    for term in terms {
        match &term.kind {
            TermKind::Custom(custom) => {
                packed.extend(custom.params.chunks(4).map(|chunk| {
                    let mut vector = [0.0; 4];
                    vector[..chunk.len()].copy_from_slice(chunk);
                    vector
                }));
            }
            TermKind::Distance { .. } => packed.extend(term.coefficients(n_heads)),
        }
    }
    if packed.is_empty() { vec![[0.0; 4]] } else { packed }
}
