# What the scripts of this folder share; each sources it first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export CARGO_INCREMENTAL=0
# What they fetch and build is kept here.
work=${CARGO_TARGET_DIR:-$PWD/target}/platforms
mkdir -p "$work"

# Installs Debian packages where they are missing.
need() {
  dpkg -s "$@" >/dev/null 2>&1 && return
  local sudo
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
  $sudo apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "$@" >/dev/null
}

# A standard library of Rust for another machine.
need_target() {
  [ -n "$(ls "$(rustc --print sysroot)/lib/rustlib/$1/lib/"libstd-* 2>/dev/null)" ] || rustup target add "$1"
}

# Dawn as a module of Node, with Microsoft's shader compilers beside it.
need_dawn() {
  [ -d "$work/node/node_modules/webgpu" ] && return
  command -v npm >/dev/null || need nodejs npm
  mkdir -p "$work/node"
  (cd "$work/node" && npm init -y && npm install --no-audit --no-fund webgpu@0.6.2) >"$work/npm.log" 2>&1 ||
    { cat "$work/npm.log"; return 1; }
}
dawn_version() { echo "webgpu $(sed -n 's/.*"version": "\(.*\)".*/\1/p' "$work/node/node_modules/webgpu/package.json") (npm)"; }

# Every text that the library may compile, a file each, in $work/texts; with those for devices that bind few
# storage buffers.
write_texts() {
  rm -rf "$work/texts"
  cargo run -q --example shaders -- --out "$work/texts" --shared
}

# One line of docs/platforms.md: stack, version, what ran, cases passed, of how many.
result() {
  printf 'RESULT|%s|%s|%s|%s|%s|%s\n' "$1" "$2" "$3" "$4" "$5" ".ci/platforms ${0##*/}"
  # Where nothing was counted, nothing ran.
  [ "$5" -gt 0 ] && [ "$4" = "$5" ]
}

# The file of the test binary of a target, built: `test_binary models --no-default-features`.
test_binary() {
  local name=$1
  shift
  cargo test -q -p wgpu-attention --no-run --test "$name" --message-format=json "$@" |
    sed -n 's/.*"executable":"\([^"]*\/'"$name"'-[^"]*\)".*/\1/p' | tail -n 1
}

# The second at which a script stops that is told `minutes 40`; without that, none that comes.
end_of() { if [ "${1:-}" = minutes ]; then echo $((60 * $2)); else echo 1000000000; fi; }

# A file of what is remembered has the versions of compilers and drivers in its first line; others empty it.
remembered_with() { [ "$(head -n 1 "$1" 2>/dev/null)" = "# $2" ] || { mkdir -p "${1%/*}" && echo "# $2" >"$1"; }; }

# Cases that passed, of how many, from what libtest printed in a file: "12 12".
counted() {
  awk '/^test result:/ { passed += $4; failed += $6 } END { print passed + 0, passed + failed }' "$1"
}

# SwiftShader's Vulkan driver, which Debian's Chromium carries.
need_swiftshader() {
  need chromium-common
  local icd
  icd=$(dpkg -L chromium-common | grep '/vk_swiftshader_icd\.json$')
  export VK_DRIVER_FILES=$icd
}
swiftshader_version() { dpkg-query -W -f 'SwiftShader of Chromium ${Version}' chromium-common; }

# A newer lavapipe beside the system's, from Debian's backports; with its own libraries and its own list.
need_lavapipe_25() {
  local root=$work/lavapipe-25
  if [ ! -f "$root/icd.json" ]; then
    need ca-certificates
    mkdir -p "$root"/{lists/partial,archives/partial,files}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main" >"$root/sources.list"
    local options=(-o "Dir::Etc::SourceList=$root/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$root/lists" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" -qq update
    (cd "$root/archives" && apt-get "${options[@]}" -qq download mesa-vulkan-drivers/bookworm-backports)
    dpkg -x "$root"/archives/mesa-vulkan-drivers_*.deb "$root/files"
    # Its libraries that the system may lack come with the system's own driver.
    need mesa-vulkan-drivers
    local library
    library=$(find "$root/files" -name 'libvulkan_lvp.so')
    printf '{"file_format_version": "1.0.1", "ICD": {"library_path": "%s", "api_version": "1.4.0", "library_arch": "64"}}\n' "$library" >"$root/icd.json"
  fi
  export VK_DRIVER_FILES=$root/icd.json
}
lavapipe_25_version() { basename "$work"/lavapipe-25/archives/mesa-vulkan-drivers_*.deb | sed 's/.*drivers_\(.*\)_.*/Mesa \1/; s/%3a/:/'; }

# Runs tests, shows what failed, and leaves the output in a file: `run_tests LOG cargo test ..`.
run_tests() {
  local log=$1
  shift
  # A program that falls over says nothing of what it has not run.
  "$@" >"$log" 2>&1 || grep -q '^test result: FAILED' "$log" ||
    echo "test result: FAILED. 0 passed; 1 failed; it fell over" >>"$log"
  grep -E '^(test .*FAILED|error|test result:|golden cases:)|panicked at|failure\(s\)' "$log" || tail -n 30 "$log"
}

# Golden cases of a log, on each of its devices: one line of results for each name of a device.
golden_results() {
  local failed=0 any='' passed of name
  while read -r passed of name; do
    any=1
    result "$1" "$2" "golden cases, $name" "$passed" "$of" || failed=1
  done < <(sed -n 's/^golden cases: \([0-9]*\) of \([0-9]*\) on \(.*\)/\1 \2 \3/p' "$3" | grep -P -- "${4:-.}" |
    awk '{ name = $0; sub(/^[0-9]+ [0-9]+ /, "", name); passed[name] += $1; of[name] += $2 }
      END { for (name in of) print passed[name], of[name], name }' | sort -k 3)
  # Where nothing was counted, the test did not come to its end.
  [ -n "$any" ] || result "$1" "$2" "golden cases" 0 1 || failed=1
  return $failed
}

# The tests that run kernels, on the Vulkan driver that is set: `on_driver STACK VERSION cases|golden|all`.
on_driver() {
  export WGPU_ATTENTION_REQUIRE_GPU=1 XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/tmp}
  local log=$work/$1.log failed=0 tests=(twins::) what="random shapes against the CPU" cases=all
  # Then with checked shaders, few bindings and every variant, too: all of them in every test.
  [ "$3" != all ] || { cases='' && export WGPU_ATTENTION_EVERY=1; }
  # A driver that takes all memory ends here, not the machine.
  ulimit -v 16000000
  run_tests "$log" env ${cases:+WGPU_ATTENTION_CASES=$cases} cargo test --test models -- --nocapture golden_cases
  # One line for an adapter, of whatever form its shaders and bindings are.
  [ "$3" != all ] || sed -i 's/^\(golden cases: .* on [^,(]*\(([^)]*)\)\?\), .*/\1/; s/^golden cases: .*/&, in every form/' "$log"
  golden_results "$1" "$2" "$log" '^\d+ \d+ (?!CPU)' || failed=1
  [ "$3" != cases ] || return $failed
  if [ "$3" = all ]; then
    tests=() what="all tests of kernels"
    run_tests "$log" cargo test --test models -- --skip golden_cases
    # shellcheck disable=SC2046 # two numbers
    result "$1" "$2" "all other tests of models" $(counted "$log") || failed=1
  fi
  run_tests "$log" cargo test --test kernels -- "${tests[@]}"
  # shellcheck disable=SC2046
  result "$1" "$2" "$what" $(counted "$log") || failed=1
  return $failed
}

qemu_version() { "qemu-$1" --version | sed -n 's/^\(qemu-[^ ]*\) version \([^ ]*\).*/\1 \2/p'; }

# The tests without a GPU, on the processor that Cargo's runner is: `on_processor STACK VERSION OPTION..`.
on_processor() {
  local stack=$1 version=$2 failed=0 log=$work/processor.log
  shift 2
  local tests=(cargo test -p wgpu-attention --no-default-features --features ndarray "$@")
  run_tests "$log" "${tests[@]}" --test models -- --nocapture golden_cases
  golden_results "$stack" "$version" "$log" || failed=1
  run_tests "$log" "${tests[@]}" --test models -- --skip golden_cases
  # shellcheck disable=SC2046 # two numbers
  result "$stack" "$version" "all other tests of models" $(counted "$log") || failed=1
  run_tests "$log" "${tests[@]}" --lib --test kernels
  # shellcheck disable=SC2046
  result "$stack" "$version" "all tests of kernels and of the library's parts" $(counted "$log") || failed=1
  return $failed
}

# wine with a prefix of its own, made with a display, for without one Direct3D finds no adapter.
need_wine() {
  need wine64 xvfb xauth gcc-mingw-w64-x86-64-win32
  export WINEPREFIX=$work/wine WINEDEBUG=-all WINEDLLOVERRIDES="d3dcompiler_47=n;mscoree,mshtml="
  wine=/usr/lib/wine/wine64
  [ -d "$WINEPREFIX" ] || xvfb-run -a "$wine" cmd /c exit >/dev/null 2>&1
}
wine_version() { "$wine" --version | cut -d' ' -f1; }
