//# if kind == "sigmoid"
// gate: y = 1 / (1 + exp(-x)), a probability for every logit.
//
//   x, y [rows, width]
//# elif kind == "relu"
// gate: y = max(x, 0).
//
//   x, y [rows, width]
//# elif kind == "columns"
// gate: y = p x, a number for every column.
//
//   x, y [rows, width] · p [width]
//# else
// gate: y = p x, a probability for every head of a row.
//
//   x, y [rows, width] · p [rows, n_heads]
//# endif
//
// A thread for each number, 64 in a workgroup; no workgroup memory.

struct Params {
  n: u32,
  width: u32,
  n_heads: u32,
  first_group: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
//# if kind == "probability" or kind == "columns"
@group(0) @binding(1) var<storage, read> p: array<f32>;
//# endif
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/group.wgsl"
//# if kind == "sigmoid"
//# include "lib/sigmoid.wgsl"
//# endif

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = (params.first_group + group_index(group_id, group_count)) * 64u + thread;
  if (i >= params.n) {
    return;
  }
//# if kind == "sigmoid"
  y[i] = sigmoid(x[i]);
//# elif kind == "relu"
  y[i] = select(x[i], 0.0, x[i] < 0.0);
//# elif kind == "columns"
  y[i] = x[i] * p[i % params.width];
//# else
  let head = (i % params.width) / (params.width / params.n_heads);
  y[i] = x[i] * p[(i / params.width) * params.n_heads + head];
//# endif
}
