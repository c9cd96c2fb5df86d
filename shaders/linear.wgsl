// linear: y = activation(x W + b) + residual, row-major.
//
//   x [rows, n_in] · weight [n_in, n_out] · bias [n_out] · residual, y [rows, n_out]
//
//# set width = quads * threads
//# set n_depth = depth // 4
//# set stride = n_depth + n_depth // 8
// A workgroup of {{ threads }} x {{ threads }} threads makes a tile of {{ 4 * width }} x {{ 4 * width }}
// outputs, each thread {{ 4 * quads }} x {{ 4 * quads }} of them, reading both operands through workgroup memory
// in slices {{ depth }} deep: {{ 16 * (4 * width * stride + depth * width) }} bytes.

struct Params {
  rows: u32,
  n_in: u32,
  n_out: u32,
  n_groups: u32,
  // Column tiles.
  n_tiles: u32,
  // Where the first element is in each binding.
  x_base: u32,
  residual_base: u32,
  y_base: u32,
}

//# set number = "vec4<f32>" if has_vectors else "f32"
//# set halves = "vec2<u32>" if has_vectors else "u32"
@group(0) @binding(0) var<storage, read> x: array<{{ number }}>;
@group(0) @binding(1) var<storage, read> weight: array<{{ halves if weight_f16 else number }}>;
//# if has_bias
@group(0) @binding(2) var<storage, read> bias: array<{{ number }}>;
//# endif
//# if has_residual
@group(0) @binding(3) var<storage, read> residual: array<{{ number }}>;
//# endif
@group(0) @binding(4) var<storage, read_write> y: array<{{ number }}>;
@group(1) @binding(0) var<uniform> params: Params;

// Four depths of a row of x, rows {{ stride }} vectors apart: neighbours do not lie in one bank. Four columns of weight at one depth.
var<workgroup> x_tile: array<vec4<f32>, {{ 4 * width * stride }}>;
var<workgroup> weight_tile: array<vec4<f32>, {{ depth * width }}>;

//# include "lib/group.wgsl"
//# include "lib/pairs.wgsl"
//# include "lib/activation.wgsl"

//# if has_vectors
// n_in and n_out are multiples of 4, and every thread makes its part of a slice without a branch: what
// lies past the end is any number of the operand, which is neither multiplied nor stored.
fn load_x(at: u32) -> vec4<f32> {
  return x[params.x_base + min(at, params.rows * (params.n_in / 4u) - 1u)];
}

fn load_weight(at: u32) -> vec4<f32> {
  let i = min(at, params.n_in * (params.n_out / 4u) - 1u);
//# if weight_f16
  let halves = weight[i];
  return vec4(unpack2x16float(halves.x), unpack2x16float(halves.y));
//# else
  return weight[i];
//# endif
}

fn store(row: u32, column: u32, values: vec4<f32>) {
  if (row >= params.rows || column >= params.n_out) {
    return;
  }
  var z = values;
//# if has_bias
  z += bias[column / 4u];
//# endif
  z = activate(z);
  let at = (row * params.n_out + column) / 4u;
//# if has_residual
  z += residual[params.residual_base + at];
//# endif
  y[params.y_base + at] = z;
}
//# else
fn load_x(row: u32, i: u32) -> f32 {
  if (row < params.rows && i < params.n_in) {
    return x[params.x_base + row * params.n_in + i];
  }
  return 0.0;
}

fn load_weight(i: u32, column: u32) -> f32 {
  if (i < params.n_in && column < params.n_out) {
    let at = i * params.n_out + column;
//# if weight_f16
    let halves = unpack2x16float(weight[at / 2u]);
    return select(halves.x, halves.y, at % 2u == 1u);
//# else
    return weight[at];
//# endif
  }
  return 0.0;
}

//# if has_bias
fn load_bias(column: u32) -> f32 {
  if (column < params.n_out) {
    return bias[column];
  }
  return 0.0;
}

//# endif
fn store_one(row: u32, column: u32, value: f32) {
  if (column < params.n_out) {
    let at = row * params.n_out + column;
//# if has_residual
    y[params.y_base + at] = value + residual[params.residual_base + at];
//# else
    y[params.y_base + at] = value;
//# endif
  }
}

fn store(row: u32, column: u32, values: vec4<f32>) {
  if (row >= params.rows) {
    return;
  }
//# if has_bias
  let z = activate(
    values + vec4(load_bias(column), load_bias(column + 1u), load_bias(column + 2u), load_bias(column + 3u)));
//# else
  let z = activate(values);
//# endif
  store_one(row, column, z.x);
  store_one(row, column + 1u, z.y);
  store_one(row, column + 2u, z.z);
  store_one(row, column + 3u, z.w);
}
//# endif

@compute @workgroup_size({{ threads * threads }})
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
  let row_thread = row_of(thread, {{ threads }}u);
  let column_thread = column_of(thread, {{ threads }}u);
  let row0 = (group / params.n_tiles) * {{ 4 * width }}u;
  let column0 = (group % params.n_tiles) * {{ 4 * width }}u;

//# for r in range(4 * quads)
//# for h in range(quads)
  var y{{ r }}_{{ h }} = vec4(0.0);
//# endfor
//# endfor
//# if has_vectors
  // Where the thread reads, in vectors: one of every {{ threads * threads // n_depth }} rows of x, and one of every {{ threads // quads }} of the weight.
  let x_step = params.n_in / 4u;
  let weight_step = params.n_out / 4u;
  var x_at = (row0 + thread / {{ n_depth }}u) * x_step + thread % {{ n_depth }}u;
  var weight_at = thread / {{ width }}u * weight_step + min(column0 / 4u + thread % {{ width }}u, weight_step - 1u);
  let to = thread / {{ n_depth }}u * {{ stride }}u + thread % {{ n_depth }}u;
//# endif
  for (var i0 = 0u; i0 < params.n_in; i0 += {{ depth }}u) {
//# if has_vectors
//# for slot in range(4 * width * n_depth // (threads * threads))
    x_tile[to + {{ slot * threads * threads // n_depth * stride }}u] = load_x(x_at + {{ slot * threads * threads // n_depth }}u * x_step);
//# endfor
    x_at += {{ n_depth }}u;
//# for slot in range(depth * width // (threads * threads))
    weight_tile[thread + {{ slot * threads * threads }}u] = load_weight(weight_at);
    weight_at += {{ threads // quads }}u * weight_step;
//# endfor
//# else
//# with n_slots = depth * width, threads = threads * threads
//# include "lib/slots.wgsl"
      let i = i0 + 4u * (slot % {{ n_depth }}u);
      let row = row0 + slot / {{ n_depth }}u;
      x_tile[slot / {{ n_depth }}u * {{ stride }}u + slot % {{ n_depth }}u] =
        vec4(load_x(row, i), load_x(row, i + 1u), load_x(row, i + 2u), load_x(row, i + 3u));
    }
//# include "lib/slots.wgsl"
      let i = i0 + slot / {{ width }}u;
      let column = column0 + 4u * (slot % {{ width }}u);
      weight_tile[slot] = vec4(
        load_weight(i, column), load_weight(i, column + 1u), load_weight(i, column + 2u), load_weight(i, column + 3u));
    }
//# endwith
//# endif
    workgroupBarrier();
//# if has_vectors
    // A bound that no compiler knows keeps the loop a loop: unrolled, it spills registers on some devices.
    let n_depth = (min({{ depth }}u, params.n_in - i0) + 3u) / 4u;
    for (var d = 0u; d < n_depth; d++) {
//# else
    for (var d = 0u; d < {{ n_depth }}u; d++) {
//# endif
      // Vectors of a thread are far apart, so that neighbours read neighbours.
//# for c in range(4)
//# for h in range(quads)
      let w{{ c }}_{{ h }} = weight_tile[(4u * d + {{ c }}u) * {{ width }}u + column_thread + {{ h * threads }}u];
//# endfor
//# endfor
//# for r in range(4 * quads)
      {
        let x = x_tile[(row_thread + {{ r * threads }}u) * {{ stride }}u + d];
//# for h in range(quads)
//# for c in range(4)
        y{{ r }}_{{ h }} += x[{{ c }}] * w{{ c }}_{{ h }};
//# endfor
//# endfor
      }
//# endfor
    }
    workgroupBarrier();
  }
  let column = column0 + 4u * column_thread;
//# for r in range(4 * quads)
//# for h in range(quads)
  store(row0 + row_thread + {{ r * threads }}u, column + {{ 4 * h * threads }}u, y{{ r }}_{{ h }});
//# endfor
//# endfor
}
