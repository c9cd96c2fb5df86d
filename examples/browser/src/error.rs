//! Errors of the library as those of JavaScript.

use wasm_bindgen::prelude::*;
use wgpu_attention::Error;

/// What the page may be told.
pub type Result<T> = std::result::Result<T, JsValue>;

/// An `Error` with the library's message; its name says which kind it is, where the page does something
/// about that.
pub fn told(error: Error) -> JsValue {
    let name = match error {
        Error::NoAdapter { .. } | Error::DeviceRequest { .. } => "NoDevice",
        Error::DeviceLost { .. } => "DeviceLost",
        Error::OutOfMemory { .. } => "OutOfMemory",
        Error::BiasShader { .. } => "BiasShader",
        Error::Validation { .. } => "Validation",
        Error::Checkpoint { .. } | Error::Metadata { .. } => "Checkpoint",
        Error::Posterior { .. } => "Posterior",
        Error::EmptyContext { .. } => "EmptyContext",
        _ => "Refused",
    };
    refused(name, &error.to_string())
}

/// An `Error` of a name.
pub fn refused(name: &str, message: &str) -> JsValue {
    let error = js_sys::Error::new(message);
    error.set_name(name);
    error.into()
}
