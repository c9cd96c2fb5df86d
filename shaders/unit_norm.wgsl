// unit_norm: y = x / max(|x|, 1e-12) over rows.
//
//   x, y [rows, width]
//
// A workgroup of {{ rows * lanes }} threads takes {{ rows }} rows, {{ lanes }} threads a row. Rows are first divided by their
// largest number, so that no square overflows or vanishes. {{ 4 * rows * lanes }} bytes of workgroup memory.

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

  var largest = 1e-20;
  for (var i = lane; i < width; i += {{ lanes }}u) {
    largest = max(largest, abs(x[x_row + i]));
  }
  partial[thread] = largest;
  workgroupBarrier();
  for (var i = 0u; i < {{ lanes }}u; i++) {
    largest = max(largest, partial[first + i]);
  }
  workgroupBarrier();
  var squares = 0.0;
  for (var i = lane; i < width; i += {{ lanes }}u) {
    let z = x[x_row + i] / largest;
    squares += z * z;
  }
  partial[thread] = squares;
  workgroupBarrier();
  squares = 0.0;
  for (var i = 0u; i < {{ lanes }}u; i++) {
    squares += partial[first + i];
  }
  let length = sqrt(squares);
  // |x| = largest length; below 1e-12 the row is multiplied by 1e12.
  let is_short = length < 1e-12 / largest;
  for (var i = lane; i < width; i += {{ lanes }}u) {
    if (is_short) {
      y[y_row + i] = x[x_row + i] * 1e12;
    } else {
      y[y_row + i] = (x[x_row + i] / largest) / length;
    }
  }
}
