//! What is drawn.

use wasm_bindgen::prelude::*;

/// A normal distribution for each place.
#[wasm_bindgen(getter_with_clone)]
pub struct Prediction {
    /// What is expected.
    pub mean: Vec<f32>,
    /// The standard deviation.
    pub std: Vec<f32>,
    /// How the observations differ from all that the network was trained on; empty if they do not.
    pub outside: String,
}
