//! The golden cases in a browser: the code of `tests/models/golden`, on the browser's adapter and on the
//! CPU in WebAssembly. That code waits where it reads; here [`support::blocking`] lets it.
#![cfg(target_arch = "wasm32")]
#![allow(dead_code, unused_imports, missing_docs, reason = "the tests' own code, of which a part runs here")]

#[path = "../../../../tests/models"]
mod models {
    pub mod golden;
}
#[path = "../../../../tests/support/mod.rs"]
mod support;

use std::{
    cell::{LazyCell, RefCell},
    path::Path,
};

use wasm_bindgen::prelude::*;
use wgpu_attention::Device;

use models::golden;
use support::fixture::{self, Fixture};

thread_local! {
    static DEVICE: RefCell<Option<Device>> = const { RefCell::new(None) };
    static CASE: RefCell<String> = const { RefCell::new(String::new()) };
    static OUTCOME: RefCell<String> = const { RefCell::new(String::new()) };
}

#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// Opens where the cases run from now on, `cpu` or `gpu`; says what it is.
#[wasm_bindgen]
pub async fn open(place: String) -> Result<String, JsError> {
    let device = Device::by_name_async(&place).await?;
    let name = device.to_string();
    DEVICE.set(Some(device));
    Ok(name)
}

/// Takes a file of golden cases.
#[wasm_bindgen]
pub fn give(name: &str, bytes: Vec<u8>) {
    fixture::give(name, bytes);
}

/// Says which of the files runs next.
#[wasm_bindgen]
pub fn choose(name: &str) {
    CASE.set(name.to_owned());
}

/// Runs the case that was chosen; what came of it is told by [`outcome`]. Called by way of
/// `WebAssembly.promising`, for it waits.
#[unsafe(no_mangle)]
pub extern "C" fn run_case() {
    let name = CASE.take();
    let device = DEVICE.with_borrow(|device| device.clone()).expect("a device is open");
    let path = Path::new(&name);
    let fixture = Fixture::open(path);
    let moved = LazyCell::new(|| golden::moved::moved(&fixture));
    let moved = |output: &str| moved.get(output).copied().unwrap_or(0.0);
    let mut failures = Vec::new();
    let worst = golden::check((&fixture, path), &moved, "here", &device, &mut failures);
    let worst = worst.map_or("nothing computed".to_owned(), |worst| format!("{worst:.1e}"));
    OUTCOME.set(format!("{}\n{}", worst, failures.join("\n")));
}

/// The largest error of the case that ran last, and on the next lines what is wrong with it.
#[wasm_bindgen]
pub fn outcome() -> String {
    OUTCOME.take()
}
