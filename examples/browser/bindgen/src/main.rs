//! `bindgen PROGRAM.wasm FOLDER` writes the JavaScript beside a program of WebAssembly that a browser
//! loads it with: `wasm-bindgen --target web`, of the version that the program was built with.

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (program, folder) = arguments.next().zip(arguments.next()).context("bindgen PROGRAM.wasm FOLDER")?;
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(program).web(true)?.typescript(false).generate(folder)
}
