// lsam_columns: what one step of `lsam` adds to its inputs, by as many workgroups as it takes.
//
//   z [batch, n, width] · weight [d_model, width] · h [batch, d_model]
//   columns [batch, width]: z of the step + h weight
//
// A workgroup takes {{ outputs }} columns of a batch element, {{ lanes }} threads each, which share the sum.
// {{ 4 * lanes * outputs }} bytes of workgroup memory.

struct Params {
  n: u32,
  d_model: u32,
  width: u32,
  step: u32,
  first_group: u32,
  n_groups: u32,
}

@group(0) @binding(0) var<storage, read> z: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> h: array<f32>;
@group(0) @binding(3) var<storage, read_write> columns: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/group.wgsl"
//# include "lib/lanes.wgsl"

@compute @workgroup_size({{ lanes * outputs }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
//# set columns = "width"
//# include "lib/step_columns.wgsl"
  let width = params.width;
  // Columns past the last sum nothing.
  let end = select(0u, params.d_model, j < width);
  var part = 0.0;
  for (var i = lane; i < end; i += {{ lanes }}u) {
    part += h[batch * params.d_model + i] * weight[i * width + j];
  }
  let sum = over_lanes(part, thread, column, {{ outputs }}u);
  if (lane == 0u && j < width) {
    columns[batch * width + j] = z[(batch * params.n + params.step) * width + j] + sum;
  }
}
