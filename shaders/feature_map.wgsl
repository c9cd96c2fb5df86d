// feature_map: y = features of the rows of x.
//
//   x [rows, head_dim] · projection [n_features, head_dim] · y [rows, n_features]
//
// A thread for each feature, {{ threads }} in a workgroup; no workgroup memory.

struct Params {
  n: u32,
  n_features: u32,
  head_dim: u32,
  scale: f32,
  // Where the first element is in each binding.
  x_base: u32,
  projection_base: u32,
  y_base: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
//# if kind != "identity"
@group(0) @binding(1) var<storage, read> projection: array<f32>;
//# endif
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/element.wgsl"
//# include "lib/feature_map.wgsl"

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = element(group_id, group_count, thread);
  if (i < params.n) {
    y[params.y_base + i] = feature_of(i / params.n_features, i % params.n_features);
  }
}
