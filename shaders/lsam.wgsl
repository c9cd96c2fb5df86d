// lsam: the recurrence of a long short-term attention memory; what the inputs add is given.
//
//   z [batch, n, width]: W_x x + b, columns q, k, v, then w and r of each head
//   weight [d_model, width]: W_h^T · y [batch, n, d_model]
//   h [batch, d_model] and memory [batch, n_heads, dim, dim]: read, and written at the end
//
//   q, k unit; w, r sigmoids; M = M + w (v - M k) k^T, h = r M q
//
// A workgroup of {{ threads }} threads takes a batch element. A thread owns rows of the memory, so no other
// reads what it writes. {{ 4 * (width + d_model) }} bytes of workgroup memory.

struct Params {
  n: u32,
  n_heads: u32,
  dim: u32,
  reverse: u32,
  first_step: u32,
  // Past the last step.
  end: u32,
  n_groups: u32,
  // Where the first element is in each binding.
  z_base: u32,
  weight_base: u32,
}

@group(0) @binding(0) var<storage, read> z: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> h: array<f32>;
@group(0) @binding(3) var<storage, read_write> memory: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> columns: array<f32, {{ width }}>;
var<workgroup> hidden: array<f32, {{ d_model }}>;

//# include "lib/group.wgsl"
//# include "lib/length.wgsl"
//# include "lib/sigmoid.wgsl"

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  // Uniform for the whole group, so no thread waits at a barrier alone.
  let batch = group_index(group_id, group_count);
  if (batch >= params.n_groups) {
    return;
  }
  let dim = params.dim;
  let d_model = params.n_heads * dim;
  let width = 3u * d_model + 2u * params.n_heads;
  for (var j = thread; j < d_model; j += {{ threads }}u) {
    hidden[j] = h[batch * d_model + j];
  }
  workgroupBarrier();
  for (var s = params.first_step; s < params.end; s++) {
    let step = select(s, params.n - 1u - s, params.reverse == 1u);
    let row = batch * params.n + step;
    for (var j = thread; j < width; j += {{ threads }}u) {
      var sum = z[params.z_base + row * width + j];
      for (var i = 0u; i < d_model; i++) {
        sum += hidden[i] * weight[params.weight_base + i * width + j];
      }
      columns[j] = sum;
    }
    workgroupBarrier();
    for (var j = thread; j < 2u * params.n_heads; j += {{ threads }}u) {
      // q and k of all heads lie one after the other.
      var largest = 0.0;
      for (var d = 0u; d < dim; d++) {
        largest = max(largest, abs(columns[j * dim + d]));
      }
      let is_large = largest > LARGE;
      var squares = 0.0;
      for (var d = 0u; d < dim; d++) {
        let x = shrunk(columns[j * dim + d], is_large);
        squares += x * x;
      }
      let inverse = inverse_length(squares, j);
      for (var d = 0u; d < dim; d++) {
        columns[j * dim + d] = shrunk(columns[j * dim + d], is_large) * inverse;
      }
    }
    workgroupBarrier();
    for (var j = thread; j < d_model; j += {{ threads }}u) {
      let head = j / dim;
      let q0 = head * dim;
      let k0 = d_model + head * dim;
      let m0 = (batch * d_model + j) * dim;
      var known = 0.0;
      for (var d = 0u; d < dim; d++) {
        known += memory[m0 + d] * columns[k0 + d];
      }
      let w = sigmoid(columns[3u * d_model + head]);
      let x = w * (columns[2u * d_model + j] - known);
      var sum = 0.0;
      for (var d = 0u; d < dim; d++) {
        let m = memory[m0 + d] + x * columns[k0 + d];
        memory[m0 + d] = m;
        sum += m * columns[q0 + d];
      }
      let out = sigmoid(columns[3u * d_model + params.n_heads + head]) * sum;
      hidden[j] = out;
      y[row * d_model + j] = out;
    }
    workgroupBarrier();
  }
  for (var j = thread; j < d_model; j += {{ threads }}u) {
    h[batch * d_model + j] = hidden[j];
  }
}
