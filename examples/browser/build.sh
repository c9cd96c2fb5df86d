#!/usr/bin/env bash
# Makes a folder that any server of static files can serve: examples/browser/dist, or the one given.
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/dist}")
cd "$(dirname "$0")/../.."
target=wasm32-unknown-unknown
ls "$(rustc --print sysroot)/lib/rustlib/$target/lib/"libstd-* >/dev/null 2>&1 || rustup target add $target

CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C target-feature=+simd128" \
  cargo build -p wgpu-attention-browser --profile browser --target $target
rm -rf "$out"
mkdir -p "$out/pkg" "$out/checkpoints"
cargo run -q -p wgpu-attention-browser-bindgen --profile tools -- \
  "${CARGO_TARGET_DIR:-target}/$target/browser/wgpu_attention_browser.wasm" "$out/pkg"
# Smaller by a sixth; the page runs without. (Debian's own wasm-opt is too old for tables of references.)
program=$out/pkg/wgpu_attention_browser_bg.wasm
wasm_opt=examples/browser/node_modules/.bin/wasm-opt
if command -v npm >/dev/null && [ ! -x "$wasm_opt" ]; then (cd examples/browser && npm ci --no-audit --no-fund); fi
if [ -x "$wasm_opt" ]; then
  features=(simd bulk-memory reference-types sign-ext mutable-globals nontrapping-float-to-int multivalue)
  # Loops are put together anew, which leaves 1% less than what the compiler makes of them.
  "$wasm_opt" -Oz --flatten --rereloop -Oz -Oz "${features[@]/#/--enable-}" -o "$program.small" "$program"
  mv "$program.small" "$program"
fi
cp examples/browser/page/* "$out"
cp checkpoints/{gp_1d,gp_1d_deep_kernel,cmanp_gp_1d}.safetensors "$out/checkpoints"
printf '%s: %s bytes of WebAssembly, %s compressed with gzip\n' \
  "$out" "$(stat -c %s "$program")" "$(gzip -9c "$program" | wc -c)"
