// linear: y = activation(x W + b) + residual, row-major.
//
//   x [rows, n_in] · weight [n_in, n_out] · bias [n_out] · residual, y [rows, n_out]
//
// A workgroup of {{ threads }} x {{ threads }} threads makes a tile of {{ 4 * threads }} x {{ 4 * threads }}
// outputs, each thread 4 x 4 of them, reading both operands through workgroup memory in
// slices {{ depth }} deep: {{ 2 * depth * threads * 16 }} bytes.

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

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
//# if has_bias
@group(0) @binding(2) var<storage, read> bias: array<f32>;
//# endif
//# if has_residual
@group(0) @binding(3) var<storage, read> residual: array<f32>;
//# endif
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

// Four rows of x at one depth; four columns of weight at one depth.
var<workgroup> x_tile: array<vec4<f32>, {{ depth * threads }}>;
var<workgroup> weight_tile: array<vec4<f32>, {{ depth * threads }}>;

//# include "lib/group.wgsl"
//# include "lib/activation.wgsl"

fn load_x(row: u32, i: u32) -> f32 {
  if (row < params.rows && i < params.n_in) {
    return x[params.x_base + row * params.n_in + i];
  }
  return 0.0;
}

fn load_weight(i: u32, column: u32) -> f32 {
  if (i < params.n_in && column < params.n_out) {
    return weight[i * params.n_out + column];
  }
  return 0.0;
}

fn store(row: u32, column: u32, values: vec4<f32>) {
  if (row >= params.rows) {
    return;
  }
  var z = values;
//# if has_bias
  for (var c = 0u; c < 4u; c++) {
    if (column + c < params.n_out) {
      z[c] += bias[column + c];
    }
  }
//# endif
  z = activate(z);
  for (var c = 0u; c < 4u; c++) {
    if (column + c < params.n_out) {
      let i = row * params.n_out + column + c;
//# if has_residual
      z[c] += residual[params.residual_base + i];
//# endif
      y[params.y_base + i] = z[c];
    }
  }
}

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
  let row_thread = thread / {{ threads }}u;
  let column_thread = thread % {{ threads }}u;
  let row0 = (group / params.n_tiles) * {{ 4 * threads }}u;
  let column0 = (group % params.n_tiles) * {{ 4 * threads }}u;

//# for r in range(4)
  var y{{ r }} = vec4(0.0);
//# endfor
  for (var i0 = 0u; i0 < params.n_in; i0 += {{ depth }}u) {
    for (var slot = thread; slot < {{ depth * threads }}u; slot += {{ threads * threads }}u) {
      // Neighbouring threads read neighbouring numbers.
      let i = i0 + slot % {{ depth }}u;
      let quad = slot / {{ depth }}u;
      let row = row0 + 4u * quad;
      x_tile[(slot % {{ depth }}u) * {{ threads }}u + quad] =
        vec4(load_x(row, i), load_x(row + 1u, i), load_x(row + 2u, i), load_x(row + 3u, i));
    }
    for (var slot = thread; slot < {{ depth * threads }}u; slot += {{ threads * threads }}u) {
      let i = i0 + slot / {{ threads }}u;
      let column = column0 + 4u * (slot % {{ threads }}u);
      weight_tile[slot] = vec4(
        load_weight(i, column), load_weight(i, column + 1u), load_weight(i, column + 2u), load_weight(i, column + 3u));
    }
    workgroupBarrier();
    for (var d = 0u; d < {{ depth }}u; d += 4u) {
//# for u in range(4)
      {
        let a = x_tile[(d + {{ u }}u) * {{ threads }}u + row_thread];
        let b = weight_tile[(d + {{ u }}u) * {{ threads }}u + column_thread];
        y0 += a.x * b;
        y1 += a.y * b;
        y2 += a.z * b;
        y3 += a.w * b;
      }
//# endfor
    }
    workgroupBarrier();
  }
  let row = row0 + 4u * row_thread;
  let column = column0 + 4u * column_thread;
//# for r in range(4)
  store(row + {{ r }}u, column, y{{ r }});
//# endfor
}
