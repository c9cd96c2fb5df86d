//! What distributions of counts share.

use super::special::{Level, normal_quantile};

/// The most that is counted: f64 has every whole number up to it.
const MOST: f64 = (1u64 << 53) as f64;

pub fn refuses(y: f64) -> Option<&'static str> {
    (!((0.0..=MOST).contains(&y) && y.fract() == 0.0)).then_some("a whole number from 0 to 2^53")
}

/// The least count that is at this level, searched for from where a normal distribution has it.
pub fn quantile(level: Level, mean: f64, std: f64, cdf: impl Fn(f64) -> Level) -> f64 {
    let is_reached = |k: f64| k >= 0.0 && level.is_reached(cdf(k));
    let guess = (mean + std * normal_quantile(level)).floor().max(0.0);
    let mut step = (std / 8.0).floor().max(1.0);
    // Ends that it is between: not yet, and already.
    let (mut low, mut high);
    if is_reached(guess) {
        (low, high) = (guess - step, guess);
        while is_reached(low) {
            (low, high) = (low - 2.0 * step, low);
            step *= 2.0;
        }
    } else {
        (low, high) = (guess, guess + step);
        while high < f64::MAX && !is_reached(high) {
            (low, high) = (high, high + 2.0 * step);
            step *= 2.0;
        }
    }
    low = low.max(-1.0);
    loop {
        let middle = (0.5 * low + 0.5 * high).floor();
        // Beyond 2^53 there are no numbers between neighbours.
        if middle <= low || middle >= high {
            return high.min(f64::MAX);
        }
        if is_reached(middle) { high = middle } else { low = middle }
    }
}
