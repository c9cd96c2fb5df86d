//! What has to be forgotten: windows over a stream, and everything but one block of it.
//!
//! A softmax state cannot be subtracted without losing digits, but it merges. Two stacks of merged states
//! are enough for a window (Tangwongsan, Hirzel, Schneider and Wu, "General incremental sliding-window
//! aggregation", VLDB 2015): new blocks are merged onto one; the other holds, for each old block, what it
//! and all after it have read, and loses its top when that block leaves. When it is empty the new blocks
//! move over. Every block is merged twice and moved once, whatever the length of the window.

use super::{ExactState, RollingState};
use crate::error::Result;

/// What has read disjoint keys and merges into what has read them all.
pub trait Merge: Clone {
    /// What both have read.
    ///
    /// # Errors
    /// The two do not fit each other.
    fn merge(&self, other: &Self) -> Result<Self>;
}

impl Merge for RollingState {
    fn merge(&self, other: &Self) -> Result<Self> {
        self.merge(other)
    }
}

impl Merge for ExactState {
    fn merge(&self, other: &Self) -> Result<Self> {
        self.merge(other)
    }
}

/// The last blocks of a stream, of which the oldest are forgotten: amortised two merges for every block
/// that comes and goes, and a state for every block that is there.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Layout, RollingAttention, Window}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let tensor = |x: f32| Tensor::new(&Device::cpu(), &[1, 1, 1, 1], &[x]);
/// let memory = RollingAttention::new(Layout::HeadMajor, tensor(0.0)?);
/// let mut window = Window::default();
/// for value in [5.0, 1.0, 2.0, 6.0] {
///     window.push(memory.write(None, &tensor(1.0)?, &tensor(value)?, None)?)?;
///     if window.len() > 3 {
///         window.pop()?;
///     }
/// }
/// // A query of zero reads the mean of the last three.
/// let state = window.state()?.expect("three blocks");
/// assert!((memory.read(&state)?.values.read()?[0] - 3.0).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Window<T> {
    /// The oldest last; each with all that came after it before the blocks moved here.
    oldest: Vec<T>,
    newest: Vec<T>,
    /// Of all of `newest`.
    merged: Option<T>,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Self { oldest: Vec::new(), newest: Vec::new(), merged: None }
    }
}

impl<T: Merge> Window<T> {
    /// Adds the newest block.
    ///
    /// # Errors
    /// It does not fit those that are there.
    pub fn push(&mut self, block: T) -> Result<()> {
        if let (None, Some(last)) = (&self.merged, self.oldest.first()) {
            // Refused here, not when something is asked for.
            last.merge(&block)?;
        }
        self.merged = Some(merged(self.merged.as_ref(), Some(&block))?.unwrap_or_else(|| block.clone()));
        self.newest.push(block);
        Ok(())
    }

    /// Forgets the oldest block; whether there was one.
    ///
    /// # Errors
    /// A merge failed.
    pub fn pop(&mut self) -> Result<bool> {
        self.turn()?;
        Ok(self.oldest.pop().is_some())
    }

    /// What all blocks have read, if there are any.
    ///
    /// # Errors
    /// A merge failed.
    pub fn state(&self) -> Result<Option<T>> {
        merged(self.oldest.last(), self.merged.as_ref())
    }

    /// What all blocks but the oldest have read.
    ///
    /// # Errors
    /// A merge failed.
    pub fn state_without_oldest(&mut self) -> Result<Option<T>> {
        self.turn()?;
        let after = self.oldest.len().checked_sub(2).map(|i| &self.oldest[i]);
        merged(after, self.merged.as_ref())
    }

    /// Blocks that are there.
    pub fn len(&self) -> usize {
        self.oldest.len() + self.newest.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every state that is kept.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &T> {
        self.oldest.iter().chain(&self.newest).chain(&self.merged)
    }

    /// Moves the new blocks over, if there are no old ones.
    fn turn(&mut self) -> Result<()> {
        if !self.oldest.is_empty() {
            return Ok(());
        }
        let mut oldest: Vec<T> = Vec::with_capacity(self.newest.len());
        for block in self.newest.iter().rev() {
            let with_later = merged(Some(block), oldest.last())?;
            oldest.extend(with_later);
        }
        *self = Self { oldest, ..Self::default() };
        Ok(())
    }
}

/// For each block what all the others have read; nothing if there is but one. The blocks are halved again
/// and again, so that every result is of `log2` as many merges as there are blocks.
///
/// # Errors
/// The blocks do not fit each other.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Layout, RollingAttention, leave_one_out}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let tensor = |x: f32| Tensor::new(&Device::cpu(), &[1, 1, 1, 1], &[x]);
/// let memory = RollingAttention::new(Layout::HeadMajor, tensor(0.0)?);
/// let block = |value: f32| memory.write(None, &tensor(1.0)?, &tensor(value)?, None);
/// let others = leave_one_out(&[block(1.0)?, block(2.0)?, block(6.0)?])?;
/// let without_the_last = others[2].as_ref().expect("two blocks");
/// assert!((memory.read(without_the_last)?.values.read()?[0] - 1.5).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
pub fn leave_one_out<T: Merge>(blocks: &[T]) -> Result<Vec<Option<T>>> {
    let mut all = Vec::with_capacity(blocks.len());
    descend(blocks, None, &mut all)?;
    Ok(all)
}

fn descend<T: Merge>(blocks: &[T], others: Option<T>, all: &mut Vec<Option<T>>) -> Result<()> {
    if blocks.len() < 2 {
        all.extend(blocks.iter().map(|_| others.clone()));
        return Ok(());
    }
    let (left, right) = blocks.split_at(blocks.len() / 2);
    descend(left, merged(others.as_ref(), sum(right)?.as_ref())?, all)?;
    descend(right, merged(others.as_ref(), sum(left)?.as_ref())?, all)
}

/// Of all blocks, halved again and again.
fn sum<T: Merge>(blocks: &[T]) -> Result<Option<T>> {
    match blocks {
        [] => Ok(None),
        [block] => Ok(Some(block.clone())),
        _ => {
            let (left, right) = blocks.split_at(blocks.len() / 2);
            merged(sum(left)?.as_ref(), sum(right)?.as_ref())
        }
    }
}

fn merged<T: Merge>(a: Option<&T>, b: Option<&T>) -> Result<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) => a.merge(b).map(Some),
        (a, b) => Ok(a.or(b).cloned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    /// A run of numbers that counts its merges and takes no other order.
    #[derive(Clone, Debug, PartialEq)]
    struct Run(u32, u32, Rc<Cell<usize>>);

    impl Merge for Run {
        fn merge(&self, other: &Self) -> Result<Self> {
            self.2.set(self.2.get() + 1);
            assert_eq!(self.1, other.0, "runs that follow each other");
            Ok(Self(self.0, other.1, self.2.clone()))
        }
    }

    #[test]
    fn a_window_holds_its_last_blocks_in_constant_work() {
        let merges = Rc::new(Cell::new(0));
        for n in [1, 2, 7, 100] {
            let mut window = Window::default();
            assert!(!window.pop().unwrap() && window.state().unwrap().is_none() && window.is_empty());
            merges.set(0);
            let mut asked = 0;
            for i in 0..1000 {
                window.push(Run(i, i + 1, merges.clone())).unwrap();
                while window.len() > n {
                    assert!(window.pop().unwrap());
                }
                asked += merges.get();
                let first = (i + 1).saturating_sub(n as u32);
                assert_eq!(window.state().unwrap().map(|run| (run.0, run.1)), Some((first, i + 1)));
                let rest = window.clone().state_without_oldest().unwrap().map(|run| (run.0, run.1));
                assert_eq!(rest, (window.len() > 1).then_some((first + 1, i + 1)));
                merges.set(0);
            }
            assert!(asked <= 3 * 1000, "{asked} merges with a window of {n}");
        }
    }
}
