//! Which observations lie near some places: places that lie close together share them.

use kdtree::{KdTree, distance::squared_euclidean};

use super::frame::Cloud;
use crate::ops::Distance;

/// Points as a k-d tree sees them, in which the straight distance is the one that counts.
pub(crate) struct Positions {
    dim: usize,
    /// `[n, dim]`.
    numbers: Vec<f64>,
}

impl Positions {
    /// Of one data set. Points of a sphere are those of the unit ball's surface, where the order of
    /// straight distances is that of great circles; each column is multiplied by its weight.
    pub fn new(cloud: &Cloud<'_>, weights: &[f64]) -> Self {
        let mut numbers = Vec::new();
        for i in 0..cloud.n {
            for (column, weight) in cloud.columns.iter().zip(weights) {
                match (column.distance, column.index) {
                    (Some(Distance::GreatCircle), 0) => {}
                    (Some(Distance::GreatCircle), _) => {
                        let longitude = column.numbers.get(i * column.dim).to_radians();
                        let latitude = column.at(i).to_radians();
                        let (sin, cos) = longitude.sin_cos();
                        numbers
                            .extend([cos * latitude.cos(), sin * latitude.cos(), latitude.sin()].map(|x| weight * x));
                    }
                    _ => numbers.push(weight * column.at(i)),
                }
            }
        }
        Self { dim: numbers.len() / cloud.n.max(1), numbers }
    }

    /// The largest number of some points.
    pub fn farthest(&self, mut points: impl Iterator<Item = usize>) -> f64 {
        let numbers = points.by_ref().flat_map(|i| self.at(i));
        numbers.fold(0.0, |most, x| most.max(x.abs()))
    }

    fn at(&self, i: usize) -> &[f64] {
        &self.numbers[i * self.dim..][..self.dim]
    }

    fn middle(&self, points: &[usize]) -> Vec<f64> {
        let mean = |d: usize| points.iter().map(|&i| self.at(i)[d]).sum::<f64>() / points.len() as f64;
        (0..self.dim).map(mean).collect()
    }

    /// The dimension that some points spread most in.
    fn widest(&self, points: &[usize]) -> usize {
        let spread = |d: usize| {
            let of = |ends: (f64, f64), &i: &usize| (ends.0.min(self.at(i)[d]), ends.1.max(self.at(i)[d]));
            let (low, high) = points.iter().fold((f64::INFINITY, f64::NEG_INFINITY), of);
            high - low
        };
        (0..self.dim).max_by(|a, b| spread(*a).total_cmp(&spread(*b))).unwrap_or(0)
    }
}

/// Some places, and the observations that they are predicted from: indices into the locations and the
/// context that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbourhood {
    /// In the order in which they are predicted.
    pub places: Vec<usize>,
    /// From the nearest to the farthest.
    pub observations: Vec<usize>,
}

/// Neighbourhoods of all places. Places are halved, at the median of the dimension in which they spread
/// most, until at most `together` are left that lie within half of the reach of their observations: the
/// `nearest` ones to the middle of those places. Only observations in `seen` are taken, and of those only
/// the ones that may count for all of the places, which are parted where so there are too few and one of them may have
/// more.
pub(crate) fn neighbourhoods(
    observed: &Positions,
    seen: impl Iterator<Item = usize>,
    places: &Positions,
    n_places: usize,
    [nearest, together]: [usize; 2],
    counts: impl Fn(usize, &[usize]) -> bool,
) -> Vec<Neighbourhood> {
    let mut tree = KdTree::new(observed.dim);
    let seen: Vec<usize> = seen.collect();
    for &i in &seen {
        tree.add(observed.at(i), i).expect("coordinates are finite and as many as the tree has");
    }
    let misses =
        |group: &[usize]| seen.iter().any(|&i| !counts(i, group) && group.iter().any(|&one| counts(i, &[one])));
    let mut found = Vec::new();
    let mut waiting: Vec<Vec<usize>> = vec![(0..n_places).collect()];
    while let Some(mut group) = waiting.pop() {
        if group.len() <= together && !group.is_empty() {
            let middle = places.middle(&group);
            let by_distance = tree.iter_nearest(&middle, &squared_euclidean).expect("coordinates are finite");
            let near: Vec<_> = by_distance.filter(|(_, i)| counts(**i, &group)).take(nearest).collect();
            let reach = near.last().map_or(f64::INFINITY, |(squared, _)| *squared);
            let radius = group.iter().map(|&i| squared_euclidean(places.at(i), &middle)).fold(0.0, f64::max);
            if group.len() == 1 || radius <= 0.25 * reach && (near.len() == nearest || !misses(&group)) {
                found.push(Neighbourhood { places: group, observations: near.iter().map(|(_, i)| **i).collect() });
                continue;
            }
        }
        if group.is_empty() {
            continue;
        }
        let (d, half) = (places.widest(&group), group.len() / 2);
        group.select_nth_unstable_by(half, |a, b| places.at(*a)[d].total_cmp(&places.at(*b)[d]).then(a.cmp(b)));
        let right = group.split_off(half);
        waiting.extend([right, group]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(dim: usize, numbers: &[f64]) -> Positions {
        Positions { dim, numbers: numbers.to_vec() }
    }

    #[test]
    fn every_place_is_in_one_neighbourhood_of_its_nearest_observations() {
        let grid: Vec<f64> = (0..900).flat_map(|i| [f64::from(i % 30), f64::from(i / 30)]).collect();
        let asked: Vec<f64> = (0..200).flat_map(|i| [f64::from(i * 7 % 31) * 0.9, f64::from(i * 11 % 29)]).collect();
        let (observed, places) = (positions(2, &grid), positions(2, &asked));
        let all = neighbourhoods(&observed, (0..900).filter(|i| i % 3 != 0), &places, 200, [40, 16], |_, _| true);
        let mut seen: Vec<usize> = all.iter().flat_map(|part| part.places.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..200).collect::<Vec<_>>());
        for part in &all {
            assert!(part.places.len() <= 16 && part.observations.len() == 40);
            assert!(part.observations.iter().all(|i| i % 3 != 0));
            let middle = places.middle(&part.places);
            let distance = |i: usize| squared_euclidean(observed.at(i), &middle);
            let farthest = part.observations.iter().map(|&i| distance(i)).fold(0.0, f64::max);
            let nearer = (0..900).filter(|i| i % 3 != 0 && distance(*i) < farthest).count();
            assert!(nearer < 40);
        }
    }

    #[test]
    fn equal_places_and_few_observations_end() {
        let (observed, places) = (positions(1, &[0.0, 5.0]), positions(1, &[3.0; 100]));
        let all = neighbourhoods(&observed, 0..2, &places, 100, [64, 8], |_, _| true);
        assert!(all.iter().all(|part| part.observations == [1, 0] && part.places.len() <= 8));
        assert!(neighbourhoods(&observed, 0..2, &positions(1, &[]), 0, [64, 8], |_, _| true).is_empty());
    }
}
