// What is not finite, by bits: shaders may assume that NaN and infinity do not exist.
fn finite(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

// Whether a logit leaves nothing of its row: NaN, or infinite and no maximum to subtract. One that
// is minus infinity has no weight.
fn is_lost(x: f32) -> bool {
  return !finite(x) && bitcast<u32>(x) != 0xff800000u;
}

// NaN, if bits are only known when the shader runs.
fn not_a_number(any: u32) -> f32 {
  return bitcast<f32>(any | 0x7fc00000u);
}
