// Multiplies and adds, nothing else: 8 chains of 4 numbers for each thread, so that no unit waits.

@group(0) @binding(0) var<storage, read_write> data: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let at = id.x % arrayLength(&data);
  // Numbers that no compiler knows; x is close to 1, so that sums stay finite.
  let seed = data[at];
  let x = vec4(0.999) + 1e-6 * seed;
  let y = 1e-3 * seed;
  var a = seed;
  var b = seed + 1.0;
  var c = seed + 2.0;
  var d = seed + 3.0;
  var e = seed + 4.0;
  var f = seed + 5.0;
  var g = seed + 6.0;
  var h = seed + 7.0;
  for (var i = 0u; i < 256u; i++) {
    a = fma(a, x, y);
    b = fma(b, x, y);
    c = fma(c, x, y);
    d = fma(d, x, y);
    e = fma(e, x, y);
    f = fma(f, x, y);
    g = fma(g, x, y);
    h = fma(h, x, y);
    a = fma(a, x, y);
    b = fma(b, x, y);
    c = fma(c, x, y);
    d = fma(d, x, y);
    e = fma(e, x, y);
    f = fma(f, x, y);
    g = fma(g, x, y);
    h = fma(h, x, y);
  }
  let sum = a + b + c + d + e + f + g + h;
  // Never true; without it nothing need be computed.
  if (sum.x == 1e30) {
    data[at] = sum;
  }
}
