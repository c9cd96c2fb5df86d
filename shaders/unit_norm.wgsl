// unit_norm: y = x / max(|x|, 1e-12) over rows.
//
//   x, y [rows, width]
//
// A workgroup of {{ rows * lanes }} threads takes {{ rows }} rows, {{ lanes }} threads a row.
// {{ 4 * rows * lanes }} bytes of workgroup memory.

struct Params {
  rows: u32,
  width: u32,
  n_groups: u32,
  // Where the first element is in each binding.
  x_base: u32,
  y_base: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> partial: array<f32, {{ rows * lanes }}>;

//# include "lib/group.wgsl"
//# include "lib/length.wgsl"

@compute @workgroup_size({{ rows * lanes }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  // Uniform for the whole group, so no thread waits at a barrier alone.
  let group = group_index(group_id, group_count);
  if (group >= params.n_groups) {
    return;
  }
  let row = group * {{ rows }}u + thread / {{ lanes }}u;
  // Threads of rows past the end go along to the barriers with nothing to do.
  let width = select(0u, params.width, row < params.rows);
  let lane = thread % {{ lanes }}u;
  let first = thread - thread % {{ lanes }}u;
  let x_row = params.x_base + row * params.width;
  let y_row = params.y_base + row * params.width;

  var largest = 0.0;
  for (var i = lane; i < width; i += {{ lanes }}u) {
    largest = max(largest, abs(x[x_row + i]));
  }
  partial[thread] = largest;
  workgroupBarrier();
  for (var i = 0u; i < {{ lanes }}u; i++) {
    largest = max(largest, partial[first + i]);
  }
  workgroupBarrier();
  let is_large = largest > LARGE;
  var squares = 0.0;
  for (var i = lane; i < width; i += {{ lanes }}u) {
    let z = shrunk(x[x_row + i], is_large);
    squares += z * z;
  }
  partial[thread] = squares;
  workgroupBarrier();
  squares = 0.0;
  for (var i = 0u; i < {{ lanes }}u; i++) {
    squares += partial[first + i];
  }
  let inverse = inverse_length(squares, thread);
  for (var i = lane; i < width; i += {{ lanes }}u) {
    y[y_row + i] = shrunk(x[x_row + i], is_large) * inverse;
  }
}
