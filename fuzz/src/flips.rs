//! Bits that flip in a file: the file is refused, or says what it said.

use wgpu_attention::checkpoint::Checkpoint;

use crate::{Mutator, kinds, outputs, saved};

/// What flipping one bit at a time did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flips {
    /// Files that were refused.
    pub refused: u64,
    /// Files that said the same.
    pub same: u64,
    /// Files that said something else.
    pub other: u64,
}

/// Flips `n` bits, one at a time, in a file of every kind.
pub fn flips(n: u64, seed: u64) -> Vec<(String, Flips)> {
    let mut found = Vec::new();
    for kind in kinds() {
        let said = |checkpoint: &Checkpoint| outputs(checkpoint).ok();
        found.push((format!("network {}", kind.name), flip(&kind.checkpoint, &kind.outputs, n, seed, said)));
    }
    for saved in saved() {
        let said = |checkpoint: &Checkpoint| saved.predict(checkpoint).ok();
        found.push((format!("posterior {}", saved.name), flip(&saved.posterior, &saved.outputs, n, seed, said)));
    }
    found
}

fn flip(file: &[u8], right: &[f32], n: u64, seed: u64, said: impl Fn(&Checkpoint) -> Option<Vec<f32>>) -> Flips {
    let mut random = Mutator::new(seed);
    let mut flips = Flips::default();
    for _ in 0..n {
        let mut flipped = file.to_vec();
        random.flip(&mut flipped);
        match Checkpoint::from_bytes(&flipped).ok().and_then(|checkpoint| said(&checkpoint)) {
            None => flips.refused += 1,
            Some(said) if said == right => flips.same += 1,
            Some(_) => flips.other += 1,
        }
    }
    flips
}
