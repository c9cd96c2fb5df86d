// The logistic function and the hyperbolic tangent, without overflow: exponents are clamped.
fn sigmoid(x: f32) -> f32 {
  let y = 1.0 / (1.0 + exp(min(-x, 88.0)));
  // What is below all normal numbers is 0, lest it be something of a factor that is large.
  return select(select(y, 0.0, x < -88.0), x, is_nan(x));
}

fn tanh_safe(x: f32) -> f32 {
  return select(tanh(clamp(x, -15.0, 15.0)), x, is_nan(x));
}

// By bits: minima lose NaN, and compilers make them of comparisons, too.
fn is_nan(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}
