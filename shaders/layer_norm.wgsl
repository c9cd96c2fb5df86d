// layer_norm: y = (x - mean) / sqrt(variance + epsilon) * scale + bias + residual over rows.
//
//   x, residual, y [rows, width] · scale, bias [width]
//
// A workgroup of {{ rows * lanes }} threads takes {{ rows }} rows, {{ lanes }} threads a row, in two passes over the row: the
// mean first, then the squares of what is left, which does not cancel. {{ 16 * rows * lanes }} bytes of workgroup
// memory.

struct Params {
  rows: u32,
  width: u32,
  n_groups: u32,
  epsilon: f32,
  // Where the first element is in each binding.
  x_base: u32,
  residual_base: u32,
  y_base: u32,
  // A row is multiplied by `shrink` if its magnitudes, so multiplied, sum to more than `large`:
  // squares of its numbers, or even their sum, may be beyond f32. `smallest` is the least
  // variance of such a row, so that one and the same number does not divide by zero.
  large: f32,
  shrink: f32,
  smallest: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
//# if has_residual
@group(0) @binding(3) var<storage, read> residual: array<f32>;
//# endif
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> partial: array<vec3<f32>, {{ rows * lanes }}>;

//# include "lib/group.wgsl"

// Sums over the threads of this thread's row, in a fixed order.
fn row_sum(thread: u32, value: vec3<f32>) -> vec3<f32> {
  workgroupBarrier();
  partial[thread] = value;
  workgroupBarrier();
  let first = thread - thread % {{ lanes }}u;
  var sum = vec3<f32>();
  for (var i = 0u; i < {{ lanes }}u; i++) {
    sum += partial[first + i];
  }
  return sum;
}

@compute @workgroup_size({{ rows * lanes }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = group_index(group_id, group_count);
  if (group >= params.n_groups) {
    return;
  }
  let row = group * {{ rows }}u + thread / {{ lanes }}u;
  // Threads of rows past the end go along to the barriers with nothing to do.
  let width = select(0u, params.width, row < params.rows);
  let lane = thread % {{ lanes }}u;
  let x_row = params.x_base + row * params.width;
  let y_row = params.y_base + row * params.width;

  // Of the row, of the shrunk row, and of its magnitudes.
  var sum = vec3<f32>();
  for (var i = lane; i < width; i += {{ lanes }}u) {
    let number = x[x_row + i];
    let small = number * params.shrink;
    sum += vec3<f32>(number, small, abs(small));
  }
  sum = row_sum(thread, sum);
  let is_large = sum.z > params.large;
  let shrink = select(1.0, params.shrink, is_large);
  let mean = select(sum.x, sum.y, is_large) / f32(params.width);
  var squares = 0.0;
  for (var i = lane; i < width; i += {{ lanes }}u) {
    let d = x[x_row + i] * shrink - mean;
    squares += d * d;
  }
  var variance = row_sum(thread, vec3<f32>(squares, 0.0, 0.0)).x / f32(params.width);
  variance = select(variance, max(variance, params.smallest), is_large);
  let inverse = 1.0 / sqrt(variance + params.epsilon * shrink * shrink);
  for (var i = lane; i < width; i += {{ lanes }}u) {
    var z = (x[x_row + i] * shrink - mean) * inverse * scale[i] + bias[i];
//# if has_residual
    z += residual[params.residual_base + row * params.width + i];
//# endif
    y[y_row + i] = z;
  }
}
