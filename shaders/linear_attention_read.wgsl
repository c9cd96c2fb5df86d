// linear_attention_read: y = features(q) sums, divided as the normaliser says.
//
//   x: the queries [outer, n, inner, head_dim] · projection [n_features, head_dim]
//   sums [outer, inner, n_features, width] · n_keys [outer / heads] · y [outer, n, inner, v_dim]
//
// A workgroup of {{ threads }} threads makes {{ columns }} columns for {{ side }} queries of one head, each thread 4 for {{ 4 * tall }} of
// them. The features of the queries, 32 at a time, and their sums go through workgroup memory:
// {{ 16 * tile }} bytes.

struct Params {
  n: u32,
  n_features: u32,
  head_dim: u32,
  first_group: u32,
  scale: f32,
  outer: u32,
  inner: u32,
  heads: u32,
  v_dim: u32,
  width: u32,
  floor: f32,
  // Heads of queries that read one head of the sums.
  kv_group: u32,
  n_groups: u32,
  // Where the first element is in each binding.
  x_base: u32,
  projection_base: u32,
  sums_base: u32,
  n_keys_base: u32,
}

//# set element = "vec4<f32>" if vectors else "f32"
//# set sums_are_vectors = vectors and normalizer != "feature_sum"
@group(0) @binding(0) var<storage, read> x: array<{{ element }}>;
//# if kind != "identity"
@group(0) @binding(1) var<storage, read> projection: array<{{ element }}>;
//# endif
@group(0) @binding(2) var<storage, read> sums: array<{{ "vec4<f32>" if sums_are_vectors else "f32" }}>;
//# if normalizer == "key_count"
@group(0) @binding(3) var<storage, read> n_keys: array<f32>;
//# endif
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

// 32 features of four queries in a vector, then their sums.
var<workgroup> tile: array<vec4<f32>, {{ tile }}>;

//# include "lib/group.wgsl"
//# include "lib/feature_map.wgsl"

// Four columns of the sums of a feature; past the last column it is repeated.
fn load_sums(row: u32, column: u32) -> vec4<f32> {
//# if sums_are_vectors
  return sums[params.sums_base + row * (params.v_dim / 4u) + min(column, params.v_dim - 1u) / 4u];
//# else
  let last = params.v_dim - 1u;
  let at = params.sums_base + row * params.width;
  return vec4(
    sums[at + min(column, last)], sums[at + min(column + 1u, last)], sums[at + min(column + 2u, last)],
    sums[at + min(column + 3u, last)]);
//# endif
}

//# set quads = side // 4
//# set column_quads = columns // 4
@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let local = group_index(group_id, group_count);
  // Uniform for the whole group, so no thread waits at a barrier alone.
  if (local >= params.n_groups) {
    return;
  }
  let group = params.first_group + local;
  let column_tiles = (params.v_dim + {{ columns - 1 }}u) / {{ columns }}u;
  let query_tiles = (params.n + {{ side - 1 }}u) / {{ side }}u;
  let column0 = (group % column_tiles) * {{ columns }}u;
  let first = ((group / column_tiles) % query_tiles) * {{ side }}u;
  let head = group / (column_tiles * query_tiles);
  let outer = head / params.inner;
  let inner = head % params.inner;
  let row0 = (outer * params.n + first) * params.inner + inner;
  let sums_row0 = (head / params.kv_group) * params.n_features;
  let rows = Rows(row0, params.inner, min({{ side }}u, params.n - first));

  let made_quad = column_of(thread, {{ quads }}u);
  let made_feature = 4u * row_of(thread, {{ quads }}u);
  let quad = row_of(thread, {{ column_quads }}u);
  let column_quad = column_of(thread, {{ column_quads }}u);
//# for r in range(4 * tall)
  var total{{ r }} = vec4(0.0);
//# endfor
//# if normalizer == "feature_sum"
//# for q in range(tall)
  var norm{{ q }} = vec4(0.0);
//# endfor
//# endif
//# if kind == "softmax"
  var made: Features;
//# endif
  for (var f0 = 0u; f0 < params.n_features; f0 += 32u) {
    let n_features = min(32u, params.n_features - f0);
//# if kind == "softmax"
    made = features(rows, f0, thread, f0 == 0u, made);
//# else
    let made = features(rows, f0, thread);
//# endif
//# for r in range(4)
    tile[(made_feature + {{ r }}u) * {{ quads }}u + made_quad] =
      select(vec4(0.0), made.z{{ r }}, made_feature + {{ r }}u < n_features);
//# endfor
//# set n_slots = 32 * column_quads
//# include "lib/slots.wgsl"
      let i = slot / {{ column_quads }}u;
      let row = sums_row0 + f0 + min(i, n_features - 1u);
      tile[{{ 32 * quads }}u + slot] =
        select(vec4(0.0), load_sums(row, column0 + 4u * (slot % {{ column_quads }}u)), i < n_features);
    }
    workgroupBarrier();
    for (var i = 0u; i < n_features; i += 4u) {
//# for u in range(4)
      {
        let c = tile[{{ 32 * quads }}u + (i + {{ u }}u) * {{ column_quads }}u + column_quad];
//# for q in range(tall)
        let f{{ q }} = tile[(i + {{ u }}u) * {{ quads }}u + quad + {{ q * quads // 2 }}u];
//# for r in range(4)
        total{{ 4 * q + r }} += f{{ q }}[{{ r }}] * c;
//# endfor
//# endfor
      }
//# endfor
    }
//# if normalizer == "feature_sum"
    // Of the divisor the threads of a query have some features each.
    for (var i = column_quad; i < n_features; i += {{ column_quads }}u) {
      let sum = sums[params.sums_base + (sums_row0 + f0 + i) * params.width + params.v_dim];
//# for q in range(tall)
      norm{{ q }} += sum * tile[i * {{ quads }}u + quad + {{ q * quads // 2 }}u];
//# endfor
    }
//# endif
    workgroupBarrier();
  }
//# if normalizer == "feature_sum"
//# for q in range(tall)
  tile[column_quad * {{ quads }}u + quad + {{ q * quads // 2 }}u] = norm{{ q }};
//# endfor
  workgroupBarrier();
//# for q in range(tall)
  norm{{ q }} = vec4(0.0);
//# endfor
  for (var i = 0u; i < {{ column_quads }}u; i++) {
//# for q in range(tall)
    norm{{ q }} += tile[i * {{ quads }}u + quad + {{ q * quads // 2 }}u];
//# endfor
  }
//# elif normalizer == "key_count"
  let divisor = max(n_keys[params.n_keys_base + outer / params.heads], 1.0);
//# else
  let divisor = 1.0;
//# endif
//# for r in range(4 * tall)
  {
    let i = 4u * quad + {{ r % 4 + r // 4 * side // 2 }}u;
    let column = column0 + 4u * column_quad;
//# if normalizer == "feature_sum"
    let norm = norm{{ r // 4 }}[{{ r % 4 }}];
    // This order of comparison keeps NaN, where the driver has any.
    let divisor = select(norm, params.floor, norm < params.floor);
//# endif
    // No divisor beyond 2^126: WGSL leaves open what comes of one.
    let shrink = select(1.0, 0x1p-4, divisor > 0x1p124);
    let values = total{{ r }} * shrink / (divisor * shrink);
    let at = (row0 + i * params.inner) * params.v_dim + column;
//# for c in range(4)
    if (i < rows.n && column + {{ c }}u < params.v_dim) {
      y[at + {{ c }}u] = values[{{ c }}];
    }
//# endfor
  }
//# endfor
}
