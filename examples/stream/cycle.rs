//! A yardstick that is told the cycle, too: the last value, and what changed at that time one cycle ago.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::saved::Exact;

/// Observations of one cycle that are kept: with more of them nothing is said, so that memory stays constant.
const MAX_KEPT: usize = 1024;

/// The observations of the last cycle.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastCycle {
    /// Times and values, the oldest first: the first one, and no other, may be more than a cycle old.
    seen: VecDeque<(Exact, Vec<Exact>)>,
}

impl LastCycle {
    /// Takes an observation in. Where time goes back or too many are in one cycle, it begins anew.
    pub fn add(&mut self, length: f64, time: f64, values: &[f64]) {
        let goes_on = self.seen.back().is_none_or(|(last, _)| last.0 <= time);
        if !goes_on || self.seen.len() == MAX_KEPT {
            self.seen.clear();
        }
        self.seen.push_back((Exact(time), values.iter().copied().map(Exact).collect()));
        while self.seen.len() > 1 && self.seen[1].0.0 <= time - length {
            self.seen.pop_front();
        }
    }

    /// What values at a time will be; `None` where a cycle ago is not known, of that time or of the last.
    pub fn forecast(&self, length: f64, time: f64) -> Option<Vec<f64>> {
        let (last, values) = self.seen.back()?;
        let before = self.at(last.0 - length)?.into_iter().zip(self.at(time - length)?);
        Some(values.iter().zip(before).map(|(value, (from, to))| value.0 + to - from).collect())
    }

    /// Values on the straight line between the two observations around a time.
    fn at(&self, time: f64) -> Option<Vec<f64>> {
        let after = self.seen.partition_point(|(other, _)| other.0 <= time);
        let (start, from) = self.seen.get(after.checked_sub(1)?)?;
        if start.0 == time {
            return Some(from.iter().map(|value| value.0).collect());
        }
        let (end, to) = self.seen.get(after)?;
        let share = (time - start.0) / (end.0 - start.0);
        Some(from.iter().zip(to).map(|(from, to)| from.0 + share * (to.0 - from.0)).collect())
    }
}
