// linear_attention_write: partial sums of features(k) v^T over parts of the keys.
//
//   x: the keys [outer, n, inner, head_dim] · projection [n_features, head_dim]
//   v [outer, n, inner, v_dim] · keep [outer / heads, n], 0 or 1
//   partial [n_parts, outer, inner, n_features, width]
//
// `width` is v_dim, or one more: the last column is then the sum of the features. Heads are in
// `inner` (projected tokens) or in `outer` (head-major). A workgroup of {{ threads }} threads makes a tile
// of {{ side }} features x {{ columns }} columns of one part, each thread {{ 4 * tall }} x 4 of them. It makes the features
// of 32 keys at a time, which with the values go through workgroup memory: {{ 16 * tile }} bytes. They are
// never stored. Sums of 32 keys are added to those before, so that rounding errors stay small.

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

//# set element = "vec4<f32>" if vectors else "f32"
@group(0) @binding(0) var<storage, read> x: array<{{ element }}>;
//# if kind != "identity"
@group(0) @binding(1) var<storage, read> projection: array<{{ element }}>;
//# endif
@group(0) @binding(2) var<storage, read> v: array<{{ element }}>;
//# if has_mask
@group(0) @binding(3) var<storage, read> keep: array<f32>;
//# endif
@group(0) @binding(4) var<storage, read_write> partial: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

// The features of 32 keys, four in a vector, then their values.
var<workgroup> tile: array<vec4<f32>, {{ tile }}>;

//# include "lib/group.wgsl"
//# include "lib/feature_map.wgsl"

fn exists(outer: u32, key: u32, end: u32) -> bool {
//# if has_mask
  return key < end && keep[params.keep_base + (outer / params.heads) * params.n + min(key, params.n - 1u)] > 0.0;
//# else
  return key < end;
//# endif
}

// Four values of a row; past the last column it is repeated.
fn load_v(row: u32, column: u32) -> vec4<f32> {
//# if vectors
  return v[row * (params.v_dim / 4u) + min(column, params.v_dim - 1u) / 4u];
//# else
  let last = params.v_dim - 1u;
  let at = row * params.v_dim;
  return vec4(
    v[at + min(column, last)], v[at + min(column + 1u, last)], v[at + min(column + 2u, last)], v[at + min(column + 3u, last)]);
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
  let feature_tiles = (params.n_features + {{ side - 1 }}u) / {{ side }}u;
  let column_tiles = (params.v_dim + {{ columns - 1 }}u) / {{ columns }}u;
  let column0 = (group % column_tiles) * {{ columns }}u;
  let feature0 = ((group / column_tiles) % feature_tiles) * {{ side }}u;
  let which = group / (column_tiles * feature_tiles);
  let head = which % (params.outer * params.inner);
  let part = which / (params.outer * params.inner);
  let outer = head / params.inner;
  let inner = head % params.inner;
  let end = min((part + 1u) * params.part, params.n);

  let made_quad = column_of(thread, {{ quads }}u);
  let made_key = 4u * row_of(thread, {{ quads }}u);
  let quad = row_of(thread, {{ column_quads }}u);
  let column_quad = column_of(thread, {{ column_quads }}u);
//# for r in range(4 * tall)
  var total{{ r }} = vec4(0.0);
//# endfor
//# if has_sums
  var feature_total = vec4(0.0);
//# endif
  for (var first = part * params.part; first < end; first += 32u) {
    let n_keys = min(32u, end - first);
    let row0 = (outer * params.n + first) * params.inner + inner;
    // A masked key is as if it were not there, whatever it holds.
    {
      let made = features(Rows(row0, params.inner, n_keys), feature0, thread);
//# for r in range(4)
      let exists{{ r }} = exists(outer, first + made_key + {{ r }}u, end);
      let z{{ r }} = select(vec4(0.0), made.z{{ r }}, exists{{ r }});
      tile[(made_key + {{ r }}u) * {{ quads }}u + made_quad] = z{{ r }};
//# endfor
//# if has_sums
      feature_total += z0 + z1 + z2 + z3;
//# endif
    }
//# set n_slots = 32 * column_quads
//# include "lib/slots.wgsl"
      let key = slot / {{ column_quads }}u;
      let values = load_v(row0 + min(key, n_keys - 1u) * params.inner, column0 + 4u * (slot % {{ column_quads }}u));
      tile[{{ 32 * quads }}u + slot] = select(vec4(0.0), values, exists(outer, first + key, end));
    }
    workgroupBarrier();
//# for r in range(4 * tall)
    var sum{{ r }} = vec4(0.0);
//# endfor
    for (var k = 0u; k < n_keys; k += 2u) {
//# for u in range(2)
      {
        let c = tile[{{ 32 * quads }}u + (k + {{ u }}u) * {{ column_quads }}u + column_quad];
//# for q in range(tall)
        let f{{ q }} = tile[(k + {{ u }}u) * {{ quads }}u + quad + {{ q * quads // 2 }}u];
//# for r in range(4)
        sum{{ 4 * q + r }} += f{{ q }}[{{ r }}] * c;
//# endfor
//# endfor
      }
//# endfor
    }
//# for r in range(4 * tall)
    total{{ r }} += sum{{ r }};
//# endfor
    workgroupBarrier();
  }
//# for r in range(4 * tall)
  {
    let f = feature0 + 4u * quad + {{ r % 4 + r // 4 * side // 2 }}u;
    let column = column0 + 4u * column_quad;
    let at = (which * params.n_features + f) * params.width + column;
//# for c in range(4)
    if (f < params.n_features && column + {{ c }}u < params.v_dim) {
      partial[at + {{ c }}u] = total{{ r }}[{{ c }}];
    }
//# endfor
  }
//# endfor
//# if has_sums
  // A thread for four features adds what eight have.
  tile[made_key / 4u * {{ quads }}u + made_quad] = feature_total;
  workgroupBarrier();
  if (column0 == 0u && thread < {{ quads }}u) {
    var total = vec4(0.0);
    for (var i = 0u; i < 8u; i++) {
      total += tile[i * {{ quads }}u + thread];
    }
    let f = feature0 + 4u * thread;
//# for c in range(4)
    if (f + {{ c }}u < params.n_features) {
      partial[(which * params.n_features + f + {{ c }}u) * params.width + params.v_dim] = total[{{ c }}];
    }
//# endfor
  }
//# endif
}
