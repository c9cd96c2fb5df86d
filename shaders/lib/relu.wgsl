// By bits: of a comparison and a choice compilers make a maximum, which loses NaN.
fn relu(x: vec4<f32>) -> vec4<f32> {
  let is_negative = bitcast<vec4<u32>>(x) - vec4(0x80000000u) <= vec4(0x7f800000u);
  return select(x, vec4(0.0), is_negative);
}
