//! The one way that locks are taken.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic elsewhere leaves the data whole: each lock guards one plain update.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
