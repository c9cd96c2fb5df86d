//! Parameters that nobody trained, for measurements and tests.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::{file::MAX_BYTES, store::Checkpoint};
use crate::{
    error::{Error, Result, check_limit},
    tensor::n_elements,
};

impl Checkpoint {
    /// Random parameters for whatever `build` asks for, of a size that keeps what passes
    /// through them of about the size it was: for measurements and tests. The same seed gives
    /// the same numbers everywhere.
    ///
    /// # Errors
    /// What `build` refuses beside parameters that are missing.
    ///
    /// ```
    /// use wgpu_attention::{Device, checkpoint::{Checkpoint, Parameters}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let build = |parameters: &Parameters| parameters.tensor("weight", &[4, 2]);
    /// let checkpoint = Checkpoint::random(7, |checkpoint| checkpoint.load(&Device::cpu(), build))?;
    /// assert_eq!(checkpoint.shape("weight"), Some(&[4, 2][..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn random<T>(seed: u64, build: impl Fn(&Self) -> Result<T>) -> Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut uniform = || (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let mut checkpoint = Self::default();
        loop {
            let (name, shape, is_random) = match build(&checkpoint) {
                Ok(_) => return Ok(checkpoint),
                Err(Error::MissingParameter { name, expected, is_random, .. }) => (name, expected, is_random),
                Err(other) => return Err(other),
            };
            check_limit("bytes of one parameter", (n_elements(&shape) as u64).saturating_mul(4), MAX_BYTES)?;
            let numbers = std::iter::repeat_with(&mut uniform).take(n_elements(&shape));
            let numbers: Vec<f32> = match shape.as_slice() {
                _ if is_random => numbers.map(|x| 3.0f32.sqrt() * x).collect(),
                [.., n, m] => numbers.map(|x| x * (6.0 / (n + m) as f32).sqrt()).collect(),
                _ if name.ends_with("scale") => numbers.map(|x| 1.0 + 0.1 * x).collect(),
                _ => numbers.map(|x| 0.1 * x).collect(),
            };
            checkpoint.insert(&name, &shape, numbers)?;
        }
    }
}
