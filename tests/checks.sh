#!/usr/bin/env bash
# The checks beside ctest of the Release build, one or several:
#
#   tests/checks.sh format       every C++ file is as clang-format says
#   tests/checks.sh reformat     makes it so
#   tests/checks.sh strict       clang builds everything; a warning, or a lock not held, is an error
#   tests/checks.sh sanitizers   unit and law tests of that build, under ASan and UBSan
#   tests/checks.sh fuzz         each fuzz target of that build for FUZZ_SECONDS (20), from FUZZ_SEED (1) on
#
# Needs the clang, clang-format, libclang-rt-dev and libomp-dev that deploy/install_dependencies.sh test installs: 16 on
# Debian 12. clang-format's versions differ in what they want; 16 decides.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$root/build/strict"
cd "$root"
export CCACHE_BASEDIR="$root" CCACHE_NOHASHDIR=true
export KVASIR_SHARED="${KVASIR_SHARED:-$root/../shared}"
export KVASIR_MODELS="${KVASIR_MODELS:-$KVASIR_SHARED/models}"

sources() {
  find base client kvcache runtime server tests text -name build -prune -o \
    \( -name '*.h' -o -name '*.cc' -o -name '*.inc' \) -print0 2>/dev/null
}

check_format() {
  if ! command -v clang-format-16 >/dev/null; then
    echo "******** NOT CHECKED: format, for clang-format-16 is not installed"
    return
  fi
  sources | xargs -0 clang-format-16 --dry-run -Werror
}

check_reformat() {
  sources | xargs -0 clang-format-16 -i
}

check_strict() {
  local version compiler=()
  for version in 16 18 19; do
    command -v "clang++-$version" >/dev/null && compiler=("-DCMAKE_CXX_COMPILER=clang++-$version") && break
  done
  cmake --preset strict -DBUILD_TESTING=ON "${compiler[@]}"
  cmake --build --preset strict
}

# Two at a time: what they look for does not depend on who else computes.
check_sanitizers() {
  ASAN_SYMBOLIZER_PATH=$(command -v llvm-symbolizer-16 || command -v llvm-symbolizer || true)
  export ASAN_SYMBOLIZER_PATH
  ctest --preset strict --parallel 2
}

check_fuzz() {
  local seconds=${FUZZ_SECONDS:-20} found=0 failed=() target
  for target in "$build"/fuzz/*_fuzz; do
    [ -x "$target" ] || continue
    found=1
    echo "-- $(basename "$target"), $seconds s"
    mkdir -p "$target.corpus"
    # What it found the last time is kept beside it and tried first.
    (cd "$build/fuzz" && "$target" -seed="${FUZZ_SEED:-1}" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
      "$target.corpus" 2>&1 | tail -n 20) || failed+=("$(basename "$target")")
  done
  [ $found = 1 ] || { echo "no fuzz targets in $build/fuzz: build the strict preset first"; return 1; }
  [ ${#failed[@]} -eq 0 ] || { echo "fuzz targets that found something: ${failed[*]}"; return 1; }
}

[ $# -gt 0 ] || { grep '^#   ' "$0"; exit 2; }
for check in "$@"; do
  echo "== $check"
  case "$check" in
    format | reformat | strict | sanitizers | fuzz) "check_$check" ;;
    *) echo "no check is called '$check'" >&2; exit 2 ;;
  esac
done
