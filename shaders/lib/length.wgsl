// Lengths of vectors whose squares may overflow.
//# include "lib/finite.wgsl"

// A vector with a number beyond this, or whose square is beyond that, is shrunk before it is squared.
const LARGE: f32 = 1e15;
const LARGE_SQUARE: f32 = 1e37;

// 2^-80 x, if that is asked for. By bits: of a power of two and an inverse length a compiler may make one
// factor, which is below all normal numbers where those of the vector are at the end of f32.
fn shrunk(x: f32, is_large: bool) -> f32 {
  let bits = bitcast<u32>(x);
  let exponent = bits & 0x7f800000u;
  if (!is_large || exponent == 0x7f800000u) {
    return x;
  }
  return select(0.0, bitcast<f32>(bits - 0x28000000u), exponent > 0x28000000u);
}

// What a vector, shrunk where it is large, is multiplied by to have length one, 1e12 at most; NaN where its
// squares are not finite.
fn inverse_length(squares: f32, any: u32) -> f32 {
  let length = sqrt(squares);
  let inverse = select(1.0 / length, 1e12, length < 1e-12);
  return select(not_a_number(any), inverse, finite(squares));
}
