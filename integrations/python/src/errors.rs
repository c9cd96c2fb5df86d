//! Errors of the library as exceptions of Python, with the same text.

use pyo3::{PyErr, import_exception};
use wgpu_attention::Error;

import_exception!(wgpu_attention.errors, InputError);
import_exception!(wgpu_attention.errors, ArrayTypeError);
import_exception!(wgpu_attention.errors, CheckpointError);
import_exception!(wgpu_attention.errors, DeviceError);
import_exception!(wgpu_attention.errors, FileError);
import_exception!(wgpu_attention.errors, MemoryExhausted);

/// The exception of an error: `python/wgpu_attention/errors.py` says what each kind is for.
pub fn exception(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::NoAdapter { .. }
        | Error::DeviceRequest { .. }
        | Error::DeviceLost { .. }
        | Error::Validation { .. }
        | Error::NotComputed { .. } => DeviceError::new_err(text),
        Error::OutOfMemory { .. } => MemoryExhausted::new_err(text),
        Error::Checkpoint { .. }
        | Error::Metadata { .. }
        | Error::MissingParameter { .. }
        | Error::ParameterShape { .. }
        | Error::ExtraParameters { .. }
        | Error::Posterior { .. }
        // Of a file: models are made of nothing else.
        | Error::Config { .. } => CheckpointError::new_err(text),
        Error::Io { .. } => FileError::new_err(text),
        _ => InputError::new_err(text),
    }
}

/// What was given, and what is allowed, in the words of the library.
pub fn refused(name: &str, found: impl std::fmt::Display, allowed: impl std::fmt::Display) -> PyErr {
    InputError::new_err(format!("{name} is {found}, allowed is {allowed}"))
}
