//! One of several classes.

use super::special::Level;

/// The logarithms of the probabilities.
pub fn ln_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let apart = |logit: &f32| f64::from(*logit) - f64::from(largest);
    let ln_sum = logits.iter().map(|logit| apart(logit).exp()).sum::<f64>().ln();
    logits.iter().map(|logit| apart(logit) - ln_sum).collect()
}

/// The logarithm of the odds of each class.
pub fn ln_odds(logits: &[f32]) -> Vec<f64> {
    // Of the only class there is they are infinite.
    let odds = |ln: f64| (ln - (-ln.exp_m1()).ln()).min(f64::MAX);
    ln_softmax(logits).into_iter().map(odds).collect()
}

/// The class that is observed, of `y` that is 1 for it and 0 for the others.
pub fn observed(y: &[f64]) -> Option<usize> {
    let class = y.iter().position(|y| *y == 1.0)?;
    y.iter().enumerate().all(|(c, y)| c == class || *y == 0.0).then_some(class)
}

/// The class at a level of all probabilities one after another.
pub fn draw(ln_probabilities: &[f64], level: Level) -> usize {
    let mut sum = 0.0;
    let reached = ln_probabilities.iter().position(|ln| {
        sum += ln.exp();
        sum > level.below
    });
    // Rounding may leave the last sum below 1.
    reached.unwrap_or(ln_probabilities.len().saturating_sub(1))
}
