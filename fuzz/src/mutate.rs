//! Inputs that are almost right.

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Numbers that sizes, counts and values do not expect.
const HOSTILE: [&str; 18] = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "-1",
    "255",
    "65536",
    "1048576",
    "2147483647",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e38",
    "1e400",
    "-0.0",
    "null",
    "[]",
];

/// Makes inputs from those of a corpus.
pub struct Mutator {
    random: StdRng,
}

impl Mutator {
    /// The same seed makes the same inputs.
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed) }
    }

    /// One of the corpus with some bytes or numbers changed.
    pub fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..1 + self.below(4) {
            match self.below(8) {
                0..3 => self.change_number(&mut input),
                3 => self.cut(&mut input),
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    self.splice(&mut input, other);
                }
                _ => self.change_bytes(&mut input),
            }
        }
        input
    }

    /// A number below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        self.random.random_range(0..n)
    }

    /// Flips a bit.
    pub fn flip(&mut self, input: &mut [u8]) {
        if !input.is_empty() {
            let at = self.below(input.len());
            input[at] ^= 1 << self.below(8);
        }
    }

    fn change_bytes(&mut self, input: &mut [u8]) {
        if self.below(2) == 0 || input.is_empty() {
            return self.flip(input);
        }
        let at = self.below(input.len());
        let byte = [0, 0x7f, 0x80, 0xff, b'"', b'{', b'\n', b' '];
        let byte = byte[self.below(byte.len())];
        let n = 1 + self.below(8);
        input[at..].iter_mut().take(n).for_each(|to| *to = byte);
    }

    /// Puts another number in place of one that is written out. The length that stands before the
    /// header of a safetensors file is mended, else nothing behind it would be read.
    fn change_number(&mut self, input: &mut Vec<u8>) {
        let header = input.first_chunk().map(|length| u64::from_le_bytes(*length));
        let header = header.filter(|&n| n < input.len() as u64 && input.get(8) == Some(&b'{'));
        let text = header.map_or(0..input.len(), |n| 8..(8 + n as usize).min(input.len()));
        if text.is_empty() {
            return;
        }
        let from = text.start + self.below(text.len());
        let Some(at) = (from..text.end).find(|&i| input[i].is_ascii_digit()) else { return };
        let end = (at..text.end).find(|&i| !input[i].is_ascii_digit()).unwrap_or(text.end);
        let number = HOSTILE[self.below(HOSTILE.len())].bytes();
        input.splice(at..end, number.clone());
        if let Some(n) = header {
            let length = n as usize + number.len() - (end - at);
            input[..8].copy_from_slice(&(length as u64).to_le_bytes());
        }
    }

    fn cut(&mut self, input: &mut Vec<u8>) {
        let n = self.below(input.len() + 1);
        if self.below(2) == 0 {
            input.truncate(n);
        } else {
            let m = self.below(input.len() - n + 1);
            input.drain(n..n + m);
        }
    }

    fn splice(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len() + 1);
        let from = self.below(other.len() + 1);
        let n = self.below((other.len() - from).min(64) + 1);
        let part = other[from..from + n].to_vec();
        input.splice(at..at, part);
    }
}
