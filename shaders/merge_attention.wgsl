// merge_attention: partial softmax reads over disjoint keys become one, exactly.
//
//   values [n_parts, rows, width] · log_sum_exp [n_parts, rows] (natural logarithms)
//   merged [rows, width] · merged_log_sum_exp [rows]
//
// A thread for each merged number, 64 in a workgroup; no workgroup memory. Parts are added in
// their order. A part at the sentinel has no keys; if all are, the row is zeros.

struct Params {
  n_parts: u32,
  rows: u32,
  width: u32,
  n_groups: u32,
  masked: f32,
  // Where the first element is in the last two bindings.
  merged_base: u32,
  merged_lse_base: u32,
}

@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> log_sum_exp: array<f32>;
@group(0) @binding(2) var<storage, read_write> merged: array<f32>;
@group(0) @binding(3) var<storage, read_write> merged_log_sum_exp: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/group.wgsl"

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = group_index(group_id, group_count) * 64u + thread;
  if (i >= params.rows * params.width) {
    return;
  }
  let row = i / params.width;
  var largest = params.masked;
  for (var part = 0u; part < params.n_parts; part++) {
    largest = max(largest, log_sum_exp[part * params.rows + row]);
  }
  let empty = largest <= 0.5 * params.masked;
  var weights = 0.0;
  var sum = 0.0;
  for (var part = 0u; part < params.n_parts; part++) {
    let l = log_sum_exp[part * params.rows + row];
    let weight = select(0.0, exp(l - largest), l > 0.5 * params.masked);
    weights += weight;
    sum += weight * values[part * params.rows * params.width + i];
  }
  // An empty row divides by one, not by zero.
  let total = select(weights, 1.0, empty);
  merged[params.merged_base + i] = sum / total;
  if (i % params.width == 0u) {
    merged_log_sum_exp[params.merged_lse_base + row] = select(largest + log(total), params.masked, empty);
  }
}
