// Features of a row of `x`; twin: `src/ops/feature_map/cpu.rs`.

//# if kind != "identity"
// `z` is the product with a row of the projection and `half_norm` half the squared norm of
// what was projected.
fn feature(z: f32, half_norm: f32, n_features: u32) -> f32 {
//# if kind == "softmax"
  return exp(z - half_norm) / sqrt(f32(n_features));
//# elif kind == "relu"
  // This order of comparison keeps NaN, where the driver has any.
  return select(z, 0.0, z < 0.0);
//# elif kind == "gelu"
  // x/2 (1 + tanh u) = x / (1 + exp(-2u)), which is zero below -14.
  let u = 0.7978845608 * (z + 0.044715 * z * z * z);
  return select(z / (1.0 + exp(min(-2.0 * u, 87.0))), 0.0, z < -14.0);
//# elif kind == "exp"
  return exp(z);
//# elif kind == "elu"
  return select(z, exp(z) - 1.0, z < 0.0);
//# endif
}
//# endif

// Feature `f` of a row.
fn feature_of(row: u32, f: u32) -> f32 {
//# if kind == "identity"
  return params.scale * x[params.x_base + row * params.n_features + f];
//# else
  var z = 0.0;
  var norm = 0.0;
  for (var d = 0u; d < params.head_dim; d++) {
    let scaled = params.scale * x[params.x_base + row * params.head_dim + d];
    z += scaled * projection[params.projection_base + f * params.head_dim + d];
    norm += scaled * scaled;
  }
  return feature(z, 0.5 * norm, params.n_features);
//# endif
}
