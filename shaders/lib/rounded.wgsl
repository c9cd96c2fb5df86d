// The same number, but no compiler may compute across it as if sums and products were exact: `params.zero` is
// zero, which none can know.
fn rounded(x: f32) -> f32 {
  return bitcast<f32>(bitcast<u32>(x) ^ params.zero);
}
