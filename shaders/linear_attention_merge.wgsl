// linear_attention_merge: sums of parts, up to `fan_in` of them in each, in their order.
//
//   parts [n_parts, n] · sum [n_parts / fan_in, n], rounded up
//
// A thread for each number, {{ threads }} in a workgroup; no workgroup memory.

struct Params {
  n: u32,
  n_parts: u32,
  fan_in: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> sum: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/element.wgsl"

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = element(group_id, group_count, thread);
  let first = (i / params.n) * params.fan_in;
  if (first >= params.n_parts) {
    return;
  }
  var total = 0.0;
  for (var part = first; part < min(first + params.fan_in, params.n_parts); part++) {
    total += parts[part * params.n + i % params.n];
  }
  sum[i] = total;
}
