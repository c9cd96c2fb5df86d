//! Attention in float64, materialised: the textbook formulas, sharing nothing with the crate.

use wgpu_attention::ops::{BiasKernel, BiasTerm, Distance};

/// A bias term of the oracle.
#[derive(Clone)]
pub struct Term {
    pub columns: std::ops::Range<usize>,
    pub distance: Distance,
    pub kernel: BiasKernel,
    pub n_basis: usize,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub c: Vec<f32>,
}

/// One call, head-major: `q [batch, heads, n_queries, head_dim]` and so on.
#[derive(Default)]
pub struct Case {
    pub batch: usize,
    pub n_heads: usize,
    pub n_queries: usize,
    pub n_keys: usize,
    pub head_dim: usize,
    pub v_dim: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub mask: Option<Vec<bool>>,
    pub n_columns: usize,
    pub q_coords: Vec<f32>,
    pub k_coords: Vec<f32>,
    pub terms: Vec<Term>,
    /// Any other function of `(q_coord, k_coord, head)`; `None` masks.
    #[allow(clippy::type_complexity)]
    pub custom: Option<Box<dyn Fn(&[f32], &[f32], usize) -> Option<f64>>>,
    pub matrix: Option<Vec<f32>>,
}

/// `None` where the pair is masked.
pub fn distance(distance: Distance, q: &[f32], k: &[f32]) -> Option<f64> {
    if q.iter().chain(k).any(|x| !x.is_finite()) {
        return None;
    }
    let (q, k): (Vec<f64>, Vec<f64>) =
        (q.iter().map(|&x| f64::from(x)).collect(), k.iter().map(|&x| f64::from(x)).collect());
    match distance {
        Distance::Euclidean => Some(q.iter().zip(&k).map(|(q, k)| (q - k).powi(2)).sum::<f64>().sqrt()),
        Distance::CausalTime => Some(k[0] - q[0]).filter(|&d| d <= 0.0),
        Distance::GreatCircle => {
            // Vincenty's formula on a sphere.
            let (lon1, lat1) = (q[0].to_radians(), q[1].to_radians());
            let (lon2, lat2) = (k[0].to_radians(), k[1].to_radians());
            let dl = (lon1 - lon2).abs();
            let x = lat2.cos() * dl.sin();
            let y = lat1.cos() * lat2.sin() - lat1.sin() * lat2.cos() * dl.cos();
            let z = lat1.sin() * lat2.sin() + lat1.cos() * lat2.cos() * dl.cos();
            Some(x.hypot(y).atan2(z).to_degrees())
        }
        other => panic!("the oracle does not know {other:?}"),
    }
}

impl Term {
    /// The same of the crate.
    pub fn bias_term(&self) -> BiasTerm {
        let parameters = [&self.a[..], &self.b, &self.c];
        let n = self.kernel.parameters().len();
        BiasTerm::built_in(self.columns.clone(), self.distance, self.kernel, &parameters[..n])
    }

    fn bias(&self, q: &[f32], k: &[f32], head: usize) -> Option<f64> {
        let d = distance(self.distance, &q[self.columns.clone()], &k[self.columns.clone()])?;
        let at = |values: &[f32], f: usize| f64::from(values.get(head * self.n_basis + f).copied().unwrap_or(0.0));
        let one = |f| {
            let (a, b, c) = (at(&self.a, f), at(&self.b, f), at(&self.c, f));
            match self.kernel {
                BiasKernel::Scalar => a * d,
                BiasKernel::Rbf => a * (-b * d * d).exp(),
                BiasKernel::Tisa => a * (-b * (d - c) * (d - c)).exp(),
                BiasKernel::Exponential => a * (-b * d).exp(),
                BiasKernel::Matern32 => {
                    let x = 3f64.sqrt() * b * d;
                    a * (1.0 + x) * (-x).exp()
                }
                other => panic!("the oracle does not know {other:?}"),
            }
        };
        Some((0..self.n_basis).map(one).sum())
    }
}

/// The values `[batch, heads, n_queries, v_dim]` and the log-sum-exp `[batch, heads, n_queries]`,
/// with zeros and `None` in rows without a key.
pub fn scan_attention(case: &Case) -> (Vec<f64>, Vec<Option<f64>>) {
    let Case { batch, n_heads, n_queries, n_keys, head_dim, v_dim, .. } = *case;
    let (mut values, mut lse) = (Vec::new(), Vec::new());
    for b in 0..batch {
        for h in 0..n_heads {
            let head = b * n_heads + h;
            for i in 0..n_queries {
                let q = &case.q[(head * n_queries + i) * head_dim..][..head_dim];
                let logit = |j: usize| -> Option<f64> {
                    if case.mask.as_ref().is_some_and(|mask| !mask[b * n_keys + j]) {
                        return None;
                    }
                    let k = &case.k[(head * n_keys + j) * head_dim..][..head_dim];
                    let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    let mut logit = dot / (head_dim as f64).sqrt();
                    let n = case.n_columns;
                    let q_coord = &case.q_coords[(b * n_queries + i) * n..][..n];
                    let k_coord = &case.k_coords[(b * n_keys + j) * n..][..n];
                    for term in &case.terms {
                        logit += term.bias(q_coord, k_coord, h)?;
                    }
                    if let Some(custom) = &case.custom {
                        logit += custom(q_coord, k_coord, h)?;
                    }
                    if let Some(matrix) = &case.matrix {
                        let x = matrix[(head * n_queries + i) * n_keys + j];
                        logit += Some(f64::from(x)).filter(|x| x.is_finite())?;
                    }
                    Some(logit)
                };
                let logits: Vec<Option<f64>> = (0..n_keys).map(logit).collect();
                let largest = logits.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = logits.iter().map(|l| l.map_or(0.0, |l| (l - largest).exp())).collect();
                let total: f64 = weights.iter().sum();
                lse.push((total > 0.0).then(|| largest + total.ln()));
                for d in 0..v_dim {
                    let sum: f64 = weights
                        .iter()
                        .enumerate()
                        .filter(|(_, weight)| **weight > 0.0)
                        .map(|(j, weight)| weight * f64::from(case.v[(head * n_keys + j) * v_dim + d]))
                        .sum();
                    values.push(if total > 0.0 { sum / total } else { 0.0 });
                }
            }
        }
    }
    (values, lse)
}

/// `[batch, heads, length, dim]` to `[batch, length, heads * dim]`.
pub fn projected<T: Copy>(x: &[T], [batch, heads, length, dim]: [usize; 4]) -> Vec<T> {
    let mut y = Vec::with_capacity(x.len());
    for b in 0..batch {
        for i in 0..length {
            for h in 0..heads {
                y.extend_from_slice(&x[((b * heads + h) * length + i) * dim..][..dim]);
            }
        }
    }
    y
}
