// linear_attention_read: y = features(q) sums, divided as the normaliser says.
//
//   x: the queries [outer, n, inner, head_dim] · projection [n_features, head_dim]
//   sums [outer, inner, n_features, width] · n_keys [outer / heads] · y [outer, n, inner, v_dim]
//
// A workgroup of {{ threads }} threads reads {{ queries }} queries of one head, a thread for each of as many columns; the
// features of the queries go through workgroup memory, {{ tile }} at a time: {{ 4 * queries * tile }} bytes.

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

@group(0) @binding(0) var<storage, read> x: array<f32>;
//# if kind != "identity"
@group(0) @binding(1) var<storage, read> projection: array<f32>;
//# endif
@group(0) @binding(2) var<storage, read> sums: array<f32>;
//# if normalizer == "key_count"
@group(0) @binding(3) var<storage, read> n_keys: array<f32>;
//# endif
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> tile: array<f32, {{ queries * tile }}>;

//# include "lib/group.wgsl"
//# include "lib/feature_map.wgsl"

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
  let column_tiles = (params.v_dim + {{ threads - 1 }}u) / {{ threads }}u;
  let query_tiles = (params.n + {{ queries - 1 }}u) / {{ queries }}u;
  let column = (group % column_tiles) * {{ threads }}u + thread;
  let first = ((group / column_tiles) % query_tiles) * {{ queries }}u;
  let head = group / (column_tiles * query_tiles);
  let outer = head / params.inner;
  let inner = head % params.inner;
  let kv_head = head / params.kv_group;
  let is_column = column < params.v_dim;

  var totals: array<f32, {{ queries }}>;
//# if normalizer == "feature_sum"
  var norms: array<f32, {{ queries }}>;
//# endif
  for (var f0 = 0u; f0 < params.n_features; f0 += {{ tile }}u) {
    for (var slot = thread; slot < {{ queries * tile }}u; slot += {{ threads }}u) {
      let query = first + slot / {{ tile }}u;
      let f = f0 + slot % {{ tile }}u;
      var feature = 0.0;
      if (query < params.n && f < params.n_features) {
        feature = feature_of((outer * params.n + query) * params.inner + inner, f);
      }
      tile[slot] = feature;
    }
    workgroupBarrier();
    for (var i = 0u; i < min({{ tile }}u, params.n_features - f0); i++) {
      let row = params.sums_base + (kv_head * params.n_features + f0 + i) * params.width;
      var s = 0.0;
      if (is_column) {
        s = sums[row + column];
      }
//# if normalizer == "feature_sum"
      let norm = sums[row + params.v_dim];
//# endif
//# for r in range(queries)
      totals[{{ r }}] += tile[{{ r * tile }}u + i] * s;
//# if normalizer == "feature_sum"
      norms[{{ r }}] += tile[{{ r * tile }}u + i] * norm;
//# endif
//# endfor
    }
    workgroupBarrier();
  }
//# for r in range(queries)
  if (is_column && first + {{ r }}u < params.n) {
//# if normalizer == "feature_sum"
    // This order of comparison keeps NaN, where the driver has any.
    let divisor = select(norms[{{ r }}], params.floor, norms[{{ r }}] < params.floor);
//# elif normalizer == "key_count"
    let divisor = max(n_keys[params.n_keys_base + outer / params.heads], 1.0);
//# else
    let divisor = 1.0;
//# endif
    y[((outer * params.n + first + {{ r }}u) * params.inner + inner) * params.v_dim + column] = totals[{{ r }}] / divisor;
  }
//# endfor
}
