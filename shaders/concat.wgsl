// concat: rows side by side, y = [left columns, right].
//
//   left [rows, left_width], of which `left_used` columns from `left_first` are taken
//   right [rows, right_width] · y [rows, left_used + right_width]
//
// A thread for each number, 64 in a workgroup; no workgroup memory.

struct Params {
  n: u32,
  left_width: u32,
  left_first: u32,
  left_used: u32,
  right_width: u32,
  first_group: u32,
}

@group(0) @binding(0) var<storage, read> left: array<f32>;
@group(0) @binding(1) var<storage, read> right: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/group.wgsl"

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
  let width = params.left_used + params.right_width;
  let row = i / width;
  let column = i % width;
  if (column < params.left_used) {
    y[i] = left[row * params.left_width + params.left_first + column];
  } else {
    y[i] = right[row * params.right_width + column - params.left_used];
  }
}
