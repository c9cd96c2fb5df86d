//! How many of some test samples are classified right.

use crate::{
    error::{Error, Result, check_argument},
    tensor::check_finite,
};

/// Shares of test samples, from 0 to 1; NaN where there are none.
///
/// ```
/// use wgpu_attention::models::nam::Accuracy;
///
/// # fn main() -> wgpu_attention::Result<()> {
/// // Two samples, of the base class 0 and of the novel class 1; both are taken for 0.
/// let accuracy = Accuracy::new(&[0.9, 0.1, 0.6, 0.4], &[0, 1], 1)?;
/// assert_eq!((accuracy.both, accuracy.false_novel, accuracy.false_base), (0.5, 0.0, 1.0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// All samples, among all classes: the authors' AccuracyBoth.
    pub both: f64,
    /// Samples of base classes, among base classes.
    pub base: f64,
    /// Samples of novel classes, among novel classes.
    pub novel: f64,
    /// Samples of base classes that are taken for a novel one: false positives.
    pub false_novel: f64,
    /// Samples of novel classes that are taken for a base one.
    pub false_base: f64,
}

impl Accuracy {
    /// Counts `scores [n, classes]` against the class of each sample; the first `n_base` classes
    /// are base classes.
    ///
    /// # Errors
    /// Scores that do not fill their shape or are not finite; classes that do not exist.
    pub fn new(scores: &[f32], classes: &[usize], n_base: usize) -> Result<Self> {
        let n_classes = scores.len() / classes.len().max(1);
        let fits = n_base < n_classes && scores.len() == classes.len() * n_classes;
        let found = format_args!("{} for {} samples", scores.len(), classes.len());
        let allowed = format_args!("one for each sample and class, of which more than {n_base}");
        check_argument(fits, "Accuracy::new", "scores", found, allowed)?;
        if let Some(class) = classes.iter().find(|class| **class >= n_classes) {
            return Err(Error::argument("Accuracy::new", "class", class, format!("0 to {}", n_classes - 1)));
        }
        check_finite("scores", scores)?;
        let best = |scores: &[f32]| {
            scores
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best })
                .0
        };
        // Right among all, right among its own kind, taken for the other kind.
        let (mut right, mut own, mut wrong, mut n) = (0, [0; 2], [0; 2], [0; 2]);
        for (scores, &class) in scores.chunks_exact(n_classes).zip(classes) {
            let kind = usize::from(class >= n_base);
            let found = best(scores);
            let among = if kind == 0 { best(&scores[..n_base]) } else { n_base + best(&scores[n_base..]) };
            n[kind] += 1;
            right += usize::from(found == class);
            own[kind] += usize::from(among == class);
            wrong[kind] += usize::from((found >= n_base) != (kind == 1));
        }
        let share = |count: usize, n: usize| count as f64 / n as f64;
        Ok(Self {
            both: share(right, classes.len()),
            base: share(own[0], n[0]),
            novel: share(own[1], n[1]),
            false_novel: share(wrong[0], n[0]),
            false_base: share(wrong[1], n[1]),
        })
    }
}
