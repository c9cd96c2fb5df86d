// The bias of one key for the four queries of a thread; twin: `src/ops/scan_attention/cpu`.
// A function for each term; a lane holds a value at or below MASKED where the pair is masked.
// `problem.bias` holds (a, -b log2 e, c) for each term, head and basis function.

const MASKED: f32 = {{ masked }};

// By bits: shaders may assume that NaN and infinity do not exist.
fn finite(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

//# if uses_geodesic
//# include "lib/geodesic.wgsl"
//# endif
//# if uses_custom

var<private> custom_offset: u32;
var<private> custom_length: u32;

fn params(i: u32) -> f32 {
  if (i >= custom_length) {
    return MASKED;
  }
  let j = custom_offset + i;
  return problem.bias[j / 4u][j % 4u];
}
//# endif
//# for t in terms
//# set width = 6 if t.kind == "great_circle" else t.width

//# if t.kind == "custom"
fn custom_{{ t.index }}(q_coord: array<f32, {{ t.width }}>, k_coord: array<f32, {{ t.width }}>, head: u32) -> f32 {
{{ t.body }}
}

//# endif
fn term_{{ t.index }}(
  head: u32,
//# for c in range(width)
  q{{ c }}: vec4<f32>,
  k{{ c }}: f32,
//# endfor
) -> vec4<f32> {
//# if t.kind == "custom"
  custom_offset = {{ t.offset * 4 }}u;
  custom_length = {{ t.n_params }}u;
  let k = array<f32, {{ t.width }}>({% for c in range(width) %}k{{ c }}, {% endfor %});
  var value: vec4<f32>;
//# for r in range(4)
  value[{{ r }}] = custom_{{ t.index }}(
    array<f32, {{ t.width }}>({% for c in range(width) %}q{{ c }}[{{ r }}], {% endfor %}), k, head);
  if (!finite(value[{{ r }}]) || value[{{ r }}] <= 0.5 * MASKED) {
    value[{{ r }}] = MASKED;
  }
//# endfor
  return value;
//# else
//# if t.kind == "euclidean"
  var square = vec4(0.0);
//# for c in range(width)
  square += (q{{ c }} - k{{ c }}) * (q{{ c }} - k{{ c }});
//# endfor
  let valid = square < vec4(3e38);
//# if t.kernel != "rbf"
  let d = sqrt(square);
//# endif
//# else
//# if t.kind == "great_circle"
  let d = great_circle_degrees(q0, q1, q2, q3, q4, q5, k0, k1, k2, k3, k4, k5);
  let valid = vec4(true);
//# else
  let d = k0 - q0;
  let valid = (d <= vec4(0.0)) & (d > vec4(-3e38));
//# endif
//# if t.kernel == "rbf"
  let square = d * d;
//# endif
//# endif
  var value = vec4(0.0);
  let first = {{ t.offset }}u + head * {{ t.n_basis }}u;
//# set unrolled = t.n_basis <= 8
//# if not unrolled
  for (var f = 0u; f < {{ t.n_basis }}u; f++) {
//# endif
//# for f in range(t.n_basis if unrolled else 1)
  {
    let p = problem.bias[first + {{ f ~ "u" if unrolled else "f" }}];
//# if t.kernel == "scalar"
    value += p.x * d;
//# else
//# if t.kernel == "rbf"
    let exponent = p.y * square;
//# elif t.kernel == "tisa"
    let exponent = p.y * (d - p.z) * (d - p.z);
//# elif t.kernel == "matern32"
    let exponent = p.y * d * 1.7320508;
//# else
    let exponent = p.y * d;
//# endif
    // A negative b grows without bound; 2^90 is still far below the sentinel.
//# set saturated = "min(exponent, vec4(90.0))" if t.grows else "exponent"
//# if t.kernel == "matern32"
    // From below too, lest zero meet an infinite factor.
    let power = max({{ saturated }}, vec4(-96.0));
    let basis = (1.0 - 0.6931472 * power) * exp2(power);
    value += p.x * {{ "max(basis, vec4(-0x1p90))" if t.grows else "basis" }};
//# else
    value += p.x * exp2({{ saturated }});
//# endif
//# endif
  }
//# endfor
//# if not unrolled
  }
//# endif
  return select(vec4(MASKED), value, valid);
//# endif
}
//# endfor
