// lstm_step: one step of `lstm`, by as many workgroups as it takes.
//
//   gates [batch, n, 4 hidden] · weight [hidden, 4 hidden] · y [batch, n, hidden]
//   state [batch, 2, hidden]: h and c; c is read and written, h read before the first step
//
// A workgroup takes {{ outputs }} hidden numbers of a batch element, {{ lanes }} threads each, which share the
// sum. The h of the step before is read from y, so none writes what another reads.
// {{ 16 * lanes * outputs }} bytes of workgroup memory.

struct Params {
  n: u32,
  hidden: u32,
  step: u32,
  first_group: u32,
  n_groups: u32,
}

@group(0) @binding(0) var<storage, read> gates: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> state: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/group.wgsl"
//# include "lib/sigmoid.wgsl"
//# include "lib/lanes.wgsl"

@compute @workgroup_size({{ lanes * outputs }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
//# set columns = "hidden"
//# include "lib/step_columns.wgsl"
  let hidden = params.hidden;
  let width = 4u * hidden;
  let row = batch * params.n + params.step;
  let begins = params.step == 0u;
  // Columns past the last sum nothing.
  let end = select(0u, hidden, j < hidden);
  var z = vec4(0.0);
  for (var i = lane; i < end; i += {{ lanes }}u) {
    var h = 0.0;
    if (begins) {
      h = state[batch * 2u * hidden + i];
    } else {
      h = y[(row - 1u) * hidden + i];
    }
    let w = i * width + j;
    z += h * vec4(weight[w], weight[w + hidden], weight[w + 2u * hidden], weight[w + 3u * hidden]);
  }
  let sum = over_lanes(z, thread, column, {{ outputs }}u);
  if (lane == 0u && j < hidden) {
    let g = row * width + j;
    let all = sum + vec4(gates[g], gates[g + hidden], gates[g + 2u * hidden], gates[g + 3u * hidden]);
    let c = (batch * 2u + 1u) * hidden + j;
    let cell = sigmoid(all.y) * state[c] + sigmoid(all.x) * tanh_safe(all.z);
    state[c] = cell;
    y[row * hidden + j] = sigmoid(all.w) * tanh_safe(cell);
  }
}
