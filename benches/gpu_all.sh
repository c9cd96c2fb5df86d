#!/usr/bin/env bash
# Everything that is to be known of a GPU, in one command, on a machine that has no Rust.
#
#     benches/gpu_all.sh pack FOLDER [LIBRARY...]    where Rust is: builds programs into FOLDER
#     FOLDER/gpu_all.sh run OUT [--quick] [--adapter NAME] [--only STEPS]    where the GPU is
#
# `pack` takes the golden cases with their test, the twins, `--bench gpu`, the examples `tune` and
# `million`, and the scripts that time PyTorch and JAX. They need an x86-64 Linux with a C library no older
# than the one here and a Vulkan loader: give `libvulkan.so.1` as a LIBRARY where there is none.
# `run` takes under nine minutes: each step has a limit, a step that fails is noted and the next one
# runs. OUT then holds a text for each step, `gpu.json`, `tuned.json`, `torch.json`, `jax.json` and
# `steps.tsv`. PyTorch and JAX are timed where the Python of the variable PYTHON (python3) has them.
# STEPS are words, such as "golden gpu million torch": the others are left out.
set -uo pipefail
usage() { sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0"; exit 2; }
[ $# -ge 2 ] || usage
mode=$1 at=$2
shift 2

pack() {
  set -e
  at=$(realpath -m "$at")
  cd "$(dirname "$0")/.."
  mkdir -p "$at/bin" "$at/lib" "$at/peers"
  # The program that cargo says it built.
  built() { cargo "$@" --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1; }
  put() {
    [ -n "$1" ] || { echo "cargo built no program for $2; what it said is above" >&2; exit 1; }
    cp "$1" "$at/bin/$2"
    strip "$at/bin/$2"
  }
  put "$(built test --no-run --test models)" models
  put "$(built test --no-run --test kernels)" kernels
  put "$(built bench --no-run -p wgpu-attention-benches --bench gpu)" gpu
  put "$(built build --release -p wgpu-attention-examples --example tune)" tune
  put "$(built build --release -p wgpu-attention-examples --example million)" million
  cp -r tests/fixtures "$at/"
  cp benches/peers/*.py "$at/peers/"
  cp benches/gpu_all.sh "$at/"
  for library in "$@"; do cp -L "$library" "$at/lib/"; done
  { git log -1 --format='%H %cs' && rustc --version; } >"$at/version"
  du -sh "$at"
}

run() {
  local quick=() adapter=() only="" here
  while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=(--quick) ;;
    --adapter) adapter=(--adapter "$2") && shift ;;
    --only) only=" $2 " && shift ;;
    *) usage ;;
    esac
    shift
  done
  here=$(cd "$(dirname "$0")" && pwd)
  mkdir -p "$at" && cd "$at" || exit 1
  export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  export WGPU_ATTENTION_FIXTURES="$here/fixtures" WGPU_ATTENTION_REQUIRE_GPU=1
  : "${XDG_RUNTIME_DIR:=/tmp}" && export XDG_RUNTIME_DIR
  local budget=520 python=${PYTHON:-python3}
  printf 'step\tseconds\tstatus\n' >steps.tsv
  # step NAME SECONDS COMMAND...: what it prints goes to NAME.txt.
  step() {
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    [[ -z $only || $only == *" ${name%%-*} "* ]] || return 0
    local left=$((budget - SECONDS))
    if [ "$left" -lt 5 ]; then
      printf '%s\t0\tno time left\n' "$name" | tee -a steps.tsv
      return
    fi
    timeout -k 5 "$((limit < left ? limit : left))" "$@" >"$name.txt" 2>&1
    status=$?
    case $status in
    0) status=passed ;;
    124 | 137) status="stopped after $((SECONDS - start)) s" ;;
    *) status="failed ($status): $(tail -n 1 "$name.txt")" ;;
    esac
    printf '%s\t%s\t%s\n' "$name" "$((SECONDS - start))" "$status" | tee -a steps.tsv
  }
  # Sizes of the examples.
  local context=100000 test=1000000
  [ ${#quick[@]} = 0 ] || { context=200 test=400; }
  step machine 20 sh -c "cat '$here/version'; uname -a; grep -m1 'model name' /proc/cpuinfo; nproc
    command -v nvidia-smi >/dev/null && nvidia-smi; command -v vulkaninfo >/dev/null && vulkaninfo --summary; true"
  has() { "$python" -c "import $1" >/dev/null 2>&1; }
  # What is right needs no idle machine: it is seen to while PyTorch compiles what it is timed with.
  if has torch; then step torch-warm 150 "$python" "$here/peers/attention.py" "${quick[@]}" --warm-up & fi
  # A process for each case: one after the other they would wait for the driver's compiler.
  # shellcheck disable=SC2016
  step golden 100 sh -c 'ls "$0/fixtures" | sed -n "s/\.safetensors$//p" |
    xargs -P "$(nproc)" -I{} env WGPU_ATTENTION_CASES={} "$0/bin/models" f16_golden_cases' "$here" &
  step golden-matrix 100 "$here/bin/models" golden_cases_on_matrix_units &
  step twins 100 "$here/bin/kernels" twins plans matrix half &
  wait
  step gpu 200 "$here/bin/gpu" "${quick[@]}" "${adapter[@]}" --save gpu.json
  local attention
  for attention in deep-kernel performer scan; do
    step "million-$attention" 90 "$here/bin/million" --device "${adapter[1]:-gpu}" \
      --context "$context" --test "$test" --attention "$attention"
  done
  # peer NAME SECONDS SCRIPT: where this Python has the module of that name.
  peer() {
    if has "$1"; then
      step "$1" "$2" "$python" "$here/peers/$3" "${quick[@]}" --json "$1.json"
    else
      printf '%s\t0\tskipped: %s has no %s\n' "$1" "$python" "$1" | tee -a steps.tsv
    fi
  }
  peer torch 120 attention.py
  peer jax 60 attention_jax.py
  step tune 90 "$here/bin/tune" "${quick[@]}" "${adapter[@]}" --out tuned.json
  echo
  [ ! -s gpu.txt ] || cat gpu.txt
  local text
  for text in million-*.txt torch.txt jax.txt; do
    [ ! -e "$text" ] || { echo "== $text" && tail -n 30 "$text"; }
  done
  echo "all of it in $at, after $SECONDS s"
  ! grep -qE $'\t(failed|stopped)' steps.tsv
}

case $mode in
pack) pack "$@" ;;
run) run "$@" ;;
*) usage ;;
esac
