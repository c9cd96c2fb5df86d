// Features of rows of `x`, a tile at a time; twin: `src/ops/feature_map/cpu.rs`.
//
// A tile is of 32 by {{ side }}: {% if x_is_short %}rows by features{% else %}features by rows{% endif %}. Each of {{ threads }} threads makes 4 by 4 of it. The kernel
// declares `tile`, workgroup memory, in which both operands lie as long as they are multiplied: first the one of 32 rows,
// then the other, of each the first of every four rows, then the second of each, and so on; behind them norms, those of four
// rows a vector, which lie as a row of every four does.

{% set side_quads = side // 4 -%}
{% set x_quads = 8 if x_is_short else side_quads -%}
{% set x_at = 0 if x_is_short else 8 * depth -%}
{% set projection_quads = side_quads if x_is_short else 8 -%}
{% set projection_at = 8 * depth if x_is_short else 0 -%}
{% set norms_at = (8 + side_quads) * depth -%}
{% set n_depth = depth // 4 -%}
{% set x_plane = x_quads * n_depth -%}
{% set projection_plane = projection_quads * n_depth -%}
//# include "lib/pairs.wgsl"

// The rows of a tile: `n` of them, one at least, which are `stride` apart.
struct Rows {
  first: u32,
  stride: u32,
  n: u32,
}

// A thread's, four vectors along the side.
struct Features {
//# for r in range(4)
  z{{ r }}: vec4<f32>,
//# endfor
//# if kind == "softmax"
  // Half the squared norm of each of the thread's rows.
  half_norm: vec4<f32>,
//# endif
}

// Four numbers of a row, from `d` on, which is a multiple of four and below `head_dim`. Past the last
// row the last is repeated, past the end of a row there are zeros.
fn load_x(rows: Rows, i: u32, d: u32) -> vec4<f32> {
  let row = rows.first + min(i, rows.n - 1u) * rows.stride;
//# if vectors
  return params.scale * x[params.x_base + row * (params.head_dim / 4u) + d / 4u];
//# else
  let at = params.x_base + row * params.head_dim;
  let last = params.head_dim - 1u;
  let four = vec4(x[at + d], x[at + min(d + 1u, last)], x[at + min(d + 2u, last)], x[at + min(d + 3u, last)]);
  return params.scale * select(vec4(0.0), four, vec4(d) + vec4(0u, 1u, 2u, 3u) <= vec4(last));
//# endif
}

//# if kind == "relu"
//# include "lib/relu.wgsl"

//# endif
//# if kind != "identity"
// Where four numbers of a row of every four are in `tile`. Rows are turned against each other, so that threads that read
// the same depth of other rows read other banks; a row has a power of two of vectors.
fn place(quad: u32, d: u32) -> u32 {
  return quad * {{ n_depth }}u + (d ^ (quad % {{ n_depth }}u));
}

// As `load_x`, of a row of the projection.
fn load_projection(f: u32, d: u32) -> vec4<f32> {
  let row = min(f, params.n_features - 1u);
//# if vectors
  return projection[params.projection_base + row * (params.head_dim / 4u) + d / 4u];
//# else
  let at = params.projection_base + row * params.head_dim;
  let last = params.head_dim - 1u;
  let four = vec4(
    projection[at + d], projection[at + min(d + 1u, last)], projection[at + min(d + 2u, last)], projection[at + min(d + 3u, last)]);
  return select(vec4(0.0), four, vec4(d) + vec4(0u, 1u, 2u, 3u) <= vec4(last));
//# endif
}

// `z` are products with rows of the projection, `half_norm` half the squared norms of what was
// projected.
fn feature(z: vec4<f32>, half_norm: vec4<f32>) -> vec4<f32> {
//# if kind == "softmax"
  return exp(z - half_norm) / sqrt(f32(params.n_features));
//# elif kind == "relu"
  return relu(z);
//# elif kind == "gelu"
  // x/2 (1 + tanh u) = x / (1 + exp(-2u)), which is zero below -14.
  let u = 0.7978845608 * (z + 0.044715 * z * z * z);
  return select(z / (1.0 + exp(min(-2.0 * u, vec4(87.0)))), vec4(0.0), z < vec4(-14.0));
//# elif kind == "exp"
  return exp(z);
//# elif kind == "elu"
  return select(z, exp(z) - 1.0, z < vec4(0.0));
//# endif
}
//# endif

//# set keeps_norms = kind == "softmax" and not x_is_short
// The features of rows from feature `f0` on.{% if keeps_norms %} Unless the rows are new, `before` has their norms.{% endif %} All threads
// call this together; what `tile` held is lost, and on return it is free.
fn features(rows: Rows, f0: u32, thread: u32{% if keeps_norms %}, is_new: bool, before: Features{% endif %}) -> Features {
  var y: Features;
  let side_quad = column_of(thread, {{ side_quads }}u);
  let short_quad = row_of(thread, {{ side_quads }}u);
//# if kind == "identity"
//# if x_is_short
  let d = f0 + 4u * side_quad;
  if (d < params.head_dim) {
//# for r in range(4)
    y.z{{ r }} = load_x(rows, 4u * short_quad + {{ r }}u, d);
//# endfor
  }
//# else
  let d = f0 + 4u * short_quad;
  if (d < params.head_dim) {
    let i = 4u * side_quad;
//# for r in range(4)
    let x{{ r }} = load_x(rows, i + {{ r }}u, d);
//# endfor
//# for r in range(4)
    y.z{{ r }} = vec4(x0[{{ r }}], x1[{{ r }}], x2[{{ r }}], x3[{{ r }}]);
//# endfor
  }
//# endif
//# else
//# for r in range(4)
  var z{{ r }} = vec4(0.0);
//# endfor
  // The last four numbers of a row. What is past them is not multiplied.
  let last = (params.head_dim - 1u) / 4u * 4u;
  for (var d0 = 0u; d0 < params.head_dim; d0 += {{ depth }}u) {
    if (d0 > 0u) {
      workgroupBarrier();
    }
//# set n_slots = projection_plane
//# include "lib/slots.wgsl"
      let quad = slot / {{ n_depth }}u;
      let at = place(quad, slot % {{ n_depth }}u);
      let d = min(d0 + 4u * (slot % {{ n_depth }}u), last);
//# for r in range(4)
      tile[at + {{ projection_at + r * projection_plane }}u] = load_projection(f0 + 4u * quad + {{ r }}u, d);
//# endfor
    }
//# set n_slots = x_plane
//# include "lib/slots.wgsl"
      let quad = slot / {{ n_depth }}u;
      let at = place(quad, slot % {{ n_depth }}u);
      let d = d0 + 4u * (slot % {{ n_depth }}u);
//# for r in range(4)
      let row{{ r }} = load_x(rows, 4u * quad + {{ r }}u, min(d, last));
      tile[at + {{ x_at + r * x_plane }}u] = row{{ r }};
//# endfor
//# if keeps_norms
      if (is_new) {
//# endif
//# if kind == "softmax"
      let squares = vec4({% for r in range(4) %}dot(row{{ r }}, row{{ r }}){{ ", " if r < 3 }}{% endfor %});
      var norms = select(vec4(0.0), squares, d <= last);
      if (d0 > 0u) {
        norms += tile[at + {{ norms_at }}u];
      }
      tile[at + {{ norms_at }}u] = norms;
//# endif
//# if keeps_norms
      }
//# endif
    }
    workgroupBarrier();
    // A number that is known only as it runs: loops that are unrolled need more registers than there are.
    let n_used = (min({{ depth }}u, params.head_dim - d0) + 3u) / 4u;
    for (var d = 0u; d < n_used; d++) {
      let b_at = {{ 8 * depth }}u + place(side_quad, d);
//# for r in range(4)
      let b{{ r }} = tile[b_at + {{ r * side_quads * n_depth }}u];
//# endfor
      let a_at = place(short_quad, d);
//# for r in range(4)
      {
        let a = tile[a_at + {{ r * 8 * n_depth }}u];
//# for c in range(4)
        z{{ r }} += a[{{ c }}] * vec4(b0[{{ c }}], b1[{{ c }}], b2[{{ c }}], b3[{{ c }}]);
//# endfor
      }
//# endfor
    }
  }
//# if kind == "softmax"
  // Of a row there are {{ n_depth }} parts.
//# if keeps_norms
  y.half_norm = before.half_norm;
  if (is_new) {
    y.half_norm = vec4(0.0);
//# endif
    for (var d = 0u; d < {{ n_depth }}u; d++) {
      y.half_norm += tile[{{ norms_at }}u + place({{ "short_quad" if x_is_short else "side_quad" }}, d)];
    }
    y.half_norm *= 0.5;
//# if keeps_norms
  }
//# endif
//# endif
  workgroupBarrier();
//# for r in range(4)
//# if kind != "softmax"
  y.z{{ r }} = feature(z{{ r }}, vec4(0.0));
//# elif x_is_short
  y.z{{ r }} = feature(z{{ r }}, vec4(y.half_norm[{{ r }}]));
//# else
  y.z{{ r }} = feature(z{{ r }}, y.half_norm);
//# endif
//# endfor
//# endif
  return y;
}
