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

// The same angle of less than two turns, exact at any size above 1e6: a whole number of 24 bits times
// a power of two, of which what fills turns of 360 * 64 parts is taken off. No loop: those 2^9 * 45
// parts see powers of two from 2^9 on come again after 12 doublings.
fn within_a_turn(degrees: f32) -> f32 {
  let bits = bitcast<u32>(degrees);
  var parts = ((bits & 0x7fffffu) | 0x800000u) % 23040u;
  let exponent = ((bits >> 23u) & 0xffu) - 144u;
  let doublings = select(exponent, 9u + (exponent - 9u) % 12u, exponent > 9u);
  // In two steps, as 15 bits doubled 20 times do not fit.
  parts = (parts << min(doublings, 10u)) % 23040u;
  parts = (parts << (doublings - min(doublings, 10u))) % 23040u;
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

// The point on the unit sphere at a longitude and latitude in degrees, and the cosine of the latter.
fn unit_vector(longitude: f32, latitude: f32) -> vec4<f32> {
  let a = cos_sin_degrees(longitude);
  let b = cos_sin_degrees(latitude);
  return vec4(b.x * a.x, b.x * a.y, b.y, b.x);
}

// atan(t) for t in [0, 1], reduced once more to |u| <= tan(pi/8).
fn atan_unit(t: vec4<f32>) -> vec4<f32> {
  let far = t > vec4(0.41421356);
  let u = select(t, (t - 1.0) / (t + 1.0), far);
  let s = u * u;
  let p = u + u * s * (-0.333329491539 + s * (0.199777106478 + s * (-0.138776856032 + s * 0.0805374449538)));
  return select(p, p + 0.78539816, far);
}

// The central angle in degrees, 2 asin(chord / 2), from the point or from the one opposite to it,
// whichever is nearer. Points as `unit_vector` has them (x, y, z, c), with their degrees. The
// difference of two unit vectors loses its digits where it is small; there the chord is that of the
// differences in degrees, which are exact: 4 (sin^2(lat / 2) + c c' sin^2(lon / 2)).
fn great_circle_degrees(
  qx: vec4<f32>, qy: vec4<f32>, qz: vec4<f32>, qc: vec4<f32>, q_lon: vec4<f32>, q_lat: vec4<f32>,
  kx: f32, ky: f32, kz: f32, kc: f32, k_lon: f32, k_lat: f32,
) -> vec4<f32> {
  let ahead = qx * kx + qy * ky + qz * kz > vec4(0.0);
  let sign = select(vec4(-1.0), vec4(1.0), ahead);
  let x = qx - sign * kx;
  let y = qy - sign * ky;
  let z = qz - sign * kz;
  let far = x * x + y * y + z * z;
  let lat = (q_lat - k_lat) * 0.017453293;
  // Whole turns are taken off the larger longitude, where that is exact.
  let turns = 360.0 * round((q_lon - k_lon) / 360.0);
  let turned = select(q_lon - (k_lon + turns), (q_lon - turns) - k_lon, abs(q_lon) > vec4(abs(k_lon)));
  let lon = turned * 0.017453293;
  // 2 sin(r / 2) to 1e-8.
  let a = lat - lat * lat * lat / 24.0;
  let b = lon - lon * lon * lon / 24.0;
  let near = a * a + qc * kc * b * b;
  // A latitude a whole turn away is no near one.
  let is_near = (far < vec4(0.0036)) & (abs(lon) < vec4(0.1)) & (abs(lat) < vec4(0.1));
  let square = select(far, near, ahead & is_near);
  let half = atan_unit(sqrt(square / (4.0 - square)));
  return 114.59156 * select(1.5707964 - half, half, ahead);
}
