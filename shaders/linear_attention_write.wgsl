// linear_attention_write: partial sums of features(k) v^T over parts of the keys.
//
//   x: the keys [outer, n, inner, head_dim] · projection [n_features, head_dim]
//   v [outer, n, inner, v_dim] · keep [outer / heads, n], 0 or 1
//   partial [n_parts, outer, inner, n_features, width]
//
// `width` is v_dim, or one more: the last column is then the sum of the features. Heads are in
// `inner` (projected tokens) or in `outer` (head-major). A workgroup of {{ side * side }} threads makes a tile
// of {{ 4 * side }} features x {{ 4 * side }} columns of one part, each thread 4 x 4 of them, and computes the features
// of {{ side }} keys at a time into workgroup memory: {{ 32 * side * side }} bytes. The features are never stored. Sums of
// {{ run }} keys are added to those before, so that rounding errors stay small.

struct Params {
  n: u32,
  n_features: u32,
  head_dim: u32,
  first_group: u32,
  scale: f32,
  outer: u32,
  inner: u32,
  // Outer indices that share a row of `keep`.
  heads: u32,
  v_dim: u32,
  width: u32,
  part: u32,
  n_groups: u32,
  // Where the first element is in each binding.
  x_base: u32,
  projection_base: u32,
  keep_base: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
//# if kind != "identity"
@group(0) @binding(1) var<storage, read> projection: array<f32>;
//# endif
@group(0) @binding(2) var<storage, read> v: array<f32>;
//# if has_mask
@group(0) @binding(3) var<storage, read> keep: array<f32>;
//# endif
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

// Four features, four columns of one key.
var<workgroup> feature_tile: array<vec4<f32>, {{ side * side }}>;
var<workgroup> value_tile: array<vec4<f32>, {{ side * side }}>;

//# include "lib/group.wgsl"
//# include "lib/feature_map.wgsl"

fn exists(outer: u32, key: u32, end: u32) -> bool {
//# if has_mask
  return key < end && keep[params.keep_base + (outer / params.heads) * params.n + min(key, params.n - 1u)] > 0.0;
//# else
  return key < end;
//# endif
}

fn value(row: u32, column: u32) -> f32 {
  if (column < params.v_dim) {
    return v[row * params.v_dim + column];
  }
  return 0.0;
}

@compute @workgroup_size({{ side * side }})
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
  let feature_tiles = (params.n_features + {{ 4 * side - 1 }}u) / {{ 4 * side }}u;
  let column_tiles = (params.v_dim + {{ 4 * side - 1 }}u) / {{ 4 * side }}u;
  let column0 = (group % column_tiles) * {{ 4 * side }}u;
  let feature0 = ((group / column_tiles) % feature_tiles) * {{ 4 * side }}u;
  let which = group / (column_tiles * feature_tiles);
  let head = which % (params.outer * params.inner);
  let part = which / (params.outer * params.inner);
  let outer = head / params.inner;
  let inner = head % params.inner;
  let end = min((part + 1u) * params.part, params.n);

//# for r in range(4)
  var total{{ r }} = vec4(0.0);
  var sum{{ r }} = vec4(0.0);
//# endfor
//# if has_sums
  var feature_total = vec4(0.0);
  var feature_sum = vec4(0.0);
//# endif
  let slot_key = thread / {{ side }}u;
  let slot = thread % {{ side }}u;
  let start = part * params.part;
  for (var first = start; first < end; first += {{ side }}u) {
    let key = first + slot_key;
    var features = vec4(0.0);
    var values = vec4(0.0);
    // A masked key is not read: whatever it holds cannot spread.
    if (exists(outer, key, end)) {
      let row = (outer * params.n + key) * params.inner + inner;
      for (var c = 0u; c < 4u; c++) {
        let f = feature0 + slot * 4u + c;
        if (f < params.n_features) {
          features[c] = feature_of(row, f);
        }
        values[c] = value(row, column0 + slot * 4u + c);
      }
    }
    feature_tile[thread] = features;
    value_tile[thread] = values;
    workgroupBarrier();
    for (var k = 0u; k < {{ side }}u; k++) {
      let a = feature_tile[k * {{ side }}u + thread / {{ side }}u];
      let b = value_tile[k * {{ side }}u + thread % {{ side }}u];
      sum0 += a.x * b;
      sum1 += a.y * b;
      sum2 += a.z * b;
      sum3 += a.w * b;
//# if has_sums
      feature_sum += a;
//# endif
    }
    workgroupBarrier();
    if ((first - start) % {{ run }}u == {{ run - side }}u || first + {{ side }}u >= end) {
//# for r in range(4)
      total{{ r }} += sum{{ r }};
      sum{{ r }} = vec4(0.0);
//# endfor
//# if has_sums
      feature_total += feature_sum;
      feature_sum = vec4(0.0);
//# endif
    }
  }
//# for r in range(4)
  {
    let f = feature0 + (thread / {{ side }}u) * 4u + {{ r }}u;
    for (var c = 0u; c < 4u; c++) {
      let column = column0 + (thread % {{ side }}u) * 4u + c;
      if (f < params.n_features && column < params.v_dim) {
        partial[(which * params.n_features + f) * params.width + column] = total{{ r }}[c];
      }
    }
//# if has_sums
    if (f < params.n_features && column0 == 0u && thread % {{ side }}u == 0u) {
      partial[(which * params.n_features + f) * params.width + params.v_dim] = feature_total[{{ r }}];
    }
//# endif
  }
//# endfor
}
