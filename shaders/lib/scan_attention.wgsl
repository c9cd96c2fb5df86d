// What the kernels of scan_attention share: what is bound, how it is read, and which keys there are.
//# set number = "vec4<f32>" if wide else "f32"

struct Problem {
  batch: u32,
  n_heads: u32,
  n_queries: u32,
  n_keys: u32,
  n_groups: u32,
  q_tiles: u32,
  keys_per_split: u32,
  first_head: u32,
  scale: f32,
  // Strides of (batch, head, row), and where the first element is in each binding; of q, k, v and
  // values in {{ "vectors of four" if wide else "numbers" }}.
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
  // Heads of queries that share a head of keys and values.
  kv_group: u32,
  bias_base: u32,
  // {{ depth }} and {{ slice }}, where loops of that length are not to be unrolled.
  depth: u32,
  slice: u32,
//# if not bias_in_storage
  bias: array<vec4<f32>, {{ n_bias }}>,
//# endif
}

@group(0) @binding(0) var<storage, read> q: array<{{ number }}>;
@group(0) @binding(1) var<storage, read> k: array<{{ "vec2<u32>" if k_halves else number }}>;
@group(0) @binding(2) var<storage, read> v: array<{{ "vec2<u32>" if v_halves else number }}>;
//# if has_mask
@group(0) @binding(3) var<storage, read> key_mask: array<f32>;
//# endif
//# if terms
@group(0) @binding(4) var<storage, read> q_coords: array<f32>;
@group(0) @binding(5) var<storage, read> k_coords: array<f32>;
//# endif
//# if has_matrix
@group(0) @binding(6) var<storage, read> matrix: array<f32>;
//# endif
//# if bias_in_storage
@group(0) @binding(9) var<storage, read> bias: array<f32>;
//# endif
@group(0) @binding(7) var<storage, read_write> values: array<{{ number }}>;
@group(0) @binding(8) var<storage, read_write> log_sum_exp: array<f32>;
@group(1) @binding(0) var<uniform> problem: Problem;

//# include "lib/group.wgsl"
//# include "lib/finite.wgsl"
//# include "lib/bias.wgsl"

fn finite4(x: vec4<f32>) -> vec4<bool> {
  return (bitcast<vec4<u32>>(x) & vec4(0x7f800000u)) != vec4(0x7f800000u);
}

// `is_lost` of four.
fn lost4(x: vec4<f32>) -> vec4<bool> {
  return !finite4(x) & (bitcast<vec4<u32>>(x) != vec4(0xff800000u));
}
//# if k_halves or v_halves

fn widened(x: vec2<u32>) -> vec4<f32> {
  return vec4(unpack2x16float(x.x), unpack2x16float(x.y));
}
//# endif
//# for x, dim, read, is_zero, halves in [["q", head_dim, depth * n_depth, true, false], ["k", head_dim, depth * n_depth, true, k_halves], ["v", v_dim, v_read, false, v_halves]]
//# set wide_x = "widened(" ~ x if halves else x
//# set end = ")" if halves else ""

// Four numbers of a row of {{ x }}, the `quad`-th; those past its end are {{ "zeros" if is_zero else "any of it" }}.
fn load_{{ x }}(at: u32, quad: u32) -> vec4<f32> {
//# if wide
//# if read > dim and is_zero
  return select(vec4(0.0), {{ wide_x }}[at + min(quad, {{ dim // 4 - 1 }}u)]{{ end }}, quad < {{ dim // 4 }}u);
//# elif read > dim
  return {{ wide_x }}[at + min(quad, {{ dim // 4 - 1 }}u)]{{ end }};
//# else
  return {{ wide_x }}[at + quad]{{ end }};
//# endif
//# else
  let d = 4u * quad;
  return vec4(
//# for i in range(4)
//# if read > dim and is_zero
    select(0.0, {{ x }}[at + min(d + {{ i }}u, {{ dim - 1 }}u)], d + {{ i }}u < {{ dim }}u),
//# elif read > dim
    {{ x }}[at + min(d + {{ i }}u, {{ dim - 1 }}u)],
//# else
    {{ x }}[at + d + {{ i }}u],
//# endif
//# endfor
  );
//# endif
}
//# endfor

// Four columns of the result, the `quad`-th.
fn store(at: u32, quad: u32, value: vec4<f32>) {
//# if wide
  if (quad < {{ v_dim // 4 }}u) {
    values[at + quad] = value;
  }
//# else
//# for i in range(4)
  if (4u * quad + {{ i }}u < {{ v_dim }}u) {
    values[at + 4u * quad + {{ i }}u] = value[{{ i }}];
  }
//# endfor
//# endif
}

// Whether the mask keeps a key; the values of one that does not exist may hold anything, and
// even a weight of zero would not keep NaN out.
fn exists(batch: u32, key: u32) -> bool {
//# if has_mask
  return key_mask[problem.key_mask_base + batch * problem.mask_batch + key] != 0.0;
//# else
  return true;
//# endif
}
//# if skips
//# if causal_columns

// The latest times of the queries, as `ordered` has them; 0 if no query has one.
//# for c in causal_columns
var<workgroup> latest_{{ c }}: atomic<u32>;
//# endfor

// Numbers as integers of the same order, above 0.
fn ordered(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn from_ordered(x: u32) -> f32 {
  return bitcast<f32>(select(~x, x & 0x7fffffffu, x >= 0x80000000u));
}

fn forget_latest() {
//# for c in causal_columns
  atomicStore(&latest_{{ c }}, 0u);
//# endfor
}

fn keep_latest({% for c in causal_columns %}time_{{ c }}: f32{{ ", " if not loop.last }}{% endfor %}) {
//# for c in causal_columns
  atomicMax(&latest_{{ c }}, ordered(time_{{ c }}));
//# endfor
}
//# endif

// Whether some query may read a key: if not, it changes nothing.
fn may_be_read(batch: u32, key: u32{{ ", k_coords_base: u32" if terms }}) -> bool {
  var is_read = exists(batch, key);
//# for c in columns
  let column_{{ c }} = k_coords[k_coords_base + key * {{ n_columns }}u + {{ c }}u];
  is_read = is_read && finite(column_{{ c }});
//# if c in causal_columns
  let latest_of_{{ c }} = atomicLoad(&latest_{{ c }});
  // The difference as `term` has it: a key that it masks for the latest query, it masks for all.
  is_read = is_read && latest_of_{{ c }} != 0u && column_{{ c }} - from_ordered(latest_of_{{ c }}) <= 0.0;
//# endif
//# endfor
  return is_read;
}
//# endif
