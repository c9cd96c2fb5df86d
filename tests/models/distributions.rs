//! Predictions as distributions: against SciPy, against themselves, with parameters and observations that
//! are as far out as can be.

use wgpu_attention::{
    Error, Result,
    models::{Output, Prediction},
};

/// Every family, and a head's numbers that make an ordinary distribution.
const ORDINARY: [(Output, [f32; 2]); 7] = [
    (Output::Gaussian { min_std: 0.1 }, [0.5, -1.0]),
    (Output::GaussianLogStd, [-2.0, 0.5]),
    (Output::Bernoulli, [0.75, 0.0]),
    (Output::Poisson, [3.5, 0.0]),
    (Output::ZeroInflatedPoisson, [-0.5, 5.0]),
    (Output::NegativeBinomial, [6.0, 1.5]),
    (Output::Beta, [1.5, 3.0]),
];

fn one(output: Output, [a, b]: [f32; 2]) -> Prediction {
    let numbers = [a, b][..output.n_parameters(1)].to_vec();
    Prediction::new(output, [1, 1, 1], numbers).unwrap()
}

fn named(name: &str) -> Output {
    match name {
        "gaussian" => Output::Gaussian { min_std: 0.0 },
        "gaussian_log_std" => Output::GaussianLogStd,
        "bernoulli" => Output::Bernoulli,
        "poisson" => Output::Poisson,
        "zero_inflated_poisson" => Output::ZeroInflatedPoisson,
        "negative_binomial" => Output::NegativeBinomial,
        "beta" => Output::Beta,
        _ => panic!("{name} is no family"),
    }
}

fn is_count(output: Output) -> bool {
    matches!(output, Output::Poisson | Output::ZeroInflatedPoisson | Output::NegativeBinomial)
}

fn is_discrete(output: Output) -> bool {
    is_count(output) || output == Output::Bernoulli
}

/// Numbers that can be observed, from the least to the largest.
fn possible(output: Output) -> Vec<f64> {
    match output {
        Output::Bernoulli => vec![0.0, 1.0],
        Output::Beta => vec![1e-30, 1e-6, 0.5, 1.0 - 1e-6, 1.0 - 1e-15],
        _ if is_count(output) => vec![0.0, 1.0, 2.0, 1000.0, 1e9, 9e15],
        _ => vec![-1e30, -1.0, 0.0, 1e-20, 1e30],
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
    let message = result.expect_err("it was accepted").to_string();
    parts.iter().for_each(|part| assert!(message.contains(part), "{message:?} lacks {part:?}"));
}

#[test]
fn values_are_those_of_scipy() {
    let mut n_rows = 0;
    for line in include_str!("distributions/values.csv").lines().skip(1) {
        let mut fields = line.split(',');
        let (family, mut number) = (fields.next().unwrap(), || fields.next().unwrap());
        let [a, b] = [number().parse::<f32>().unwrap(), number().parse().unwrap()];
        let (what, at, value) = (number(), number().parse::<f64>().unwrap(), number().parse::<f64>().unwrap());
        let prediction = one(named(family), [a, b]);
        let found = match what {
            "mean" => f64::from(prediction.mean()[0]),
            "std" => f64::from(prediction.std()[0]),
            "log_density" => prediction.log_density(&[at]).unwrap()[0],
            "cdf" => prediction.cdf(&[at]).unwrap()[0],
            "quantile" => prediction.quantile(at).unwrap()[0],
            "crps" => prediction.crps(&[at]).unwrap()[0],
            _ => panic!("{what} is nothing"),
        };
        // Scores are in the unit of the values.
        let unit = if what == "crps" { f64::from(prediction.std()[0]).clamp(1e-300, 1.0) } else { 1.0 };
        let off = (found - value).abs() / (unit + value.abs());
        assert!(off <= 1e-6, "{line}: {found} is off by {off:.1e}");
        n_rows += 1;
    }
    assert!(n_rows > 900);
}

/// Where a beta distribution is narrow it is a normal one.
#[test]
fn narrow_betas_score_as_normal_ones() {
    for numbers in [[1e6f32, 3e6], [1e13, 3e13], [1e16, 1e16], [1e18, 1e17], [3e23, 1e23]] {
        let [a, b] = numbers.map(f64::from);
        let std = (a * b / (a + b + 1.0)).sqrt() / (a + b);
        let found = one(Output::Beta, numbers).crps(&[a / (a + b)]).unwrap()[0] / std;
        let expected = 2.0 / std::f64::consts::TAU.sqrt() - 1.0 / std::f64::consts::PI.sqrt();
        assert!((found - expected).abs() < 1e-5, "{numbers:?}: {found}, {expected}");
    }
    // What is observed may be so far out that no number says how many deviations.
    let far = one(Output::GaussianLogStd, [0.0, -87.0]);
    assert!((far.crps(&[1e271]).unwrap()[0] / 1e271 - 1.0).abs() < 1e-12);
}

#[test]
fn quantiles_invert_the_cdf() {
    for (output, numbers) in ORDINARY {
        let prediction = one(output, numbers);
        for p in [1e-12, 0.001, 0.025, 0.3, 0.5, 0.9, 0.975, 1.0 - 1e-9] {
            let x = prediction.quantile(p).unwrap()[0];
            let cdf = prediction.cdf(&[x]).unwrap()[0];
            if is_discrete(output) {
                let before = if x > 0.0 { prediction.cdf(&[x - 1.0]).unwrap()[0] } else { 0.0 };
                assert!(before < p && p <= cdf * (1.0 + 1e-12), "{output:?}, {p}: {x} from {before} to {cdf}");
            } else {
                assert!((cdf - p).abs() <= 1e-10 * p, "{output:?}, {p}: {x} has {cdf}");
            }
        }
        let [low, high] = prediction.interval(0.9).unwrap();
        let ends = [prediction.quantile(0.05).unwrap()[0], prediction.quantile(0.95).unwrap()[0]];
        assert!((low[0] - ends[0]).abs() < 1e-12 && (high[0] - ends[1]).abs() < 1e-12, "{output:?}");
    }
}

#[test]
fn densities_add_up_to_one_and_are_slopes_of_the_cdf() {
    for (output, numbers) in ORDINARY {
        let prediction = one(output, numbers);
        let density = |y: f64| prediction.log_density(&[y]).unwrap()[0].exp();
        let cdf = |y: f64| prediction.cdf(&[y]).unwrap()[0];
        if is_discrete(output) {
            let last = if output == Output::Bernoulli { 1 } else { 400 };
            let mut sum = 0.0;
            for k in 0..=last {
                sum += density(f64::from(k));
                assert!((sum - cdf(f64::from(k))).abs() < 1e-12, "{output:?} up to {k}");
            }
            assert!((sum - 1.0).abs() < 1e-12, "{output:?}: {sum}");
            continue;
        }
        // Simpson's rule between the quantiles.
        let (low, high) = (prediction.quantile(1e-9).unwrap()[0], prediction.quantile(1.0 - 1e-9).unwrap()[0]);
        let n = 20_000;
        let step = (high - low) / f64::from(n);
        let at = |i: i32| density(low + f64::from(i) * step) * if i % 2 == 1 { 4.0 } else { 2.0 };
        let sum = ((1..n).map(at).sum::<f64>() + density(low) + density(high)) * step / 3.0;
        assert!((sum - 1.0).abs() < 1e-7, "{output:?}: {sum}");
    }
}

#[test]
fn draws_have_the_predicted_moments_and_follow_the_seed() {
    let n = 40_000;
    for (output, numbers) in ORDINARY {
        let prediction = one(output, numbers);
        let drawn = prediction.sample(5, n).unwrap();
        let [mean, std] = [prediction.mean()[0], prediction.std()[0]].map(f64::from);
        let found = drawn.iter().sum::<f64>() / n as f64;
        assert!((found - mean).abs() < 5.0 * std / (n as f64).sqrt(), "{output:?}: {found} for {mean}");
        let squares = drawn.iter().map(|y| (y - mean).powi(2));
        let (variance, fourth) =
            (squares.clone().sum::<f64>() / n as f64, squares.map(|x| x * x).sum::<f64>() / n as f64);
        let error = ((fourth - std.powi(4)) / n as f64).sqrt();
        assert!((variance - std * std).abs() < 5.0 * error, "{output:?}: {variance} for {}", std * std);
        // The score of what was drawn is half the mean distance of two draws.
        let crps = drawn[..2000].iter().map(|y| prediction.crps(&[*y]).unwrap()[0]).sum::<f64>() / 2000.0;
        let apart = drawn.chunks(2).map(|pair| (pair[0] - pair[1]).abs()).sum::<f64>() / (n / 2) as f64;
        assert!((crps - 0.5 * apart).abs() < 0.05 * std, "{output:?}: {crps} for {}", 0.5 * apart);
        prediction.log_density(&drawn[..1]).unwrap();
        assert_eq!(drawn[..7], prediction.sample(5, 7).unwrap(), "{output:?}");
        assert_ne!(drawn[..7], prediction.sample(6, 7).unwrap(), "{output:?}");
        assert!(prediction.sample(5, 0).unwrap().is_empty());
    }
    let two = Prediction::new(Output::GaussianLogStd, [2, 1, 1], vec![0.0; 4]).unwrap().sample(1, 3).unwrap();
    assert!(two[0] != two[1] && two[..4] != two[2..], "elements and draws share no numbers: {two:?}");
}

#[test]
fn classes_have_the_probabilities_of_their_logits() {
    let numbers = vec![1.0, 2.0, -1.0, 1e4, -1e4, 0.0];
    let prediction = Prediction::new(Output::Categorical, [1, 2, 3], numbers).unwrap();
    let sum = 1f64.exp() + 2f64.exp() + (-1f64).exp();
    for (mean, logit) in prediction.mean().iter().zip([1f64, 2.0, -1.0]) {
        assert!((f64::from(*mean) - logit.exp() / sum).abs() < 1e-7);
    }
    assert_eq!(prediction.mean()[3..], [1.0, 0.0, 0.0]);
    let y = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0];
    let log_density = prediction.log_density(&y).unwrap();
    assert!((log_density[0] - (2.0 - sum.ln())).abs() < 1e-12 && (log_density[1] + 2e4).abs() < 1e-9);
    let brier: f64 = prediction.crps(&y).unwrap()[..3].iter().sum();
    let expected: f64 = [1f64, 2.0, -1.0].iter().zip(y).map(|(logit, y)| (logit.exp() / sum - y).powi(2)).sum();
    assert!((brier - expected).abs() < 1e-12);
    let n = 20_000;
    let drawn = prediction.sample(3, n).unwrap();
    for class in 0..3 {
        let share = drawn.iter().skip(class).step_by(6).sum::<f64>() / n as f64;
        assert!((share - f64::from(prediction.mean()[class])).abs() < 0.02, "class {class}: {share}");
    }
    assert!(drawn.chunks(6).all(|draw| draw[3..] == [1.0, 0.0, 0.0]));
    refused(prediction.quantile(0.5), &["categorical", "no order"]);
    refused(prediction.interval(0.5), &["categorical", "no order"]);
    refused(prediction.cdf(&y), &["categorical", "no order"]);
    refused(prediction.log_density(&[0.5, 0.5, 0.0, 1.0, 0.0, 0.0]), &["point 0", "1 for its class"]);
    refused(prediction.log_density(&[0.0, 1.0, 0.0, 1.0, 1.0, 0.0]), &["point 1", "1 for its class"]);
    let only = Prediction::new(Output::Categorical, [1, 1, 1], vec![3.0]).unwrap();
    assert_eq!((only.mean()[0], only.std()[0], only.log_density(&[1.0]).unwrap()[0]), (1.0, 0.0, 0.0));
}

#[test]
fn whatever_a_head_returns_is_finite() {
    let far = [0.0, 1e-6, -1e-6, 40.0, -40.0, 1e4, -1e4, 1e9, -1e9, 1e18, -1e30];
    for (output, _) in ORDINARY {
        for (a, b) in far.iter().flat_map(|a| far.map(|b| (*a, b))) {
            let numbers = [a, b][..output.n_parameters(1)].to_vec();
            let prediction = match Prediction::new(output, [1, 1, 1], numbers) {
                Ok(prediction) => prediction,
                Err(error) => {
                    // e^40 is a standard deviation, e^10000 is none; nor is one of 1e56.
                    let is_too_large = output == Output::GaussianLogStd && b > 88.0;
                    assert!(is_too_large || output == Output::NegativeBinomial, "{output:?} of {a}, {b}: {error}");
                    assert!(matches!(error, Error::Prediction { .. }), "{error}");
                    continue;
                }
            };
            let what = format!("{output:?} of {a} and {b}");
            assert!(prediction.mean()[0].is_finite() && prediction.std()[0].is_finite(), "{what}");
            for p in [1e-300, 1e-9, 0.5, 1.0 - 1e-15] {
                let x = prediction.quantile(p).unwrap()[0];
                assert!(x.is_finite(), "{what}: {x} at {p}");
            }
            for y in possible(output) {
                let [log_density, cdf, crps] =
                    [prediction.log_density(&[y]), prediction.cdf(&[y]), prediction.crps(&[y])].map(|x| x.unwrap()[0]);
                assert!(
                    log_density.is_finite() && !crps.is_nan() && crps.is_finite(),
                    "{what} at {y}: {log_density}, {crps}"
                );
                assert!((0.0..=1.0).contains(&cdf), "{what} at {y}: {cdf}");
                assert!(crps >= -1e-6 * (1.0 + f64::from(prediction.std()[0])), "{what} at {y}: {crps}");
            }
            let drawn = prediction.sample(0, 3).unwrap();
            assert!(drawn.iter().all(|y| y.is_finite()), "{what}: {drawn:?}");
        }
    }
}

#[test]
fn large_counts_and_lopsided_shares_are_quick() {
    let start = std::time::Instant::now();
    for mean in [1e9, 1e12, 1e30] {
        for (output, b) in [(Output::Poisson, 0.0), (Output::NegativeBinomial, 1e-3), (Output::NegativeBinomial, 1e9)] {
            let prediction = one(output, [mean, b]);
            let median = prediction.quantile(0.5).unwrap()[0];
            assert!(median <= f64::from(mean) * 1.001, "{output:?} of {mean}: {median}");
            prediction.crps(&[1e9]).unwrap();
        }
    }
    for (alpha, beta) in [(1e-6f32, 1e6f32), (1e6, 1e-6), (1e-6, 1e-6), (1e9, 1e9)] {
        let inverse = |x: f32| if x < 1.0 { x.ln() } else { x };
        let prediction = one(Output::Beta, [inverse(alpha), inverse(beta)]);
        let [low, high] = prediction.interval(0.5).unwrap();
        assert!(low[0] > 0.0 && low[0] <= high[0] && high[0] < 1.0, "{alpha}, {beta}: {low:?} to {high:?}");
        prediction.log_density(&[low[0]]).unwrap();
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

#[test]
fn what_cannot_be_observed_or_asked_is_refused() {
    let wrong: [(Output, &[f64], &str); 5] = [
        (Output::Bernoulli, &[0.5, -1.0, 2.0], "0 or 1"),
        (Output::Poisson, &[-1.0, 0.5, 1e17], "a whole number from 0"),
        (Output::NegativeBinomial, &[-1.0, 1e-3], "a whole number from 0"),
        (Output::Beta, &[0.0, 1.0, -0.1, 1.5], "above 0 and below 1"),
        (Output::GaussianLogStd, &[], "a finite number"),
    ];
    for (output, observations, allowed) in wrong {
        let prediction = one(output, [0.5, 0.5]);
        for y in observations.iter().copied().chain([f64::NAN, f64::INFINITY, f64::NEG_INFINITY]) {
            refused(prediction.log_density(&[y]), &[allowed, "point 0", output.name()]);
            refused(prediction.cdf(&[y]), &[allowed]);
            refused(prediction.crps(&[y]), &[allowed]);
        }
        refused(prediction.log_density(&[0.5f32, 0.5]), &["[1, 1, 1]", "holds 2"]);
        refused(prediction.crps(&[0.0f32; 0]), &["holds 0"]);
        for p in [0.0, 1.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
            refused(prediction.quantile(p), &["p is", "above 0 and below 1"]);
            refused(prediction.interval(p), &["probability is", "above 0 and below 1"]);
        }
    }
    refused(Prediction::new(Output::Poisson, [1, 2, 1], vec![0.0]), &["[1, 2, 1]"]);
    refused(Prediction::new(Output::Beta, [1, 2, 1], vec![0.0, 0.0, 0.0, f32::NAN]), &["NaN", "point 1"]);
    refused(Prediction::new(Output::Gaussian { min_std: -0.5 }, [1, 0, 1], vec![]), &["min_std is -0.5"]);
    refused(Prediction::new(Output::Poisson, [usize::MAX, 2, 1], vec![0.0]), &["holds 1"]);
    refused(Prediction::new(Output::Poisson, [0, 1, usize::MAX], vec![]), &["numbers of one tensor"]);
    for output in [Output::Beta, Output::Categorical, Output::GaussianLogStd] {
        for shape in [[1, 0, 3], [0, 4, 1]] {
            let none = Prediction::new(output, shape, Vec::new()).unwrap();
            assert!(none.mean().is_empty() && none.sample(0, 5).unwrap().is_empty(), "{output:?} {shape:?}");
            assert!(none.crps(&[0.0; 0]).unwrap().is_empty());
            assert!(none.log_density(&[0.0; 0]).unwrap().is_empty());
        }
        refused(Prediction::new(output, [2, 5, 0], Vec::new()), &["n_values is 0", "1 or more"]);
    }
}

#[test]
fn units_are_those_of_gaussians() {
    let scaled = Prediction::new(Output::GaussianLogStd, [1, 1, 2], vec![0.5, -1.0, 0.0, 1.0]).unwrap();
    let there = scaled.in_units(&[10.0, 2.0], &[280.0, 1.0]).unwrap();
    let y = [283.0, 4.0];
    let back = [(y[0] - 280.0) / 10.0, (y[1] - 1.0) / 2.0];
    let density = scaled.log_density(&back).unwrap()[0] - 20f64.ln();
    assert!((there.log_density(&y).unwrap()[0] - density).abs() < 1e-12);
    let (a, b) = (there.crps(&y).unwrap(), scaled.crps(&back).unwrap());
    assert!((a[0] - 10.0 * b[0]).abs() < 1e-12 && (a[1] - 2.0 * b[1]).abs() < 1e-12);
    let (a, b) = (there.sample(1, 5).unwrap(), scaled.sample(1, 5).unwrap());
    assert!(a.chunks(2).zip(b.chunks(2)).all(|(a, b)| (a[0] - 280.0 - 10.0 * b[0]).abs() < 1e-9));
    let twice = there.in_units(&[0.1, 0.5], &[-28.0, -0.5]).unwrap();
    assert!(twice.mean().iter().zip(scaled.mean()).all(|(a, b)| (a - b).abs() < 1e-6));
    refused(there.in_units(&[1.0], &[0.0, 0.0]), &["2 positive numbers"]);
    refused(there.in_units(&[1.0, 0.0], &[0.0, 0.0]), &["positive"]);
    refused(there.in_units(&[1.0, 1.0], &[0.0, f64::NAN]), &["finite"]);
    refused(one(Output::Poisson, [1.0, 0.0]).in_units(&[1.0], &[0.0]), &["poisson", "no units"]);
}
