// lsam_memory: the memory of one step of `lsam`, by as many workgroups as it takes.
//
//   columns [batch, width]: q, k, v, then w and r of each head, as `lsam_columns` leaves them
//   memory [batch, n_heads, dim, dim]: read and written · h [batch, d_model] · y [batch, n, d_model]
//
// A workgroup takes {{ outputs }} rows of a head's memory, {{ lanes }} threads each, which share its sums.
// {{ 16 * lanes * outputs }} bytes of workgroup memory.

struct Params {
  n: u32,
  n_heads: u32,
  dim: u32,
  step: u32,
  first_group: u32,
  n_groups: u32,
}

@group(0) @binding(0) var<storage, read> columns: array<f32>;
@group(0) @binding(1) var<storage, read_write> memory: array<f32>;
@group(0) @binding(2) var<storage, read_write> h: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/group.wgsl"
//# include "lib/length.wgsl"
//# include "lib/sigmoid.wgsl"
//# include "lib/lanes.wgsl"

@compute @workgroup_size({{ lanes * outputs }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  // Uniform for the whole group, so no thread waits at a barrier alone.
  let local = group_index(group_id, group_count);
  if (local >= params.n_groups) {
    return;
  }
  let group = params.first_group + local;
  let dim = params.dim;
  let d_model = params.n_heads * dim;
  let blocks = (dim + {{ outputs - 1 }}u) / {{ outputs }}u;
  let head = group / blocks % params.n_heads;
  let batch = group / blocks / params.n_heads;
  let lane = thread % {{ lanes }}u;
  let first = thread - lane;
  let row = group % blocks * {{ outputs }}u + thread / {{ lanes }}u;
  let at = batch * (3u * d_model + 2u * params.n_heads);
  let q0 = at + head * dim;
  let k0 = at + d_model + head * dim;

  // The lengths of q and k, and of both as if they were large.
  var part = vec4(0.0);
  for (var d = lane; d < dim; d += {{ lanes }}u) {
    let q = columns[q0 + d];
    let k = columns[k0 + d];
    let small_q = shrunk(q, true);
    let small_k = shrunk(k, true);
    part += vec4(q * q, k * k, small_q * small_q, small_k * small_k);
  }
  let squares = over_lanes(part, thread, first, 1u);
  let q_is_large = squares.z > 1e-18;
  let k_is_large = squares.w > 1e-18;
  let q_inverse = inverse_length(select(squares.x, squares.z, q_is_large), thread);
  let k_inverse = inverse_length(select(squares.y, squares.w, k_is_large), thread);

  // Rows past the last hold nothing.
  let end = select(0u, dim, row < dim);
  let j = head * dim + row;
  let m0 = (batch * d_model + j) * dim;
  part = vec4(0.0);
  for (var d = lane; d < end; d += {{ lanes }}u) {
    part.x += memory[m0 + d] * (shrunk(columns[k0 + d], k_is_large) * k_inverse);
  }
  let known = over_lanes(part, thread, first, 1u).x;
  var x = 0.0;
  if (row < dim) {
    x = sigmoid(columns[at + 3u * d_model + head]) * (columns[at + 2u * d_model + j] - known);
  }
  part = vec4(0.0);
  for (var d = lane; d < end; d += {{ lanes }}u) {
    let m = memory[m0 + d] + x * (shrunk(columns[k0 + d], k_is_large) * k_inverse);
    memory[m0 + d] = m;
    part.x += m * (shrunk(columns[q0 + d], q_is_large) * q_inverse);
  }
  let sum = over_lanes(part, thread, first, 1u).x;
  if (lane == 0u && row < dim) {
    let out = sigmoid(columns[at + 3u * d_model + params.n_heads + head]) * sum;
    h[batch * d_model + j] = out;
    y[(batch * params.n + params.step) * d_model + j] = out;
  }
}
