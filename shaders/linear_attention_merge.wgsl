// linear_attention_merge: sums of parts, in their order.
//
//   parts [n_parts, n] · sum [n]
//{% if has_other %} · other [n], added last{% endif %}
//
// A thread for each sum, 64 in a workgroup; no workgroup memory.

struct Params {
  n: u32,
  n_parts: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<f32>;
//# if has_other
@group(0) @binding(1) var<storage, read> other: array<f32>;
//# endif
@group(0) @binding(2) var<storage, read_write> sum: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/group.wgsl"

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
  var total = 0.0;
  for (var part = 0u; part < params.n_parts; part++) {
    total += parts[part * params.n + i];
  }
//# if has_other
  total += other[i];
//# endif
  sum[i] = total;
}
