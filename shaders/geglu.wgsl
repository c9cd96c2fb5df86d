// geglu: y = a gelu(g) for x = [a, g], row by row, with the exact gelu.
//
//   x [rows, 2 width] · y [rows, width]
//
// A thread for each number of y, 64 in a workgroup; no workgroup memory.

struct Params {
  n: u32,
  width: u32,
  // Where the first element is in each binding.
  x_base: u32,
  y_base: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/group.wgsl"
//# include "lib/activation.wgsl"

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = group_index(group_id, group_count) * 64u + thread;
  if (i >= params.n) {
    return;
  }
  let at = params.x_base + 2u * params.width * (i / params.width) + i % params.width;
  y[params.y_base + i] = x[at] * activate(vec4(x[at + params.width])).x;
}
