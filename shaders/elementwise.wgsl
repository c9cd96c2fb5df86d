// elementwise: a number of y for each thread, from rows of a and, in some operations, of b.
//
//   y [rows, width] · a [rows, a_width] · b [b_width] or [rows, b_width]
//
// {{ threads }} threads in a workgroup; no workgroup memory.

struct Params {
  // Numbers of y.
  n: u32,
  width: u32,
  a_width: u32,
  // The columns of a that are looked at.
  a_first: u32,
  a_used: u32,
  b_width: u32,
  // From one row of b to the next: 0 where one serves all rows.
  b_stride: u32,
  scale: f32,
  // Where the first element is in each binding.
  a_base: u32,
  b_base: u32,
  y_base: u32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
//# if has_b
@group(0) @binding(1) var<storage, read> b: array<f32>;
//# endif
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/element.wgsl"
//# if operation == "relu"
//# include "lib/relu.wgsl"
//# elif operation == "sigmoid"
//# include "lib/sigmoid.wgsl"
//# elif operation == "geglu"
//# include "lib/activation.wgsl"
//# endif

fn a_at(row: u32, column: u32) -> f32 {
  return a[params.a_base + row * params.a_width + params.a_first + column];
}

//# if has_b
fn b_at(row: u32, column: u32) -> f32 {
  return b[params.b_base + row * params.b_stride + column];
}
//# endif

fn value(i: u32) -> f32 {
//# if operation == "relu"
  return relu(vec4(a[params.a_base + i])).x;
//# elif operation == "sigmoid"
  return sigmoid(a[params.a_base + i]);
//# elif operation == "square"
  let x = a[params.a_base + i];
  return x * x;
//# else
  let row = i / params.width;
  let column = i % params.width;
//# if operation == "add_scaled"
  return a_at(row, column) + params.scale * b_at(row, column);
//# elif operation == "scale_columns"
  return a_at(row, column) * b_at(row, column);
//# elif operation == "gate"
  return a_at(row, column) * b_at(row, column / (params.width / params.b_width));
//# elif operation == "keep"
  return select(0.0, a_at(row, column), b_at(row, 0u) != 0.0);
//# elif operation == "columns"
  return a_at(row, column);
//# elif operation == "concat"
  if (column < params.a_used) {
    return a_at(row, column);
  }
  return b_at(row, column - params.a_used);
//# elif operation == "geglu"
  return a_at(row, column) * activate(vec4(a_at(row, column + params.width))).x;
//# endif
//# endif
}

@compute @workgroup_size({{ threads }})
fn main(
  @builtin(workgroup_id) group_id: vec3<u32>,
  @builtin(num_workgroups) group_count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let i = element(group_id, group_count, thread);
  if (i < params.n) {
    y[params.y_base + i] = value(i);
  }
}
