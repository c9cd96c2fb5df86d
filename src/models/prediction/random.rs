//! Random numbers of draws: made on the host, so that they are the same for every device.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::special::{Level, normal_quantile};

/// The random numbers of one draw of one batch element. Draw `i` is the same however many there are.
pub(crate) struct Uniforms(ChaCha8Rng);

impl Uniforms {
    pub fn new(seed: u64, element: usize, draw: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream((element as u64) << 40 ^ draw as u64);
        Self(random)
    }

    /// A number between 0 and 1, neither of which it is; so is the rest to 1.
    pub fn level(&mut self) -> Level {
        let odd = 2 * (self.0.next_u64() >> 12) + 1;
        Level::new(odd as f64 / (1u64 << 53) as f64)
    }

    pub fn normal(&mut self) -> f64 {
        normal_quantile(self.level())
    }
}
