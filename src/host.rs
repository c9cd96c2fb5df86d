//! Memory of the host: sizes that do not overflow, and vectors that are an error where there is no
//! room for them.
//!
//! Linux lends memory that it does not have, and ends the process that uses it. So a large vector
//! is asked for only where the machine, or what this process may have of it, has as much available.
//! Elsewhere the system refuses by itself.

use std::{cell::RefCell, ops::Deref};

use bytemuck::Zeroable;

use crate::error::{Error, Result, check_limit};

/// More numbers than any memory holds.
const MAX_NUMBERS: usize = isize::MAX as usize / size_of::<f32>();

/// Vectors of fewer bytes are not worth asking what is available.
const LARGE: u64 = 64 << 20;

/// The product of some sizes.
///
/// # Errors
/// No memory holds as many numbers.
pub(crate) fn count(sizes: &[usize]) -> Result<usize> {
    let zero = sizes.contains(&0);
    let n = sizes.iter().fold(1u64, |n, &size| n.saturating_mul(size as u64));
    let n = if zero { 0 } else { n };
    check_limit("numbers of one tensor", n, MAX_NUMBERS as u64)?;
    Ok(n as usize)
}

/// Zeros, as many as the product of some sizes.
///
/// # Errors
/// There is no room.
pub(crate) fn zeros<T: Zeroable>(sizes: &[usize]) -> Result<Vec<T>> {
    let n = count(sizes)?;
    check_room(bytes::<T>(n))?;
    bytemuck::try_zeroed_vec(n).map_err(|()| no_room(bytes::<T>(n), "the system refuses"))
}

/// The same value, as often as the product of some sizes.
///
/// # Errors
/// There is no room.
pub(crate) fn filled<T: Copy>(value: T, sizes: &[usize]) -> Result<Vec<T>> {
    let n = count(sizes)?;
    collect(n, std::iter::repeat_n(value, n))
}

/// The same numbers `n` times, one after the other.
///
/// # Errors
/// There is no room.
pub(crate) fn repeated<T: Copy>(numbers: &[T], n: usize) -> Result<Vec<T>> {
    let mut all = collect(count(&[numbers.len(), n])?, std::iter::empty())?;
    (0..n).for_each(|_| all.extend_from_slice(numbers));
    Ok(all)
}

/// The same numbers in a vector of their own.
///
/// # Errors
/// There is no room.
pub(crate) fn copy<T: Copy>(from: &[T]) -> Result<Vec<T>> {
    collect(from.len(), from.iter().copied())
}

/// What an iterator yields, which is about `n` items.
///
/// # Errors
/// There is no room.
pub(crate) fn collect<T>(n: usize, from: impl Iterator<Item = T>) -> Result<Vec<T>> {
    check_room(bytes::<T>(n))?;
    let mut all = Vec::new();
    all.try_reserve_exact(n).map_err(|error| no_room(bytes::<T>(n), error))?;
    all.extend(from);
    Ok(all)
}

/// Numbers of a tensor. When the last tensor that has them goes, their memory stays for the next result
/// of about the size: fresh memory costs the system as much as a layer of a network costs the processor.
pub(crate) enum Kept {
    Own(Vec<f32>),
    /// Those of somebody else, who gets them back.
    Lent(Box<dyn AsRef<[f32]> + Send + Sync>),
}

/// What a thread keeps: vectors from [`SMALLEST`] to [`LARGEST`] numbers, so 8 MiB at most.
const MOST: usize = 8;
const SMALLEST: usize = 1 << 12;
const LARGEST: usize = 1 << 18;

thread_local! {
    static LEFT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// As many numbers as the product of some sizes, whatever they are: for results that are written whole.
///
/// # Errors
/// There is no room.
pub(crate) fn any(sizes: &[usize]) -> Result<Vec<f32>> {
    let n = count(sizes)?;
    let left = (SMALLEST..=LARGEST).contains(&n).then(|| LEFT.with_borrow_mut(|left| take(left, n))).flatten();
    let Some(mut numbers) = left else { return zeros(&[n]) };
    numbers.resize(n, 0.0);
    if cfg!(debug_assertions) {
        // What is not written shows.
        numbers.fill(f32::NAN);
    }
    Ok(numbers)
}

/// The smallest vector that is large enough, but for those that are far too large.
fn take(left: &mut Vec<Vec<f32>>, n: usize) -> Option<Vec<f32>> {
    let fits = left.iter().enumerate().filter(|(_, numbers)| (n..=4 * n).contains(&numbers.capacity()));
    let smallest = fits.min_by_key(|(_, numbers)| numbers.capacity())?.0;
    Some(left.swap_remove(smallest))
}

impl Kept {
    /// The numbers alone, which are the caller's from now on: a copy of those that are lent.
    pub fn into_vec(mut self) -> Result<Vec<f32>> {
        match &mut self {
            Self::Own(numbers) => Ok(std::mem::take(numbers)),
            Self::Lent(owner) => copy((**owner).as_ref()),
        }
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl From<Vec<f32>> for Kept {
    fn from(numbers: Vec<f32>) -> Self {
        Self::Own(numbers)
    }
}

impl Deref for Kept {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Own(numbers) => numbers,
            Self::Lent(owner) => (**owner).as_ref(),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Self::Own(numbers) = self else { return };
        if !(SMALLEST..=LARGEST).contains(&numbers.capacity()) {
            return;
        }
        // A thread that ends keeps nothing.
        let _ = LEFT.try_with(|left| {
            let mut left = left.borrow_mut();
            if left.len() == MOST {
                left.remove(0);
            }
            left.push(std::mem::take(numbers));
        });
    }
}

/// Refuses what the machine has no room for: for work that takes several vectors at once, each of
/// which would find room alone.
///
/// # Errors
/// There is no room.
pub(crate) fn check_room(bytes: u64) -> Result<()> {
    match (bytes >= LARGE).then(available).flatten() {
        Some(available) if bytes > available => {
            Err(no_room(bytes, format_args!("{available} bytes are available on this machine")))
        }
        _ => Ok(()),
    }
}

fn bytes<T>(n: usize) -> u64 {
    (n as u64).saturating_mul(size_of::<T>() as u64)
}

fn no_room(requested: u64, message: impl ToString) -> Error {
    Error::OutOfMemory { requested: Some(requested), message: message.to_string() }
}

/// Bytes that the machine can give without taking them from anyone, and that the control group of
/// this process may still take where it sees that group as the whole, as in a container.
fn available() -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let memory = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let of_machine = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.saturating_mul(1 << 10);
    // "max", where there is no limit, is no number.
    let of_group = || {
        let (most, now) = (number("/sys/fs/cgroup/memory.max")?, number("/sys/fs/cgroup/memory.current")?);
        let parts = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
        // Pages of files are given back when they are needed.
        let of_files = parts.lines().filter_map(|line| {
            line.strip_prefix("inactive_file ").or(line.strip_prefix("active_file "))?.parse::<u64>().ok()
        });
        Some(most.saturating_sub(now.saturating_sub(of_files.sum())))
    };
    Some(of_group().map_or(of_machine, |of_group| of_machine.min(of_group)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_a_tensor_leaves_is_used_again() {
        let n = SMALLEST + 3;
        let first = any(&[n]).unwrap();
        let at = first.as_ptr();
        drop(Kept::from(first));
        let again = any(&[n - 2]).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (at, n - 2));
        // Nothing else fits, and nothing is taken that is much too large.
        let other = any(&[n]).unwrap();
        assert_ne!(other.as_ptr(), at);
        drop(Kept::from(again));
        let small = any(&[n / 8]).unwrap();
        assert_ne!(small.as_ptr(), at);
        for i in 0..3 * MOST {
            drop(Kept::from(vec![1.0; SMALLEST + i]));
        }
        assert_eq!(LEFT.with_borrow(Vec::len), MOST);
    }

    #[test]
    fn what_finds_no_room_is_an_error() {
        assert_eq!(count(&[3, 0, usize::MAX]).unwrap(), 0);
        assert_eq!(count(&[]).unwrap(), 1);
        assert!(matches!(count(&[1 << 31, 1 << 31, 8]), Err(Error::LimitExceeded { .. })));
        assert_eq!(zeros::<f32>(&[2, 3]).unwrap(), [0.0; 6]);
        assert_eq!(copy(&[1.0, 2.0]).unwrap(), [1.0, 2.0]);
        // More than any machine has, less than any size that overflows.
        let Err(Error::OutOfMemory { requested: Some(requested), .. }) = zeros::<f32>(&[1 << 20, 1 << 30]) else {
            panic!("four petabytes were found");
        };
        assert_eq!(requested, 1 << 52);
        assert!(matches!(collect(1 << 50, [0.0f32].into_iter()), Err(Error::OutOfMemory { .. })));
    }
}
