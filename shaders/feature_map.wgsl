// feature_map: y = features of the rows of x.
//
//   x [rows, head_dim] · projection [n_features, head_dim] · y [rows, n_features]
//
// A workgroup of {{ threads }} threads makes 32 features of {{ side }} rows, each thread 4 x 4 of them; both operands
// go through workgroup memory: {{ 16 * tile }} bytes.

struct Params {
  rows: u32,
  n_features: u32,
  head_dim: u32,
  scale: f32,
  n_groups: u32,
  // Where the first element is in each binding.
  x_base: u32,
  projection_base: u32,
  y_base: u32,
}

//# set element = "vec4<f32>" if vectors else "f32"
@group(0) @binding(0) var<storage, read> x: array<{{ element }}>;
//# if kind != "identity"
@group(0) @binding(1) var<storage, read> projection: array<{{ element }}>;
//# endif
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# if kind != "identity"
var<workgroup> tile: array<vec4<f32>, {{ tile }}>;
//# endif

//# include "lib/group.wgsl"
//# include "lib/feature_map.wgsl"

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = group_index(group_id, group_count);
  // Uniform for the whole group, so no thread waits at a barrier alone.
  if (group >= params.n_groups) {
    return;
  }
  let feature_tiles = (params.n_features + 31u) / 32u;
  let row0 = (group / feature_tiles) * {{ side }}u;
  let f0 = (group % feature_tiles) * 32u;
  let rows = Rows(row0, 1u, min({{ side }}u, params.rows - row0));
//# if kind == "softmax"
  var before: Features;
  let made = features(rows, f0, thread, true, before);
//# else
  let made = features(rows, f0, thread);
//# endif
  let i = 4u * column_of(thread, {{ side // 4 }}u);
  let f = f0 + 4u * row_of(thread, {{ side // 4 }}u);
//# for c in range(4)
//# for r in range(4)
  if (i + {{ c }}u < rows.n && f + {{ r }}u < params.n_features) {
    y[params.y_base + (row0 + i + {{ c }}u) * params.n_features + f + {{ r }}u] = made.z{{ r }}[{{ c }}];
  }
//# endfor
//# endfor
}
