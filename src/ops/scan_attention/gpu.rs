//! Launches `shaders/scan_attention.wgsl`.

use std::{ops::Range, sync::Arc};

use super::{
    bias::{Bias, BiasKernel, BiasTerm, Distance},
    custom::CustomBias,
    matrix::MatrixTile,
    plan::{self, IS_PAGE, Piece, Plan, Rung},
    problem::{MAX_UNIFORM_VECTORS, Problem},
    strides::BiasStrides,
    text::{Constants, pack},
};
use crate::{
    device::gpu::{Buffer, Gpu, Kernel, Part, Shader, Work, params},
    error::Result,
    ops::{merge_attention::gpu::merge_splits, softmax::Attention},
    parallel::*,
    tensor::{DType, Tensor},
};

const KERNEL: Kernel<Constants, Params> =
    Kernel::new("scan_attention", include_str!("../../../shaders/scan_attention.wgsl"));

const DECODE: Kernel<Constants, Params> =
    Kernel::new("scan_attention_decode", include_str!("../../../shaders/scan_attention_decode.wgsl"));

const ROWS: Kernel<Constants, Params> = Kernel::new(
    "scan_attention_rows",
    if IS_PAGE { "" } else { include_str!("../../../shaders/scan_attention_rows.wgsl") },
);

const MATRIX: Kernel<Constants, Params> = Kernel::new(
    "scan_attention_matrix",
    if IS_PAGE { "" } else { include_str!("../../../shaders/scan_attention_matrix.wgsl") },
);

/// The file of a variant.
fn kernel(rung: Rung) -> &'static Kernel<Constants, Params> {
    match rung {
        _ if rung.is_decode() => &DECODE,
        _ if rung.is_rows() => &ROWS,
        Rung::Matrix => &MATRIX,
        _ => &KERNEL,
    }
}

params! {
    Params {
        batch: u32,
        n_heads: u32,
        n_queries: u32,
        n_keys: u32,
        n_groups: u32,
        q_tiles: u32,
        keys_per_split: u32,
        first_head: u32,
        scale: f32,
        q_batch: u32,
        q_head: u32,
        q_row: u32,
        q_base: u32,
        k_batch: u32,
        k_head: u32,
        k_row: u32,
        k_base: u32,
        v_batch: u32,
        v_head: u32,
        v_row: u32,
        v_base: u32,
        out_split: u32,
        out_batch: u32,
        out_head: u32,
        out_row: u32,
        values_base: u32,
        lse_split: u32,
        lse_batch: u32,
        lse_head: u32,
        lse_row: u32,
        log_sum_exp_base: u32,
        lse_sums: u32,
        q_coords_batch: u32,
        q_coords_base: u32,
        k_coords_batch: u32,
        k_coords_base: u32,
        mask_batch: u32,
        key_mask_base: u32,
        matrix_batch: u32,
        matrix_head: u32,
        matrix_row: u32,
        matrix_base: u32,
        kv_group: u32,
        bias_base: u32,
        depth: u32,
        slice: u32,
        padding: [u32; 2],
    }
}

/// The tensors of one call.
struct Call<'a> {
    gpu: &'a Gpu,
    problem: &'a Problem,
    rung: Rung,
    queries_of_group: usize,
    constants: Constants,
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    mask: Option<&'a Tensor>,
    bias: &'a Bias<'a>,
    /// Bias parameters as the shader reads them: behind the uniform, or in a buffer.
    packed: Vec<[f32; 4]>,
    stored: Option<Buffer>,
    n_splits: usize,
}

/// Where a launch writes, and how many numbers from one split to the next.
struct Target<'a> {
    values: Part<'a>,
    log_sum_exp: Part<'a>,
    split_strides: [usize; 2],
    /// From the largest logit of a row of a split to its sum; 0 if there is one split, of which
    /// the log-sum-exp is asked.
    lse_sums: usize,
}

pub(super) fn scan_attention(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    [q, k, v]: [&Tensor; 3],
    mask: Option<&Tensor>,
    bias: &Bias<'_>,
) -> Result<Attention> {
    let plan = plan::plan(problem, gpu.capabilities())?;
    let queries_of_group = plan.queries();
    let Plan { rung, matrix, pieces, keys, n_splits, .. } = plan;
    let n_parts = keys.len() * n_splits;
    // Vectors of halves are widened where they are read, single ones before.
    let read = |x: &Tensor| if rung.is_wide() { Ok(x.clone()) } else { x.to_f32() };
    let (k, v) = (&read(k)?, &read(v)?);
    let halves = [k, v].map(|x| x.dtype() == DType::F16);
    let mut constants = Constants::new(problem, rung, matrix, halves, mask.is_some(), bias.terms);
    constants.is_paired = plan::has_subgroups_of(2 * rung.across(), gpu.capabilities());
    let mut packed = pack(bias.terms, problem.n_heads);
    let stored = constants.bias_in_storage.then(|| gpu.upload(bytemuck::cast_slice(&packed))).transpose()?;
    if stored.is_some() {
        packed.clear();
    }
    let call = Call { gpu, problem, rung, queries_of_group, constants, q, k, v, mask, bias, packed, stored, n_splits };
    let n_rows = problem.batch * problem.n_heads * problem.n_queries;
    let values = gpu.allocate(n_rows * problem.v_dim)?;
    let log_sum_exp = gpu.allocate(n_rows)?;
    for piece in &pieces {
        let rows = rows_of(problem, piece);
        let to = [
            Part { buffer: &values, elements: rows.start * problem.v_dim..rows.end * problem.v_dim },
            Part { buffer: &log_sum_exp, elements: rows.clone() },
        ];
        if n_parts == 1 {
            let [values, log_sum_exp] = to;
            call.launch(piece, &keys[0], Target { values, log_sum_exp, split_strides: [0, 0], lse_sums: 0 })?;
            continue;
        }
        let strides = [rows.len() * problem.v_dim, 2 * rows.len()];
        let parts = [gpu.allocate(n_parts * strides[0])?, gpu.allocate(n_parts * strides[1])?];
        for (i, keys) in keys.iter().enumerate() {
            let splits = i * n_splits..(i + 1) * n_splits;
            let [values, log_sum_exp] = [0, 1]
                .map(|i| Part { buffer: &parts[i], elements: splits.start * strides[i]..splits.end * strides[i] });
            call.launch(piece, keys, Target { values, log_sum_exp, split_strides: strides, lse_sums: rows.len() })?;
        }
        merge_splits(gpu, [n_parts, rows.len(), problem.v_dim], parts.each_ref().map(Part::from), to)?;
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

/// The elements of a tensor of the given strides from the first of the ranges to the last, of
/// which `columns` of each row.
fn cover<'a>(buffer: &'a Buffer, strides: [usize; 3], columns: Range<usize>, ranges: [&Range<usize>; 3]) -> Part<'a> {
    let at = |pick: fn(&Range<usize>) -> usize| -> usize {
        strides.iter().zip(ranges).map(|(stride, range)| stride * pick(range)).sum()
    };
    Part { buffer, elements: at(|range| range.start) + columns.start..at(|range| range.end - 1) + columns.end }
}

/// The words of a buffer that hold some numbers of a tensor: whole vectors of four.
fn words<'a>(tensor: &Tensor, Part { buffer, elements }: Part<'a>) -> Part<'a> {
    let at = |element| tensor.dtype().words(element);
    Part { buffer, elements: at(elements.start)..at(elements.end) }
}

impl Call<'_> {
    fn launch(&self, piece: &Piece, keys: &Range<usize>, target: Target<'_>) -> Result<()> {
        let Self { problem, bias, .. } = self;
        let Problem { n_queries, n_keys, head_dim, v_dim, n_columns, kv_group, bias: strides, .. } = **problem;
        let Piece { batch, heads, queries } = piece;
        let as_u32 = |strides: [usize; 3]| strides.map(|stride| stride as u32);
        // Of q, k, v and values, in elements of the text's arrays.
        let elements = |strides: [usize; 3]| as_u32(strides.map(|stride| stride / self.rung.words()));
        let of_q = problem.strides(n_queries, head_dim);
        let [of_k, of_v] = [head_dim, v_dim].map(|dim| problem.kv_strides(dim));
        let kv_heads = &(heads.start / kv_group..heads.end.div_ceil(kv_group));
        let [mut of_out, mut of_lse] = [v_dim, 1].map(|dim| problem.strides(queries.len(), dim));
        // A piece of whole batch elements or heads keeps the strides of all of them.
        if problem.head_major {
            of_out[0] = heads.len() * queries.len() * v_dim;
            of_lse[0] = heads.len() * queries.len();
        }
        let [q_batch, q_head, q_row] = elements(of_q);
        let [k_batch, k_head, k_row] = elements(of_k);
        let [v_batch, v_head, v_row] = elements(of_v);
        let [out_batch, out_head, out_row] = elements(of_out);
        let [lse_batch, lse_head, lse_row] = as_u32(of_lse);
        let [matrix_batch, matrix_head, matrix_row] = as_u32(strides.matrix);
        let [out_split, lse_split] = target.split_strides.map(|stride| stride as u32);
        let out_split = out_split / self.rung.words() as u32;
        let q_tiles = queries.len().div_ceil(self.queries_of_group);
        let n_groups = batch.len() * heads.len() * q_tiles * self.n_splits;
        let keys_per_split = keys.len().div_ceil(self.n_splits);
        let params = Params {
            batch: batch.len() as u32,
            n_heads: heads.len() as u32,
            n_queries: queries.len() as u32,
            n_keys: keys.len() as u32,
            q_tiles: q_tiles as u32,
            keys_per_split: keys_per_split as u32,
            first_head: heads.start as u32,
            kv_group: kv_group as u32,
            scale: problem.scale,
            q_batch,
            q_head,
            q_row,
            k_batch,
            k_head,
            k_row,
            v_batch,
            v_head,
            v_row,
            out_split,
            out_batch,
            out_head,
            out_row,
            lse_split,
            lse_batch,
            lse_head,
            lse_row,
            lse_sums: target.lse_sums as u32,
            q_coords_batch: (strides.q_coords * n_columns) as u32,
            k_coords_batch: (strides.k_coords * n_columns) as u32,
            mask_batch: n_keys as u32,
            matrix_batch,
            matrix_head,
            matrix_row,
            depth: self.constants.depth as u32,
            slice: self.constants.slice as u32,
            ..Params::default()
        };
        let none = 0..1;
        let [q_coords, k_coords] = match bias.terms.is_empty() {
            true => [None, None],
            false => [(bias.q_coords, strides.q_coords, queries), (bias.k_coords, strides.k_coords, keys)].map(
                |(coords, points, range)| {
                    let strides = [points * n_columns, 0, n_columns];
                    coords.map(|coords| cover(coords.gpu(), strides, 0..n_columns, [batch, &none, range]))
                },
            ),
        };
        let mask = self.mask.map(|mask| cover(mask.gpu(), [n_keys, 0, 1], 0..1, [batch, &none, keys]));
        let matrix = bias.matrix.map(|m| cover(m.gpu(), strides.matrix, keys.clone(), [batch, heads, queries]));
        let share = |part: usize, of: usize| part as f64 / of as f64;
        let share = share(batch.len() * heads.len(), problem.batch * problem.n_heads)
            * share(queries.len(), n_queries)
            * share(keys.len(), n_keys);
        let work = Work {
            cost: plan::cost(problem) * share / n_groups as f64,
            iterations: keys_per_split.div_ceil(self.rung.keys())
                * plan::iterations(problem, self.rung, self.constants.matrix),
        };
        let launch = match self.constants.uses_custom {
            true => self.gpu.kernel_with_snippet(kernel(self.rung), &self.constants)?,
            false => self.gpu.kernel(kernel(self.rung), &self.constants)?,
        };
        launch
            .read("q", cover(self.q.gpu(), of_q, 0..head_dim, [batch, heads, queries]))
            .read("k", words(self.k, cover(self.k.gpu(), of_k, 0..head_dim, [batch, kv_heads, keys])))
            .read("v", words(self.v, cover(self.v.gpu(), of_v, 0..v_dim, [batch, kv_heads, keys])))
            .read_some("key_mask", mask)
            .read_some("q_coords", q_coords)
            .read_some("k_coords", k_coords)
            .read_some("matrix", matrix)
            .read_some("bias", self.stored.as_ref())
            .write("values", target.values)
            .write("log_sum_exp", target.log_sum_exp)
            .groups_with(n_groups, work, params, &self.packed)
    }
}

/// Texts that this operation may compile, one for each thing that its text depends on.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    texts().par_iter().map(|(rung, label, constants)| kernel(*rung).shader(label, constants)).collect()
}

fn texts() -> Vec<(Rung, String, Constants)> {
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
        for kernel in BiasKernel::ALL {
            let n = if kernel == BiasKernel::Scalar { 2 } else { 4 };
            // A scalar has no exponent, and this one is positive either way.
            let grows = distance == Distance::CausalTime && kernel.is_odd();
            let one_sign = kernel == BiasKernel::Scalar || grows;
            for sign in if one_sign { &[1.0][..] } else { &[1.0, -1.0] } {
                let b = [1.0, 2.0, *sign, 1.0];
                let parameters = &[&a[..n], &b, &c][..kernel.parameters().len()];
                let term = BiasTerm::built_in(columns.clone(), distance, kernel, parameters);
                biases.push((format!("{distance:?} {kernel:?} {sign:+}"), vec![term]));
            }
        }
    }
    biases.push(("custom".into(), vec![BiasTerm::custom(0..1, custom.clone())]));
    let many = CustomBias { params: vec![0.5; 4 * MAX_UNIFORM_VECTORS], ..custom.clone() };
    let many = vec![BiasTerm::rbf(0..2, &a, &a), BiasTerm::custom(0..1, many)];
    biases.push(("many parameters".into(), many));
    biases.push(("many basis functions".into(), vec![BiasTerm::rbf(0..2, &[0.1; 24], &[1.0; 24])]));
    let sum = vec![
        BiasTerm::rbf(0..2, &a, &a),
        BiasTerm::built_in(2..3, Distance::CausalTime, BiasKernel::Scalar, &[&a[..2]]),
        BiasTerm::custom(0..2, custom),
    ];
    biases.push(("space + time + custom".into(), sum));
    let mut all = Vec::new();
    let mut add = |name: &str,
                   terms: &[BiasTerm],
                   [n_heads, head_dim, v_dim, n_columns]: [usize; 4],
                   has: [bool; 2],
                   rungs: &[Rung]| {
        let [has_mask, has_matrix] = has;
        let problem = Problem {
            batch: 1,
            n_heads,
            kv_group: 1,
            n_queries: 1,
            n_keys: 1,
            head_dim,
            v_dim,
            head_major: true,
            scale: 1.0,
            n_columns,
            n_basis: 0,
            iterations: 0,
            operations: 0,
            on_sphere: false,
            has_matrix,
            bias: BiasStrides::default(),
            n_operands: 5,
            n_splits: None,
        };
        let options = format!("mask={has_mask} matrix={has_matrix}");
        let label = format!("bias={name} head_dim={head_dim} v_dim={v_dim} {options}");
        if !IS_PAGE && rungs.contains(&Rung::Matrix) && Rung::Matrix.fits(&problem, u32::MAX) {
            let tiles = if terms.is_empty() { &MATRIX_TILES[..] } else { &MATRIX_TILES[..3] };
            for [size, queries, subgroup] in tiles {
                let tile = MatrixTile::of(&problem, *size, *queries, *subgroup);
                // No device has more.
                if tile.bytes(&problem) > 64 << 10 {
                    continue;
                }
                let name = format!("{size} x {size}, {queries} queries, {} threads {label}", tile.threads);
                let text = |halves| Constants::new(&problem, Rung::Matrix, Some(tile), halves, has_mask, terms);
                if terms.is_empty() && [32, 64].contains(&head_dim) && !has_matrix {
                    all.push((Rung::Matrix, format!("{name} f16"), text([true; 2])));
                }
                all.push((Rung::Matrix, name, text([false; 2])));
            }
        }
        let fitting = |rung: &Rung| *rung != Rung::Matrix && rungs.contains(rung) && rung.fits(&problem, u32::MAX);
        for (variant, rung) in Rung::ALL.into_iter().filter(|(_, rung)| fitting(rung)) {
            let mut push = |label: String, halves| {
                let text = Constants::new(&problem, rung, None, halves, has_mask, terms);
                if rung.is_rows() {
                    let mut unpaired = text.clone();
                    unpaired.is_paired = false;
                    all.push((rung, format!("{label} unpaired"), unpaired));
                }
                all.push((rung, label, text));
            };
            push(format!("{variant} {label}"), [false; 2]);
            // Keys and values of f16 are read by vectors.
            if rung.is_wide() && terms.is_empty() && [32, 64].contains(&head_dim) && !has_matrix {
                push(format!("{variant} {label} f16"), [true; 2]);
            }
        }
    };
    let every = &Rung::ALL.map(|(_, rung)| rung)[..];
    let (portable, wide, plain_and_wide) = (&every[..1], &every[1..], &every[..2]);
    const HAS: [[bool; 2]; 4] = [[false, false], [true, false], [false, true], [true, true]];
    for (name, terms) in &biases {
        let n_columns = if terms.is_empty() { 0 } else { 3 };
        for has in HAS {
            add(name, terms, [2, 30, 7, n_columns], has, portable);
            add(name, terms, [2, 128, 65, n_columns], has, portable);
            add(name, terms, [2, 32, 32, n_columns], has, plain_and_wide);
        }
        add(name, terms, [2, 256, 256, n_columns], [true, true], every);
        add(name, terms, [2, 36, 20, n_columns], [false, false], wide);
    }
    // And the sizes of the papers' networks, which the golden cases compile.
    for head_dim in [4, 6, 7, 8, 16, 64] {
        for has in HAS {
            add("none", &[], [2, head_dim, head_dim, 0], has, every);
        }
    }
    // Features of a stable linear attention have a vector more.
    for v_dim in [16, 32] {
        for has_mask in [false, true] {
            add("none", &[], [2, v_dim + 4, v_dim, 0], [has_mask, false], every);
        }
    }
    add("none", &[], [2, 256, 256, 0], [false, false], WIDEST);
    // What a network at work compiles.
    for has_mask in [false, true] {
        add("none", &[], [2, 32, 32, 0], [has_mask, false], &wide[1..]);
        add("none", &[], [2, 128, 128, 0], [has_mask, false], wide);
    }
    for (name, terms, n_columns) in [1.0, -1.0].into_iter().flat_map(networks) {
        for head_dim in [16, 32] {
            for has_mask in [false, true] {
                add(&name, &terms, [NETWORK_HEADS, head_dim, head_dim, n_columns], [has_mask, false], every);
            }
        }
        // Of heads that are wider, those that need the most registers.
        if ["rbf of 2 columns +1", "great circle, Rbf of 5 +1"].contains(&name.as_str()) {
            add(&name, &terms, [NETWORK_HEADS, 256, 256, n_columns], [false, false], WIDEST);
            for head_dim in [64, 128] {
                let exact = &wide[..wide.len() - 1];
                add(&name, &terms, [NETWORK_HEADS, head_dim, head_dim, n_columns], [false, false], exact);
            }
        }
    }
    all
}

/// Sides of matrices, queries of a workgroup and the smallest subgroups, as devices have them.
const MATRIX_TILES: [[usize; 3]; 4] = [[16, 64, 32], [16, 32, 32], [8, 32, 8], [8, 64, 32]];

/// What the widest heads are left to where registers are few.
const WIDEST: &[Rung] = &[Rung::Rolled32, Rung::Decode2By16];

/// Heads of the papers' networks.
const NETWORK_HEADS: usize = 4;

/// The biases of the papers' networks, by name, and the columns of their coordinates; exponents
/// with a sign. A scalar has none, so it is there once.
fn networks(sign: f32) -> Vec<(String, Vec<BiasTerm>, usize)> {
    let a = |n: usize| vec![1.0; NETWORK_HEADS * n];
    let b = |n: usize| vec![sign; NETWORK_HEADS * n];
    let rbf = |columns: Range<usize>, n: usize| BiasTerm::rbf(columns, &a(n), &b(n));
    let circle = |kernel| BiasTerm::built_in(0..2, Distance::GreatCircle, kernel, &[&a(5), &b(5)]);
    let causal = |kernel, parameters: &[&[f32]]| BiasTerm::built_in(2..3, Distance::CausalTime, kernel, parameters);
    let mut all = Vec::new();
    for dim in 1..=3 {
        all.push((format!("rbf of {dim} columns"), vec![rbf(0..dim, 5)], dim));
        all.push((format!("tisa of {dim} columns"), vec![BiasTerm::tisa(0..dim, &a(5), &b(5), &a(5))], dim));
        if sign > 0.0 {
            all.push((format!("scalar of {dim} columns"), vec![BiasTerm::scalar(0..dim, &a(1))], dim));
        }
    }
    for kernel in [BiasKernel::Rbf, BiasKernel::Exponential] {
        all.push((format!("great circle, {kernel:?} of 5"), vec![circle(kernel)], 2));
    }
    let times = [
        ("causal scalar", causal(BiasKernel::Scalar, &[&a(1)])),
        ("causal rbf", causal(BiasKernel::Rbf, &[&a(3), &b(3)])),
        ("rbf", rbf(2..3, 3)),
    ];
    for (name, time) in times {
        all.push((format!("space + {name}"), vec![rbf(0..2, 5), time], 3));
    }
    all.push(("space + rbf behind other columns".into(), vec![rbf(3..5, 5), rbf(5..6, 3)], 6));
    all.into_iter().map(|(name, terms, n)| (format!("{name} {sign:+}"), terms, n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that needs more than the plan counts would be chosen where it does not fit.
    #[test]
    fn no_text_needs_more_workgroup_memory_than_its_plan_says() {
        for (rung, label, constants) in texts().into_iter().filter(|(rung, ..)| *rung != Rung::Matrix) {
            let needs = kernel(rung).shader(&label, &constants).unwrap().needs().unwrap();
            let counted = rung.bytes();
            assert!(needs.workgroup_bytes as usize <= counted, "{label}: {needs:?}, counted {counted}");
        }
    }
}
