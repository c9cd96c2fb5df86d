//! What kind of machine drives a tape.

/// How the heads of a tape move.
///
/// ```
/// use wgpu_attention::ops::HeadMoves;
///
/// assert!(HeadMoves::All.jumps());
/// assert_eq!((HeadMoves::NoJump.n_directions(), HeadMoves::NoJump.n_actions()), (3, 9)); // two heads, and p
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HeadMoves {
    /// Back, stay, on, or jump to where a key was written.
    #[default]
    All,
    /// Back, stay or on. Heads stay distributions over the slots.
    NoJump,
    /// Stay or jump.
    OnlyJump,
}

impl HeadMoves {
    /// Directions of a head, in the order of the action vector.
    pub fn n_directions(self) -> usize {
        match self {
            Self::All => 4,
            Self::NoJump => 3,
            Self::OnlyJump => 2,
        }
    }

    /// Numbers of the action vector for a tape: the directions of the read head and of the write
    /// head as logits, then the logits of `p_r`, `p_w` and `p_e`.
    pub fn n_actions(self) -> usize {
        2 * self.n_directions() + 3
    }

    /// Whether there is a table of keys.
    pub fn jumps(self) -> bool {
        self != Self::NoJump
    }
}

/// What `p_r`, `p_w` and `p_e` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TapeProbabilities {
    /// Those of the actions.
    #[default]
    Actions,
    /// All 1.
    One,
}

/// How much the tape and the keys are erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TapeErase {
    /// With a `p_e` of its own, as in the authors' code.
    #[default]
    Own,
    /// As much as is written, `p_e = p_w`, as in the paper's equations.
    Tied,
    /// Never; keys are then written with probability 1.
    Never,
}

/// How the table of keys is erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyErase {
    /// By content, as in the authors' code since May 2023.
    #[default]
    ByContent,
    /// By position, with the head at length one, as in the paper's equations.
    ByPosition,
}

/// What a machine leaves out.
///
/// ```
/// use wgpu_attention::ops::{KeyErase, TapeErase, TapeOptions};
///
/// // By the paper's equations where they differ from the authors' code.
/// let paper = TapeOptions { erase: TapeErase::Tied, key_erase: KeyErase::ByPosition, ..Default::default() };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TapeOptions {
    /// How the heads move.
    pub heads: HeadMoves,
    /// What the probabilities are.
    pub probabilities: TapeProbabilities,
    /// How much is erased.
    pub erase: TapeErase,
    /// How keys are erased.
    pub key_erase: KeyErase,
}

/// The same, as the kernels ask for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    pub heads: HeadMoves,
    pub has_probabilities: bool,
    pub has_erase: bool,
    pub is_tied: bool,
    pub by_position: bool,
}

impl From<TapeOptions> for Flags {
    fn from(TapeOptions { heads, probabilities, erase, key_erase }: TapeOptions) -> Self {
        Self {
            heads,
            has_probabilities: probabilities == TapeProbabilities::Actions,
            has_erase: erase != TapeErase::Never,
            is_tied: erase == TapeErase::Tied,
            by_position: key_erase == KeyErase::ByPosition,
        }
    }
}
