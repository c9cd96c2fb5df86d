// The bias of one key for the four queries of a thread; twin: `src/ops/scan_attention/cpu`.
// A function for each term, which says what it adds and which pairs it keeps.
// `{{ "bias" if bias_in_storage else "problem.bias" }}` holds (a, -b log2 e, c, largest exponent) for each term, head and basis function.

const MASKED: f32 = {{ masked }};

//# if terms
// No distance, and no square of one, is larger: what is further counts as this far.
const FAR: f32 = 0x1p127;

struct Term {
  bias: vec4<f32>,
  kept: vec4<bool>,
}
//# endif

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
  return {% if bias_in_storage %}bias[problem.bias_base + j]{% else %}problem.bias[j / 4u][j % 4u]{% endif %};
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
) -> Term {
//# if t.kind == "custom"
  custom_offset = {{ t.offset * 4 }}u;
  custom_length = {{ t.n_params }}u;
  let k = array<f32, {{ t.width }}>({% for c in range(width) %}k{{ c }}, {% endfor %});
  var value: vec4<f32>;
  var kept: vec4<bool>;
  // A loop, so that the snippet is compiled into the kernel four times and not sixteen.
  for (var r = 0u; r < 4u; r++) {
    let bias = custom_{{ t.index }}(
      array<f32, {{ t.width }}>({% for c in range(width) %}q{{ c }}[r], {% endfor %}), k, head);
    // FXC writes no component that it does not know.
    let here = vec4(r) == vec4(0u, 1u, 2u, 3u);
    value = select(value, vec4(bias), here);
    kept = select(kept, vec4(finite(bias) && bias > 0.5 * MASKED), here);
  }
  return Term(value, kept);
//# else
//# if t.kind == "euclidean"
  var square = vec4(0.0);
//# for c in range(width)
  square += (q{{ c }} - k{{ c }}) * (q{{ c }} - k{{ c }});
//# endfor
  let kept = vec4(true);
//# if t.kernel == "rbf"
  square = min(square, vec4(FAR));
//# else
  var d = sqrt(square);
  if (any(square > vec4(FAR))) {
    // Small enough that squares of any coordinates can be summed.
    var small = vec4(0.0);
//# for c in range(width)
    {
      let x = 0x1p-70 * q{{ c }} - 0x1p-70 * k{{ c }};
      small += x * x;
    }
//# endfor
    d = select(d, min(sqrt(small) * 0x1p70, vec4(FAR)), square > vec4(FAR));
  }
//# endif
//# else
//# if t.kind == "great_circle"
  let d = great_circle_degrees(q0, q1, q2, q3, q4, q5, k0, k1, k2, k3, k4, k5);
  let kept = vec4(true);
//# else
  let difference = k0 - q0;
  let kept = difference <= vec4(0.0);
  let d = max(difference, vec4(-FAR));
//# endif
//# if t.kernel == "rbf"
  let square = min(d * d, vec4(FAR));
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
//# if bias_in_storage
    let at = problem.bias_base + 4u * (first + {{ f ~ "u" if unrolled else "f" }});
    let p = vec4(bias[at], bias[at + 1u], bias[at + 2u], bias[at + 3u]);
//# else
    let p = problem.bias[first + {{ f ~ "u" if unrolled else "f" }}];
//# endif
//# if t.kernel == "scalar"
    value += clamp(p.x * d, vec4(-0x1p113), vec4(0x1p113));
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
    // A negative b grows without bound.
//# set saturated = "min(exponent, vec4(p.w))" if t.grows else "exponent"
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
  return Term(value, kept);
//# endif
}
//# endfor
