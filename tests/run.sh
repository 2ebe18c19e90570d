#!/usr/bin/env bash
# Installs what the tests need, builds Release and runs the whole of ctest.
#
#   tests/run.sh [ctest arguments, such as -L e2e or -R kv_]
#
# The golden models are taken from KVASIR_MODELS, else from ../shared/models beside the checkout; without them only the
# bundled model is tested.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$root/build/release"
export KVASIR_MODELS="${KVASIR_MODELS:-$root/../shared/models}"

echo "== Debian packages"
"$root/deploy/install_dependencies.sh" test

echo "== build (Release, into $build)"
cd "$root"
# Objects are found again in other checkouts, and by the image test.
export CCACHE_BASEDIR="$root" CCACHE_NOHASHDIR=true
cmake --preset release -DBUILD_TESTING=ON
cmake --build --preset release

echo "== tests (models from $KVASIR_MODELS)"
[ -d "$KVASIR_MODELS" ] || echo "   that folder does not exist: ONLY THE BUNDLED MODEL IS TESTED"
cd "$build"
# One at a time: compute tests use all cores, and timeouts should mean something.
ctest --output-on-failure "$@"
