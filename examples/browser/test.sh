#!/usr/bin/env bash
# Tests the page in headless Chromium, and runs the golden cases there: `test.sh page`, `test.sh golden`, or both.
# Installs what it needs on a Debian machine with a Rust toolchain. Pictures of the page come to examples/browser/out.
set -euo pipefail
cd "$(dirname "$0")"
which=${1:-both}
target=${CARGO_TARGET_DIR:-../../target}
step() { printf '\n== %s (after %s s)\n' "$*" "$SECONDS"; }

step "the browser and what drives it"
missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq "${missing[@]}"
fi
npm ci --no-audit --no-fund

if [ "$which" != golden ]; then
  step "the page"
  ./build.sh
  size=$(stat -c %s dist/pkg/*.wasm)
  packed=$(gzip -9c dist/pkg/*.wasm | wc -c)
  # What a visitor fetches.
  [ "$size" -lt 2500000 ] || { echo "$size bytes of WebAssembly, 2500000 are allowed"; exit 1; }
  [ "$packed" -lt 1000000 ] || { echo "$packed bytes compressed, 1000000 are allowed"; exit 1; }
  cargo build -q -p wgpu-attention-browser-reference --profile tools
  node test.mjs dist "$target/tools/wgpu-attention-browser-reference" out
fi

if [ "$which" != page ]; then
  step "golden cases"
  CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C target-feature=+simd128" \
    cargo build -p wgpu-attention-browser-golden --profile browser --target wasm32-unknown-unknown
  mkdir -p out/golden
  cp golden/page/index.html out/golden
  cargo run -q -p wgpu-attention-browser-bindgen --profile tools -- \
    "$target/wasm32-unknown-unknown/browser/wgpu_attention_browser_golden.wasm" out/golden/pkg
  cp golden/page/wait.js out/golden/pkg
  node golden.mjs out/golden
fi
step "done"
