//! Functions to be minimised, each known by its least value.

use std::f64::consts::{E, PI, TAU};

/// A function on a box.
pub struct Function {
    pub name: &'static str,
    /// The lower and the upper end of each coordinate.
    pub domain: &'static [[f64; 2]],
    pub value: fn(&[f64]) -> f64,
    pub least: f64,
    /// The standard deviation of what is added to each evaluation.
    pub noise: f64,
}

/// Gramacy and Lee 2012; Branin; Ackley; and Branin again, seen through noise.
pub const FUNCTIONS: [Function; 4] = [
    Function {
        name: "Gramacy & Lee",
        domain: &[[0.5, 2.5]],
        value: gramacy_lee,
        least: -0.869_011_134_989_500_3,
        noise: 0.0,
    },
    Function {
        name: "Branin",
        domain: &[[-5.0, 10.0], [0.0, 15.0]],
        value: branin,
        least: 0.397_887_357_729_738_2,
        noise: 0.0,
    },
    Function { name: "Ackley", domain: &[[-4.0, 6.0], [-3.0, 7.0]], value: ackley, least: 0.0, noise: 0.0 },
    Function {
        name: "Branin, noisy",
        domain: &[[-5.0, 10.0], [0.0, 15.0]],
        value: branin,
        least: 0.397_887_357_729_738_2,
        noise: 5.0,
    },
];

fn gramacy_lee(x: &[f64]) -> f64 {
    (10.0 * PI * x[0]).sin() / (2.0 * x[0]) + (x[0] - 1.0).powi(4)
}

fn branin(x: &[f64]) -> f64 {
    let bend = x[1] - 5.1 / (4.0 * PI * PI) * x[0] * x[0] + 5.0 / PI * x[0] - 6.0;
    bend * bend + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x[0].cos() + 10.0
}

fn ackley(x: &[f64]) -> f64 {
    let n = x.len() as f64;
    let size = (x.iter().map(|x| x * x).sum::<f64>() / n).sqrt();
    let waves = x.iter().map(|x| (TAU * x).cos()).sum::<f64>() / n;
    20.0 + E - 20.0 * (-0.2 * size).exp() - waves.exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_point_of_a_fine_grid_is_below_the_least_value() {
        for function in &FUNCTIONS {
            let n: u32 = if function.domain.len() == 1 { 200_000 } else { 800 };
            let along = |[low, high]: [f64; 2], i: u32| low + (high - low) * f64::from(i) / f64::from(n);
            let mut found = f64::INFINITY;
            for i in 0..=n {
                for j in 0..=if function.domain.len() == 1 { 0 } else { n } {
                    let x: Vec<_> = function.domain.iter().zip([i, j]).map(|(ends, i)| along(*ends, i)).collect();
                    found = found.min((function.value)(&x));
                }
            }
            assert!(found >= function.least - 1e-12 && found < function.least + 0.02, "{}: {found}", function.name);
        }
    }
}
