// lstm: the recurrence of a long short-term memory; what the inputs add to the gates is given.
//
//   gates [batch, n, 4 hidden]: W_ih x + b, blocks i, f, g, o · weight [hidden, 4 hidden]: W_hh^T
//   state [batch, 2, hidden]: h and c, read, and written at the end · y [batch, n, hidden]
//
//   c = sigmoid(f) c + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c)
//
// A workgroup of {{ threads }} threads takes a batch element, a thread for each hidden number in turn.
// h, twice, and c are in workgroup memory, up to {{ hidden }} numbers each: {{ 12 * hidden }} bytes.

struct Params {
  n: u32,
  hidden: u32,
  first_step: u32,
  // Past the last step.
  end: u32,
  n_groups: u32,
}

@group(0) @binding(0) var<storage, read> gates: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> state: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

// h before a step and after it take turns.
var<workgroup> h: array<f32, {{ 2 * hidden }}>;
var<workgroup> c: array<f32, {{ hidden }}>;

//# include "lib/group.wgsl"
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
  let hidden = params.hidden;
  let width = 4u * hidden;
  for (var j = thread; j < hidden; j += {{ threads }}u) {
    h[j] = state[batch * 2u * hidden + j];
    c[j] = state[(batch * 2u + 1u) * hidden + j];
  }
  workgroupBarrier();
  var now = 0u;
  for (var step = params.first_step; step < params.end; step++) {
    let row = batch * params.n + step;
    for (var j = thread; j < hidden; j += {{ threads }}u) {
      var z = vec4(
        gates[row * width + j], gates[row * width + hidden + j],
        gates[row * width + 2u * hidden + j], gates[row * width + 3u * hidden + j]);
      for (var i = 0u; i < hidden; i++) {
        let w = i * width + j;
        z += h[now * {{ hidden }}u + i] * vec4(weight[w], weight[w + hidden], weight[w + 2u * hidden], weight[w + 3u * hidden]);
      }
      let cell = sigmoid(z.y) * c[j] + sigmoid(z.x) * tanh_safe(z.z);
      let out = sigmoid(z.w) * tanh_safe(cell);
      c[j] = cell;
      h[(1u - now) * {{ hidden }}u + j] = out;
      y[row * hidden + j] = out;
    }
    now = 1u - now;
    workgroupBarrier();
  }
  for (var j = thread; j < hidden; j += {{ threads }}u) {
    state[batch * 2u * hidden + j] = h[now * {{ hidden }}u + j];
    state[(batch * 2u + 1u) * hidden + j] = c[j];
  }
}
