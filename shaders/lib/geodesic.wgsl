// Great-circle distance without the built-in sin, cos and atan2, whose errors WGSL leaves wide
// open; twin: `src/ops/scan_attention/cpu`.

// sin and cos of r in [-pi/4, pi/4], to a few 1e-8 (the polynomials of the Cephes library).
fn sin_near_zero(r: f32) -> f32 {
  let s = r * r;
  return r + r * s * (-0.16666654611 + s * (0.0083321608736 - s * 0.00019515295891));
}

fn cos_near_zero(r: f32) -> f32 {
  let s = r * r;
  return 1.0 - 0.5 * s + s * s * (0.04166664568298827 + s * (-0.001388731625493765 + s * 0.00002443315711809948));
}

// The same angle of less than two turns, exact at any size: a whole number of 24 bits times a power
// of two, of which what fills a turn of 360 * 64 parts is taken off at every doubling.
fn within_a_turn(degrees: f32) -> f32 {
  let bits = bitcast<u32>(degrees);
  var parts = ((bits & 0x7fffffu) | 0x800000u) % 23040u;
  for (var exponent = (bits >> 23u) & 0xffu; exponent > 144u; exponent--) {
    parts = (parts * 2u) % 23040u;
  }
  return select(1.0, -1.0, degrees < 0.0) * f32(parts) / 64.0;
}

// (cos, sin) of an angle in degrees: reduced to an eighth of a turn in degrees, where that is exact.
fn cos_sin_degrees(angle: f32) -> vec2<f32> {
  var degrees = angle;
  if (abs(angle) > 1e6) {
    degrees = within_a_turn(angle);
  }
  let quarter = round(degrees / 90.0);
  let r = (degrees - quarter * 90.0) * 0.017453293;
  let c = cos_near_zero(r);
  let s = sin_near_zero(r);
  let turn = quarter - 4.0 * floor(quarter / 4.0);
  if (turn < 0.5) { return vec2(c, s); }
  if (turn < 1.5) { return vec2(-s, c); }
  if (turn < 2.5) { return vec2(-c, -s); }
  return vec2(s, -c);
}

// The point on the unit sphere at a longitude and latitude in degrees.
fn unit_vector(longitude: f32, latitude: f32) -> vec3<f32> {
  let a = cos_sin_degrees(longitude);
  let b = cos_sin_degrees(latitude);
  return vec3(b.x * a.x, b.x * a.y, b.y);
}

// atan(t) for t in [0, 1], reduced once more to |u| <= tan(pi/8).
fn atan_unit(t: vec4<f32>) -> vec4<f32> {
  let far = t > vec4(0.41421356);
  let u = select(t, (t - 1.0) / (t + 1.0), far);
  let s = u * u;
  let p = u + u * s * (-0.333329491539 + s * (0.199777106478 + s * (-0.138776856032 + s * 0.0805374449538)));
  return select(p, p + 0.78539816, far);
}

// The central angle in degrees between unit vectors: 2 atan2(|q - k|, |q + k|).
fn great_circle_degrees(
  qx: vec4<f32>, qy: vec4<f32>, qz: vec4<f32>, kx: f32, ky: f32, kz: f32,
) -> vec4<f32> {
  let near = sqrt((qx - kx) * (qx - kx) + (qy - ky) * (qy - ky) + (qz - kz) * (qz - kz));
  let far = sqrt((qx + kx) * (qx + kx) + (qy + ky) * (qy + ky) + (qz + kz) * (qz + kz));
  // Their squares sum to 4, so the larger is never zero.
  let half = atan_unit(min(near, far) / max(near, far));
  return 114.59156 * select(half, 1.5707964 - half, near > far);
}
