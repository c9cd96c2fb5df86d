// elementwise: {{ "four numbers" if vectors else "a number" }} of y for each thread, from rows of a and, in some operations, of b.
//
//   y [rows, width] · a [rows, a_width] · b [b_width] or [rows, b_width]
//
// {{ threads }} threads in a workgroup; no workgroup memory.

//# set number = "vec4<f32>" if vectors else "f32"
// All counts are of elements: of {{ number }}{% if has_few_of_b %}, in b of f32{% endif %}.
struct Params {
  // Of y.
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

@group(0) @binding(0) var<storage, read> a: array<{{ number }}>;
//# if has_b
@group(0) @binding(1) var<storage, read> b: array<{{ "f32" if has_few_of_b else number }}>;
//# endif
@group(0) @binding(2) var<storage, read_write> y: array<{{ number }}>;
@group(1) @binding(0) var<uniform> params: Params;

//# include "lib/element.wgsl"
//# if operation == "relu"
//# include "lib/relu.wgsl"
//# elif operation == "sigmoid"
//# include "lib/sigmoid.wgsl"
//# elif operation == "geglu"
//# include "lib/activation.wgsl"
//# endif

fn a_at(row: u32, column: u32) -> {{ number }} {
  return a[params.a_base + row * params.a_width + params.a_first + column];
}

//# if has_b
fn b_at(row: u32, column: u32) -> {{ "f32" if has_few_of_b else number }} {
  return b[params.b_base + row * params.b_stride + column];
}

//# endif
//# if operation in ["relu", "sigmoid", "square"]
fn map(x: f32) -> f32 {
//# if operation == "relu"
  return relu(vec4(x)).x;
//# elif operation == "sigmoid"
  return sigmoid(x);
//# elif operation == "square"
  return x * x;
//# endif
}

//# endif
//# if operation == "widen_by_squares"
// The sum of the squares of what is looked at. Scaled first, for that is smaller.
fn squares_of(row: u32) -> f32 {
  var squares = {{ number }}();
  for (var i = 0u; i < params.a_used; i++) {
    let x = a_at(row, i);
    squares += params.scale * x * x;
  }
  return {{ "dot(squares, vec4(1.0))" if vectors else "squares" }};
}

//# endif
fn value(i: u32) -> {{ number }} {
//# if is_flat
  // Rows are as wide as what they are made of, and lie side by side: they are one.
  let row = 0u;
  let column = i;
//# else
  let row = i / params.width;
  let column = i % params.width;
//# endif
//# if operation in ["widen", "widen_by_squares"]
  if (column >= params.a_used) {
    var more = 0.0;
    if (column == params.a_used) {
      more = {{ "b_at(row, 0u)" if has_b else "squares_of(row)" }};
    }
    return {{ "vec4(more, 0.0, 0.0, 0.0)" if vectors else "more" }};
  }
//# elif operation == "concat"
  if (column >= params.a_used) {
    return b_at(row, column - params.a_used);
  }
//# endif
  let x = a_at(row, column);
//# if operation in ["relu", "sigmoid", "square"]
  return {{ "vec4(map(x.x), map(x.y), map(x.z), map(x.w))" if vectors else "map(x)" }};
//# elif operation == "add_scaled"
  return x + params.scale * b_at(row, column);
//# elif operation == "scale_columns"
  return x * b_at(row, column);
//# elif operation == "gate"
  return x * b_at(row, column / (params.width / params.b_width));
//# elif operation == "keep"
  return select({{ number }}(), x, b_at(row, 0u) != 0.0);
//# elif operation in ["columns", "concat", "widen", "widen_by_squares"]
  return x;
//# elif operation == "geglu"
  let gate = a_at(row, column + params.width);
  return x * {{ "activate(gate)" if vectors else "activate(vec4(gate)).x" }};
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
