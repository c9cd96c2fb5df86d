// add: y = a + scale b, with b repeated along the first dimensions of a.
//
//   a, y [n] · b [n_b], n a multiple of n_b
//
// A thread for each number, 64 in a workgroup; no workgroup memory.

struct Params {
  n: u32,
  n_b: u32,
  first_group: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
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
  if (i < params.n) {
    y[i] = a[i] + params.scale * b[i % params.n_b];
  }
}
