//! What the page asks of the library: places to compute, models, posteriors, and a bias of its own.
#![cfg(target_arch = "wasm32")]

mod bias;
mod error;
mod models;
mod place;
mod prediction;
mod twin;

use wasm_bindgen::prelude::*;

/// Called once, when the program is there.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}
