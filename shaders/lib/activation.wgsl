// What follows a dense layer; twin: `src/ops/linear/cpu.rs`.
//# if activation == "none"
fn activate(x: vec4<f32>) -> vec4<f32> {
  return x;
}
//# elif activation == "relu"
//# include "lib/relu.wgsl"

fn activate(x: vec4<f32>) -> vec4<f32> {
  return relu(x);
}
//# elif activation == "gelu_tanh"
// x/2 (1 + tanh u) = x / (1 + exp(-2u)); the exponent is clamped so that nothing overflows.
fn activate(x: vec4<f32>) -> vec4<f32> {
  let u = 0.7978845608 * (x + 0.044715 * x * x * x);
  let y = x / (1.0 + exp(min(-2.0 * u, vec4(87.0))));
  // There the clamped exponential is not small enough.
  return select(y, vec4(0.0), x < vec4(-14.0));
}
//# elif activation == "gelu_erf"
// max(x, 0) - |x|/2 erfc(|x| / sqrt 2), with erfc by Abramowitz & Stegun 7.1.26 (absolute error
// 1.5e-7); beyond 14 the last is zero.
fn activate(x: vec4<f32>) -> vec4<f32> {
  let size = select(abs(x), vec4(0.0), abs(x) > vec4(14.0));
  let z = size * 0.7071067812;
  let t = 1.0 / (1.0 + 0.3275911 * z);
  let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return select(x, vec4(0.0), x < vec4(0.0)) - size * (0.5 * p * exp(-z * z));
}
//# endif
