//! Memory of the host: sizes that do not overflow, and vectors that are an error where there is no
//! room for them.
//!
//! Linux lends memory that it does not have, and ends the process that uses it. So a large vector
//! is asked for only where the machine, or what this process may have of it, has as much available.
//! Elsewhere the system refuses by itself.

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
/// this process may still take.
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
