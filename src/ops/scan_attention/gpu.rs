//! Launches `shaders/scan_attention.wgsl`.

use std::{ops::Range, sync::Arc};

use serde::Serialize;

use super::{
    Attention, Bias, BiasTerm, CustomBias, Distance, Kernel, MASKED, Problem,
    bias::TermKind,
    select::{self, Capabilities, DEPTH, Piece, TILE},
};
use crate::{
    device::gpu::{Access, Buffer, Dispatch, Gpu, Pipeline, Variant, View, shader},
    error::{Error, Result},
    ops::merge_attention::gpu::merge_into,
    tensor::Tensor,
};

/// A bias term in the shader's text.
#[derive(Clone, Debug, Serialize)]
struct Term {
    index: usize,
    /// `euclidean`, `great_circle`, `causal_time` or `custom`.
    kind: &'static str,
    kernel: &'static str,
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

/// The constants of the shader's text.
#[derive(Clone, Debug, Serialize)]
struct Constants {
    head_dim: usize,
    v_dim: usize,
    /// Depth of a slice of q and k, and how many slices there are.
    depth: usize,
    n_depth: usize,
    /// Slices of 32 columns of v.
    n_v: usize,
    /// Vectors in the workgroup's tile of k, then of v.
    kv_quads: usize,
    has_mask: bool,
    has_matrix: bool,
    n_columns: usize,
    /// The columns that some term looks at.
    columns: Vec<usize>,
    terms: Vec<Term>,
    /// Vectors of bias parameters, at least one.
    n_bias: usize,
    uses_geodesic: bool,
    uses_custom: bool,
    masked: String,
}

impl Constants {
    fn new(problem: &Problem, has_mask: bool, has_matrix: bool, terms: &[BiasTerm]) -> Self {
        let depth = problem.head_dim.next_multiple_of(4).min(DEPTH);
        let mut offset = 0;
        let terms: Vec<Term> = terms
            .iter()
            .enumerate()
            .map(|(index, term)| {
                let described = describe(index, offset, term, problem.n_heads);
                offset += n_vectors(term, problem.n_heads);
                described
            })
            .collect();
        let mut columns: Vec<usize> = terms.iter().flat_map(|term| term.first..term.first + term.width).collect();
        columns.sort_unstable();
        columns.dedup();
        Self {
            head_dim: problem.head_dim,
            v_dim: problem.v_dim,
            depth,
            n_depth: problem.head_dim.div_ceil(depth),
            n_v: problem.v_dim.div_ceil(DEPTH),
            // A tile of v takes 32 rows of 8 vectors, a tile of k 8 vectors for each depth.
            kv_quads: (8 * depth).max(8 * TILE),
            has_mask,
            has_matrix,
            n_columns: problem.n_columns,
            columns,
            n_bias: offset.max(1),
            uses_geodesic: terms.iter().any(|term| term.kind == "great_circle"),
            uses_custom: terms.iter().any(|term| term.kind == "custom"),
            masked: format!("{MASKED:e}"),
            terms,
        }
    }

    fn bindings(&self) -> Vec<(u32, Access)> {
        let mut bindings = vec![(0, Access::Read), (1, Access::Read), (2, Access::Read)];
        bindings.extend(self.has_mask.then_some((3, Access::Read)));
        if !self.terms.is_empty() {
            bindings.extend([(4, Access::Read), (5, Access::Read)]);
        }
        bindings.extend(self.has_matrix.then_some((6, Access::Read)));
        bindings.extend([(7, Access::Write), (8, Access::Write)]);
        bindings
    }
}

/// Vectors of parameters that a term takes.
fn n_vectors(term: &BiasTerm, n_heads: usize) -> usize {
    match &term.kind {
        TermKind::Distance { .. } => n_heads * term.n_basis(n_heads),
        TermKind::Custom(custom) => custom.params.len().div_ceil(4),
    }
}

fn describe(index: usize, offset: usize, term: &BiasTerm, n_heads: usize) -> Term {
    let n_basis = term.n_basis(n_heads);
    let (mut body, mut n_params) = (String::new(), 0);
    let (kind, kernel, grows) = match &term.kind {
        TermKind::Custom(custom) => {
            body.clone_from(&custom.wgsl);
            n_params = custom.params.len();
            ("custom", "", false)
        }
        TermKind::Distance { distance, kernel, b, .. } => {
            let kind = match distance {
                Distance::Euclidean => "euclidean",
                Distance::GreatCircle => "great_circle",
                Distance::CausalTime => "causal_time",
            };
            let name = match kernel {
                Kernel::Scalar => "scalar",
                Kernel::Rbf => "rbf",
                Kernel::Tisa => "tisa",
                Kernel::Exponential => "exponential",
            };
            // Causal distances are negative, so there an exponential of positive b grows.
            let signed = *distance == Distance::CausalTime && *kernel == Kernel::Exponential;
            (kind, name, signed || b.iter().any(|&b| b < 0.0))
        }
    };
    Term {
        index,
        kind,
        kernel,
        first: term.columns.start,
        width: term.columns.len(),
        n_basis,
        offset,
        grows,
        body,
        n_params,
    }
}

/// The parameters of all terms as the shader reads them: `(a, -b log2 e, c, 0)`.
fn pack(terms: &[BiasTerm], n_heads: usize) -> Vec<[f32; 4]> {
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
            TermKind::Distance { a, b, c, .. } => {
                let at = |values: &[f32], i: usize| values.get(i).copied().unwrap_or(0.0);
                let n = n_heads * term.n_basis(n_heads);
                packed.extend((0..n).map(|i| [a[i], -at(b, i) * std::f32::consts::LOG2_E, at(c, i), 0.0]));
            }
        }
    }
    if packed.is_empty() { vec![[0.0; 4]] } else { packed }
}

/// Compiles a snippet on its own, so that the message speaks of the user's lines.
fn check_custom(custom: &CustomBias, width: usize) -> Result<()> {
    let refused = |message: String| Error::BiasShader { name: custom.name.clone(), message };
    // On one line, so that line 1 of the message is line 1 of the snippet.
    let source = format!(
        "const MASKED: f32 = {MASKED:e}; fn params(i: u32) -> f32 {{ return f32(i); }} \
         fn bias(q_coord: array<f32, {width}>, k_coord: array<f32, {width}>, head: u32) -> f32 {{ {}\n}}",
        custom.wgsl
    );
    let module = naga::front::wgsl::parse_str(&source).map_err(|error| refused(error.emit_to_string(&source)))?;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), Default::default());
    validator.validate(&module).map_err(|error| refused(error.emit_to_string(&source)))?;
    // Called where not all threads go along.
    if ["Barrier", "workgroupUniformLoad"].iter().any(|word| custom.wgsl.contains(word)) {
        return Err(refused("the snippet may not wait at barriers".into()));
    }
    let adds = module.functions.len() != 2 || !module.entry_points.is_empty() || !module.global_variables.is_empty();
    if adds {
        return Err(refused("the snippet is the body of one function and may not declare others, or globals".into()));
    }
    Ok(())
}

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    batch: u32,
    n_heads: u32,
    n_queries: u32,
    n_keys: u32,
    n_groups: u32,
    q_tiles: u32,
    keys_per_split: u32,
    first_head: u32,
    scale: f32,
    q_strides: [u32; 3],
    q_base: u32,
    k_strides: [u32; 3],
    k_base: u32,
    v_strides: [u32; 3],
    v_base: u32,
    out_split: u32,
    out_strides: [u32; 3],
    out_base: u32,
    lse_split: u32,
    lse_strides: [u32; 3],
    lse_base: u32,
    q_coords_batch: u32,
    q_coords_base: u32,
    k_coords_batch: u32,
    k_coords_base: u32,
    mask_batch: u32,
    mask_base: u32,
    matrix_strides: [u32; 3],
    matrix_base: u32,
    /// The bias vectors that follow begin at a multiple of 16 bytes.
    padding: [u32; 3],
}

/// The tensors of one call.
struct Call<'a> {
    gpu: &'a Gpu,
    problem: &'a Problem,
    pipeline: Arc<Pipeline>,
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    mask: Option<&'a Tensor>,
    bias: &'a Bias<'a>,
    /// Bias parameters as the shader reads them.
    packed: Vec<[f32; 4]>,
    n_splits: usize,
    n_basis: usize,
}

/// Where a launch writes, and with which strides.
struct Target<'a> {
    values: (View<'a>, u32),
    log_sum_exp: (View<'a>, u32),
    /// Elements from one split to the next in each.
    split_strides: [usize; 2],
}

#[allow(clippy::too_many_arguments)] // one call site, all of it the user's call
pub(super) fn scan_attention(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    bias: &Bias<'_>,
    n_splits: Option<usize>,
) -> Result<Attention> {
    let constants = Constants::new(problem, mask.is_some(), bias.matrix.is_some(), bias.terms);
    let bindings = constants.bindings();
    let allowed = gpu.limits().max_storage_buffers_per_shader_stage;
    if bindings.len() as u32 > allowed {
        return Err(Error::LimitExceeded {
            limit: "storage buffers of one kernel",
            requested: bindings.len() as u64,
            allowed: u64::from(allowed),
        });
    }
    let check = || {
        bias.terms.iter().try_for_each(|term| match &term.kind {
            TermKind::Custom(custom) => check_custom(custom, term.columns.len()),
            TermKind::Distance { .. } => Ok(()),
        })
    };
    let untrusted = constants.uses_custom.then_some(&check as &dyn Fn() -> Result<()>);
    let variant = Variant { name: "scan_attention", constants: &constants, bindings: &bindings, untrusted };
    let n_basis = bias.terms.iter().map(|term| term.n_basis(problem.n_heads).max(1)).sum();
    // A binding may begin up to 256 bytes early, to be aligned.
    let max_binding = gpu.max_binding().saturating_sub(256);
    let capabilities =
        Capabilities { max_binding, submit_budget: gpu.submit_budget(), max_iterations: gpu.max_iterations() };
    let plan = select::plan(problem, n_basis, bias.matrix.is_some(), n_splits, &capabilities);
    let call = Call {
        gpu,
        problem,
        pipeline: gpu.pipeline(&variant)?,
        q,
        k,
        v,
        mask,
        bias,
        packed: pack(bias.terms, problem.n_heads),
        n_splits: plan.n_splits,
        n_basis,
    };
    let n_rows = problem.batch * problem.n_heads * problem.n_queries;
    let values = gpu.allocate(n_rows * problem.v_dim)?;
    let log_sum_exp = gpu.allocate(n_rows)?;
    for piece in &plan.pieces {
        let rows = rows_of(problem, piece);
        let value_elements = values.elements(rows.start * problem.v_dim, rows.end * problem.v_dim);
        let lse_elements = log_sum_exp.elements(rows.start, rows.end);
        if plan.n_parts() == 1 {
            let target = Target { values: value_elements, log_sum_exp: lse_elements, split_strides: [0, 0] };
            call.launch(piece, &plan.keys[0], &target)?;
            continue;
        }
        let n_values = rows.len() * problem.v_dim;
        let part_values = gpu.allocate(plan.n_parts() * n_values)?;
        let part_lse = gpu.allocate(plan.n_parts() * rows.len())?;
        for (i, keys) in plan.keys.iter().enumerate() {
            let first = i * plan.n_splits;
            let end = first + plan.n_splits;
            let target = Target {
                values: part_values.elements(first * n_values, end * n_values),
                log_sum_exp: part_lse.elements(first * rows.len(), end * rows.len()),
                split_strides: [n_values, rows.len()],
            };
            call.launch(piece, keys, &target)?;
        }
        let to = [value_elements, lse_elements];
        merge_into(gpu, plan.n_parts(), problem.v_dim, &part_values, &part_lse, to, rows.len())?;
    }
    Ok(Attention {
        values: Tensor::from_gpu(problem.out_shape(), gpu, values),
        log_sum_exp: Tensor::from_gpu(problem.lse_shape(), gpu, log_sum_exp),
    })
}

/// The rows of the result that a piece makes: `v_dim` values and one log-sum-exp each.
fn rows_of(problem: &Problem, piece: &Piece) -> Range<usize> {
    let strides = problem.strides(problem.n_queries, 1);
    let first = piece.batch.start * strides[0] + piece.heads.start * strides[1] + piece.queries.start * strides[2];
    first..first + piece.batch.len() * piece.heads.len() * piece.queries.len()
}

/// The elements of a tensor of the given strides from the first of the ranges to the last, as
/// a binding.
fn cover<'a>(buffer: &'a Buffer, strides: [usize; 3], width: usize, ranges: [&Range<usize>; 3]) -> (View<'a>, u32) {
    let at = |pick: fn(&Range<usize>) -> usize| -> usize {
        strides.iter().zip(ranges).map(|(stride, range)| stride * pick(range)).sum()
    };
    buffer.elements(at(|range| range.start), at(|range| range.end - 1) + width)
}

fn as_u32(strides: [usize; 3]) -> [u32; 3] {
    strides.map(|stride| stride as u32)
}

impl Call<'_> {
    fn launch(&self, piece: &Piece, keys: &Range<usize>, target: &Target<'_>) -> Result<()> {
        let problem = self.problem;
        let Piece { batch, heads, queries } = piece;
        let strides = |length, dim| problem.strides(length, dim);
        let q_strides = strides(problem.n_queries, problem.head_dim);
        let k_strides = strides(problem.n_keys, problem.head_dim);
        let v_strides = strides(problem.n_keys, problem.v_dim);
        let (q, q_base) = cover(self.q.gpu(), q_strides, problem.head_dim, [batch, heads, queries]);
        let (k, k_base) = cover(self.k.gpu(), k_strides, problem.head_dim, [batch, heads, keys]);
        let (v, v_base) = cover(self.v.gpu(), v_strides, problem.v_dim, [batch, heads, keys]);
        let q_tiles = queries.len().div_ceil(TILE);
        let n_groups = batch.len() * heads.len() * q_tiles * self.n_splits;
        let mut params = Params {
            batch: batch.len() as u32,
            n_heads: heads.len() as u32,
            n_queries: queries.len() as u32,
            n_keys: keys.len() as u32,
            n_groups: n_groups as u32,
            q_tiles: q_tiles as u32,
            keys_per_split: keys.len().div_ceil(self.n_splits) as u32,
            first_head: heads.start as u32,
            scale: problem.scale,
            q_strides: as_u32(q_strides),
            q_base,
            k_strides: as_u32(k_strides),
            k_base,
            v_strides: as_u32(v_strides),
            v_base,
            out_split: target.split_strides[0] as u32,
            out_strides: as_u32(strides(queries.len(), problem.v_dim)),
            out_base: target.values.1,
            lse_split: target.split_strides[1] as u32,
            lse_strides: as_u32(strides(queries.len(), 1)),
            lse_base: target.log_sum_exp.1,
            ..Params::default()
        };
        // A piece of whole batch elements or heads keeps the strides of all of them.
        if problem.head_major {
            params.out_strides[0] = (heads.len() * queries.len() * problem.v_dim) as u32;
            params.lse_strides[0] = (heads.len() * queries.len()) as u32;
        }
        let mut buffers = vec![q, k, v];
        let none = 0..1;
        if let Some(mask) = self.mask {
            let (view, base) = cover(mask.gpu(), [problem.n_keys, 0, 1], 1, [batch, &none, keys]);
            params.mask_batch = problem.n_keys as u32;
            params.mask_base = base;
            buffers.push(view);
        }
        if let (Some(q_coords), Some(k_coords), false) =
            (self.bias.q_coords, self.bias.k_coords, self.bias.terms.is_empty())
        {
            let n = problem.n_columns;
            let (view, base) = cover(q_coords.gpu(), [problem.n_queries * n, 0, n], n, [batch, &none, queries]);
            params.q_coords_batch = (problem.n_queries * n) as u32;
            params.q_coords_base = base;
            buffers.push(view);
            let (view, base) = cover(k_coords.gpu(), [problem.n_keys * n, 0, n], n, [batch, &none, keys]);
            params.k_coords_batch = (problem.n_keys * n) as u32;
            params.k_coords_base = base;
            buffers.push(view);
        }
        if let Some(matrix) = self.bias.matrix {
            let row = problem.n_keys;
            let strides = [problem.n_heads * problem.n_queries * row, problem.n_queries * row, row];
            let first_key = keys.start;
            let elements = cover(matrix.gpu(), strides, row, [batch, heads, queries]);
            params.matrix_strides = as_u32(strides);
            params.matrix_base = elements.1 + first_key as u32;
            buffers.push(elements.0);
        }
        buffers.extend([target.values.0, target.log_sum_exp.0]);
        let bytes = [bytemuck::bytes_of(&params), bytemuck::cast_slice(&self.packed)].concat();
        let share = batch.len() as f64 / problem.batch as f64 * heads.len() as f64 / problem.n_heads as f64
            * queries.len() as f64
            / problem.n_queries as f64
            * keys.len() as f64
            / problem.n_keys as f64;
        self.gpu.dispatch(&Dispatch {
            pipeline: &self.pipeline,
            buffers: &buffers,
            params: &bytes,
            n_groups: n_groups as u64,
            cost: select::cost(problem, self.n_basis) * share,
        })
    }
}

/// Texts that this operation may compile, one for each thing that its text depends on.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    let custom = CustomBias {
        name: "alibi".into(),
        wgsl: "return -params(head) * abs(q_coord[0] - k_coord[0]);".into(),
        cpu: Arc::new(|q, k, head, params| -params[head] * (q[0] - k[0]).abs()),
        params: vec![0.5, 0.25],
    };
    let (a, c) = ([0.5; 4], [1.0; 4]);
    let mut biases: Vec<(String, Vec<BiasTerm>)> = vec![("none".into(), vec![])];
    for distance in [Distance::Euclidean, Distance::GreatCircle, Distance::CausalTime] {
        let columns = match distance {
            Distance::Euclidean => 0..3,
            Distance::GreatCircle => 0..2,
            Distance::CausalTime => 2..3,
        };
        for kernel in [Kernel::Scalar, Kernel::Rbf, Kernel::Tisa, Kernel::Exponential] {
            let n = if kernel == Kernel::Scalar { 2 } else { 4 };
            let c = if kernel == Kernel::Tisa { &c[..] } else { &[] };
            for sign in [1.0, -1.0] {
                let b = [1.0, 2.0, sign, 1.0];
                let b = if kernel == Kernel::Scalar { &[] } else { &b[..] };
                let term = BiasTerm::new(columns.clone(), distance, kernel, &a[..n], b, c);
                biases.push((format!("{distance:?} {kernel:?} {sign:+}"), vec![term]));
            }
        }
    }
    biases.push(("custom".into(), vec![BiasTerm::custom(0..1, custom.clone())]));
    biases.push(("many basis functions".into(), vec![BiasTerm::rbf(0..2, &[0.1; 24], &[1.0; 24])]));
    let sum = vec![
        BiasTerm::rbf(0..2, &a, &a),
        BiasTerm::new(2..3, Distance::CausalTime, Kernel::Scalar, &a[..2], &[], &[]),
        BiasTerm::custom(0..2, custom),
    ];
    biases.push(("space + time + custom".into(), sum));
    let mut variants = Vec::new();
    for (name, terms) in &biases {
        for (head_dim, v_dim) in [(32, 32), (30, 7), (128, 65), (256, 256)] {
            for (has_mask, has_matrix) in [(false, false), (true, false), (false, true), (true, true)] {
                let problem = Problem {
                    batch: 1,
                    n_heads: 2,
                    n_queries: 1,
                    n_keys: 1,
                    head_dim,
                    v_dim,
                    head_major: true,
                    scale: 1.0,
                    n_columns: if terms.is_empty() { 0 } else { 3 },
                };
                let constants = Constants::new(&problem, has_mask, has_matrix, terms);
                let options = format!("mask={has_mask} matrix={has_matrix}");
                let label = format!("scan_attention bias={name} head_dim={head_dim} v_dim={v_dim} {options}");
                variants.push((label, shader::expand("scan_attention", &constants)));
            }
        }
    }
    variants
}
