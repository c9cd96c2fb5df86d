//! The yardstick: what is seen nearby goes on.

use rand::{SeedableRng, rngs::StdRng};

use crate::sir::{AHEAD, Epidemic, PLACES, SIDE, Spot, State};

/// The state of the nearest observation, with the odds that it had in other epidemics: for each horizon and
/// each state that was seen, how often each state came.
pub struct Persistence {
    odds: Vec<[[f64; 3]; 3]>,
}

/// Epidemics that the odds are counted in, and places of each.
const EPIDEMICS: usize = 200;
const STEP: usize = 7;

impl Persistence {
    /// Counts in epidemics that are observed as those to be forecast.
    pub fn count(seed: u64, n_observed: usize, n_days: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut counts = vec![[[1.0; 3]; 3]; AHEAD];
        for _ in 0..EPIDEMICS {
            let epidemic = Epidemic::draw(&mut rng);
            let observed = epidemic.observe(&mut rng, n_observed, n_days);
            for place in (0..PLACES).step_by(STEP) {
                let seen = epidemic.state(nearest(&observed, place)) as usize;
                for (counts, day) in counts.iter_mut().zip(1..) {
                    counts[seen][epidemic.state(Spot { place, day }) as usize] += 1.0;
                }
            }
        }
        let shares = |counts: [f64; 3]| counts.map(|count| count / counts.iter().sum::<f64>());
        Self { odds: counts.into_iter().map(|of| of.map(shares)).collect() }
    }

    /// The probabilities of each state.
    pub fn forecast(&self, epidemic: &Epidemic, observed: &[Spot], spot: Spot) -> [f64; 3] {
        let seen = epidemic.state(nearest(observed, spot.place));
        self.odds[spot.day.max(1) as usize - 1][seen as usize]
    }
}

/// The observation nearest in place; of several, the latest.
fn nearest(observed: &[Spot], place: usize) -> Spot {
    let apart = |spot: &Spot| {
        let square = |a: usize, b: usize| a.abs_diff(b).pow(2);
        square(spot.place / SIDE, place / SIDE) + square(spot.place % SIDE, place % SIDE)
    };
    observed.iter().copied().min_by_key(|spot| (apart(spot), -spot.day)).unwrap_or(Spot { place, day: 0 })
}

/// The state that was last observed at each place, if any.
pub fn last_seen(epidemic: &Epidemic, observed: &[Spot]) -> Vec<Option<State>> {
    let mut seen: Vec<Option<Spot>> = vec![None; PLACES];
    for &spot in observed {
        let known = &mut seen[spot.place];
        if known.is_none_or(|known| known.day < spot.day) {
            *known = Some(spot);
        }
    }
    seen.into_iter().map(|spot| spot.map(|spot| epidemic.state(spot))).collect()
}
