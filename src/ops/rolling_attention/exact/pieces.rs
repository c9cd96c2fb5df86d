//! Sums as numbers that are exact in f32, for files of tensors.

use crate::wide::is_negative;

/// A sum.
pub(super) type Wide = [u64; 4];

/// Its bits.
const BITS: usize = 256;

/// Bits of a piece: what an f32 holds exactly.
const PIECE: usize = 24;

/// Pieces that any sum fits.
pub(super) const MOST_PIECES: usize = BITS.div_ceil(PIECE);

/// How many pieces hold the number with its sign.
pub(super) fn n_pieces(x: &Wide) -> usize {
    let size = if is_negative(x) { x.map(|word| !word) } else { *x };
    let bits =
        (0..size.len()).rev().find(|&i| size[i] != 0).map_or(0, |i| 64 * i + 64 - size[i].leading_zeros() as usize);
    (bits + 1).div_ceil(PIECE)
}

/// Piece `i`, the lowest first, as a number of [`PIECE`] bits.
pub(super) fn piece(x: &Wide, i: usize) -> f32 {
    let (word, bit) = (i * PIECE / 64, i * PIECE % 64);
    // The sign goes on above the last word.
    let high = x.get(word + 1).copied().unwrap_or(if is_negative(x) { u64::MAX } else { 0 });
    let both = u128::from(x[word]) | u128::from(high) << 64;
    ((both >> bit) as u32 & ((1 << PIECE) - 1)) as f32
}

/// The number of up to [`MOST_PIECES`] pieces; none if they are not what [`piece`] gives.
pub(super) fn of_pieces(pieces: &[f32]) -> Option<Wide> {
    let mut x = Wide::default();
    for (i, &piece) in pieces.iter().enumerate() {
        let (word, bit) = (i * PIECE / 64, i * PIECE % 64);
        let both = u128::from(piece as u32) << bit;
        x[word] |= both as u64;
        if let Some(high) = x.get_mut(word + 1) {
            *high |= (both >> 64) as u64;
        }
    }
    // The sign goes on above the last piece.
    if pieces.last().is_some_and(|last| *last as u32 >> (PIECE - 1) == 1) {
        for bit in pieces.len() * PIECE..BITS {
            x[bit / 64] |= 1 << (bit % 64);
        }
    }
    // Not what is no number of a piece, nor what would lie above the last word.
    pieces.iter().enumerate().all(|(i, of)| *of == piece(&x, i)).then_some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(x: i128) -> Wide {
        let sign = (x >> 127) as u64;
        [x as u64, (x >> 64) as u64, sign, sign]
    }

    #[test]
    fn pieces_are_the_number() {
        for x in [0, 1, -1, 1 << 23, (1 << 23) - 1, -(1 << 23), -(1 << 23) - 1, i128::MAX, i128::MIN, -77 << 70] {
            let n = n_pieces(&wide(x));
            let pieces: Vec<f32> = (0..n).map(|i| piece(&wide(x), i)).collect();
            assert_eq!(of_pieces(&pieces), Some(wide(x)), "{x}");
            let more: Vec<f32> = (0..MOST_PIECES).map(|i| piece(&wide(x), i)).collect();
            assert_eq!(of_pieces(&more), Some(wide(x)), "{x}");
            assert!(n == 1 || of_pieces(&pieces[..n - 1]) != Some(wide(x)), "{x} fits fewer");
        }
        for bad in [0.5, -1.0, f32::NAN, f32::INFINITY, 16_777_216.0] {
            assert_eq!(of_pieces(&[bad]), None);
        }
    }
}
