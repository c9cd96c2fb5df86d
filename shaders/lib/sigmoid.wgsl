// The logistic function and the hyperbolic tangent, without overflow: exponents are clamped.
fn sigmoid(x: f32) -> f32 {
  // This order of comparison keeps NaN, where the driver has any.
  let y = 1.0 / (1.0 + exp(select(-x, 88.0, x < -88.0)));
  // What is below all normal numbers is 0, lest it be something of a factor that is large.
  return select(y, 0.0, x < -88.0);
}

fn tanh_safe(x: f32) -> f32 {
  // As above.
  return tanh(select(select(x, 15.0, x > 15.0), -15.0, x < -15.0));
}
