//! A stochastic epidemic on a lattice, as `training/epidemic.py` draws it for the network's training.

use rand::{Rng, RngExt, seq::SliceRandom};

/// Places along each side of the lattice.
pub const SIDE: usize = 32;
/// Places.
pub const PLACES: usize = SIDE * SIDE;
/// Days before today that may be observed, today included, and days after it that are forecast.
pub const BACK: usize = 14;
pub const AHEAD: usize = 10;

/// Nobody ill yet, ill, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Susceptible,
    Infected,
    Recovered,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Susceptible, Self::Infected, Self::Recovered];

    /// What the network is given: 1 in the state's place.
    pub fn one_hot(self) -> [f32; 3] {
        Self::ALL.map(|state| if state == self { 1.0 } else { 0.0 })
    }
}

/// The state of every place, row by row.
pub type Day = Vec<State>;

/// A place on a day; days count from today, those before are negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    pub place: usize,
    pub day: i32,
}

impl Spot {
    /// As in training: eight places and five days are one unit.
    pub fn coordinates(self) -> ([f32; 2], f32) {
        let at = |cells: usize| cells as f32 / 8.0;
        ([at(self.place / SIDE), at(self.place % SIDE)], self.day as f32 / 5.0)
    }
}

/// An epidemic around one day on which it spreads.
pub struct Epidemic {
    days: Vec<Day>,
    today: usize,
}

fn log_uniform(rng: &mut impl Rng, low: f64, high: f64) -> f64 {
    rng.random_range(low.ln()..high.ln()).exp()
}

impl Epidemic {
    /// Draws one, and a day on which at least eight places are ill.
    pub fn draw(rng: &mut impl Rng) -> Self {
        loop {
            let days = simulate(rng, BACK + 40 + AHEAD);
            let is_spreading = |day: &usize| days[*day].iter().filter(|state| **state == State::Infected).count() >= 8;
            let spreading: Vec<usize> = (BACK - 1..days.len() - AHEAD).filter(is_spreading).collect();
            if !spreading.is_empty() {
                let today = spreading[rng.random_range(0..spreading.len())];
                return Self { days, today };
            }
        }
    }

    pub fn state(&self, Spot { place, day }: Spot) -> State {
        self.days[self.today.saturating_add_signed(day as isize)][place]
    }

    /// So many places, each on one of the surveyed days, all different.
    pub fn observe(&self, rng: &mut impl Rng, n: usize, n_days: usize) -> Vec<Spot> {
        let mut back: Vec<i32> = (0..BACK as i32).collect();
        back.shuffle(rng);
        let spots = |back: &i32| {
            let day = -back;
            (0..PLACES).map(move |place| Spot { place, day })
        };
        let mut all: Vec<Spot> = back[..n_days].iter().flat_map(spots).collect();
        all.shuffle(rng);
        all.truncate(n);
        all
    }
}

/// Every day each place that is not ill yet catches the disease from each ill one of its eight neighbours
/// with the same probability, or from afar with a small one; an ill place recovers with another.
fn simulate(rng: &mut impl Rng, n_days: usize) -> Vec<Day> {
    let (catches, recovers) = (log_uniform(rng, 0.04, 0.4), log_uniform(rng, 0.05, 0.35));
    let far = log_uniform(rng, 1e-5, 1e-3);
    let mut day = vec![State::Susceptible; PLACES];
    for _ in 0..rng.random_range(1..5) {
        day[rng.random_range(0..PLACES)] = State::Infected;
    }
    let mut days = vec![day];
    for _ in 1..n_days {
        let before = &days[days.len() - 1];
        let is_ill = |place: usize| before[place] == State::Infected;
        let ill = (0..PLACES).filter(|&place| is_ill(place)).count() as f64 / PLACES as f64;
        let next = (0..PLACES).map(|place| match before[place] {
            State::Susceptible => {
                let around = neighbours(place).filter(|&place| is_ill(place)).count();
                let escapes = (1.0 - catches).powi(around as i32) * (1.0 - far * ill);
                if rng.random::<f64>() > escapes { State::Infected } else { State::Susceptible }
            }
            State::Infected if rng.random::<f64>() < recovers => State::Recovered,
            other => other,
        });
        let next = next.collect();
        days.push(next);
    }
    days
}

/// The up to eight places around one.
fn neighbours(place: usize) -> impl Iterator<Item = usize> {
    let around = |x: usize| x.saturating_sub(1)..(x + 2).min(SIDE);
    let (row, column) = (place / SIDE, place % SIDE);
    around(row).flat_map(move |i| around(column).map(move |j| i * SIDE + j)).filter(move |&other| other != place)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn corners_have_three_neighbours_and_inner_places_eight() {
        assert_eq!(neighbours(0).collect::<Vec<_>>(), [1, SIDE, SIDE + 1]);
        assert_eq!(neighbours(SIDE + 1).count(), 8);
        assert_eq!(neighbours(PLACES - 1).count(), 3);
    }

    #[test]
    fn states_only_go_forward() {
        let epidemic = Epidemic::draw(&mut StdRng::seed_from_u64(1));
        for days in epidemic.days.windows(2) {
            assert!(days[0].iter().zip(&days[1]).all(|(before, after)| *before as u8 <= *after as u8));
        }
    }
}
