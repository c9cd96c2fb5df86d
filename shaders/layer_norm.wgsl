// layer_norm: y = (x - mean) / sqrt(variance + epsilon) * scale + bias + residual over rows.
//
//   x, residual, y [rows, width] · scale, bias [width]
//
// A workgroup of {{ rows * lanes }} threads takes {{ rows }} rows, {{ lanes }} threads a row, in two passes over the row: the
// mean first, with the first number taken off, then what is left and its squares, so that no digit is lost to a
// mean that is large beside the deviations. {{ 32 * rows * lanes }} bytes of workgroup memory.

//# set number = "vec4<f32>" if vectors else "f32"
struct Params {
  rows: u32,
  // In elements of {{ number }}, as are the bases.
  width: u32,
  n_groups: u32,
  // As is, and as the variance of a row is shrunk or grown: a compiler might multiply the factors first.
  epsilon: f32,
  epsilon_of_large: f32,
  epsilon_of_small: f32,
  // Where the first element is in each binding.
  x_base: u32,
  residual_base: u32,
  y_base: u32,
  // A row is multiplied by `shrink` if the magnitudes of its deviations sum to more than `large`, for squares, or
  // even their sum, may be beyond f32. If they sum to less than `small` a number, squares may vanish, and the
  // deviations are multiplied by `grow`. `smallest` is the
  // least variance of such rows, so that one and the same number does not divide by zero.
  large: f32,
  small: f32,
  shrink: f32,
  grow: f32,
  smallest: f32,
}

@group(0) @binding(0) var<storage, read> x: array<{{ number }}>;
@group(0) @binding(1) var<storage, read> scale: array<{{ number }}>;
@group(0) @binding(2) var<storage, read> bias: array<{{ number }}>;
//# if has_residual
@group(0) @binding(3) var<storage, read> residual: array<{{ number }}>;
//# endif
@group(0) @binding(4) var<storage, read_write> y: array<{{ number }}>;
@group(1) @binding(0) var<uniform> params: Params;

// Of both passes: apart, so that neither waits until the other was read.
var<workgroup> partial: array<array<vec3<f32>, {{ rows * lanes }}>, 2>;

//# include "lib/group.wgsl"

fn total(x: {{ number }}) -> f32 {
  return {{ "(x.x + x.y) + (x.z + x.w)" if vectors else "x" }};
}

// Sums over the threads of this thread's row, in a fixed order.
fn row_sum(pass_index: u32, thread: u32, value: vec3<f32>) -> vec3<f32> {
  partial[pass_index][thread] = value;
  workgroupBarrier();
  let first = thread - thread % {{ lanes }}u;
  var sum = vec3<f32>();
  for (var i = 0u; i < {{ lanes }}u; i++) {
    sum += partial[pass_index][first + i];
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

  // Deviations from the first number: of the row, of the shrunk row, and their magnitudes.
  var first = 0.0;
  if (width > 0u) {
    first = x[x_row]{{ ".x" if vectors }};
  }
  var deviations = {{ number }}();
  var of_shrunk = {{ number }}();
  var sizes = {{ number }}();
  for (var i = lane; i < width; i += {{ lanes }}u) {
    let number = x[x_row + i];
    deviations += number - first;
    of_shrunk += number * params.shrink - first * params.shrink;
    sizes += abs(number - first);
  }
  let sum = row_sum(0u, thread, vec3(total(deviations), total(of_shrunk), total(sizes)));
  let is_large = sum.z > params.large;
  let n = f32({{ "4u * " if vectors }}params.width);
  let is_small = sum.z < params.small * n;
  let shrink = select(1.0, params.shrink, is_large);
  let grow = select(1.0, params.grow, is_small);
  let mean = first * shrink + select(sum.x, sum.y, is_large) / n;
  // The mean is rounded: what is left has one, too.
  var rest = {{ number }}();
  var squares = {{ number }}();
  for (var i = lane; i < width; i += {{ lanes }}u) {
    let d = (x[x_row + i] * shrink - mean) * grow;
    rest += d;
    squares += d * d;
  }
  let left = row_sum(1u, thread, vec3(total(rest), total(squares), 0.0)) / n;
  var variance = left.y - left.x * left.x;
  variance = select(variance, max(variance, params.smallest), is_large || is_small);
  let epsilon = select(select(params.epsilon, params.epsilon_of_large, is_large), params.epsilon_of_small, is_small);
  let inverse = 1.0 / sqrt(variance + epsilon);
  for (var i = lane; i < width; i += {{ lanes }}u) {
    var z = ((x[x_row + i] * shrink - mean) * grow - left.x) * inverse * scale[i] + bias[i];
//# if has_residual
    z += residual[params.residual_base + row * params.width + i];
//# endif
    y[y_row + i] = z;
  }
}
