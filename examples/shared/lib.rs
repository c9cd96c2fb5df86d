//! What the examples share: lines of CSV, what they print, where results go, progress, and how
//! numbers are shown. Each rule is in one place.

pub mod args;
pub mod axis;
pub mod lines;
pub mod normal;
pub mod out;
pub mod pixels;
pub mod process;
pub mod progress;

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write as _},
};

use anyhow::{Context as _, Result};

/// Writes a line to standard output, as `println!` does. A reader that has gone (`| head -1`)
/// misses the rest and the work goes on; anything else, such as a full disk, is an error.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say(format_args!($($text)*)) };
}

/// The same for standard error.
#[macro_export]
macro_rules! warn {
    ($($text:tt)*) => { $crate::warn(format_args!($($text)*)) };
}

/// What [`say!`](crate::say!) calls.
///
/// # Errors
/// Standard output cannot be written to, but for a reader that has gone.
pub fn say(text: Arguments<'_>) -> Result<()> {
    unless_closed(writeln!(io::stdout(), "{text}")).context("cannot write to standard output")
}

/// What [`warn!`](crate::warn!) calls.
///
/// # Errors
/// Standard error cannot be written to, but for a reader that has gone.
pub fn warn(text: Arguments<'_>) -> Result<()> {
    unless_closed(writeln!(io::stderr(), "{text}")).context("cannot write to standard error")
}

fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
