#!/usr/bin/env bash
# Installs the packages that Kvasir needs: on Debian 12, Debian 13 and Ubuntu 24.04. As root, or as a user with sudo.
# Running it again is quick: what is installed already is only looked up.
#
#   deploy/install_dependencies.sh run     libraries that kvasird and kvasir load
#   deploy/install_dependencies.sh build   compilers and -dev packages (bring the libraries along)
#   deploy/install_dependencies.sh test    build, and what ctest needs
set -euo pipefail

usage() {
  echo "usage: $0 {run|build|test}" >&2
  exit 2
}

[ $# -eq 1 ] || usage
case "$1" in run | build | test) ;; *) usage ;; esac

# The table by release: what is called differently. Libraries carry their ABI in their names, so that a runtime image holds
# no headers. cargo is what to install where the one that is there is too old (below): each system's newest.
. "${KVASIR_OS_RELEASE:-/etc/os-release}"
case "${ID:-}-${VERSION_ID:-}" in
  debian-12)
    abseil=libabsl20220623 curl=libcurl4 onednn=libdnnl2 fmt=libfmt9 grpc=libgrpc29 grpcxx=libgrpc++1.51 highway=libhwy1
    protobuf=libprotobuf32 spdlog=libspdlog1.10 openssl=libssl3 yaml=libyaml-cpp0.7
    cargo=cargo-web clang=16 chromium=(chromium chromium-driver)
    ;;
  debian-13)
    abseil=libabsl20240722 curl=libcurl4t64 onednn=libdnnl3.6 fmt=libfmt10 grpc=libgrpc29t64 grpcxx=libgrpc++1.51t64 highway=libhwy1t64
    protobuf=libprotobuf32t64 spdlog=libspdlog1.15 openssl=libssl3t64 yaml=libyaml-cpp0.8
    cargo=cargo-web clang=19 chromium=(chromium chromium-driver)
    ;;
  ubuntu-24.04)
    abseil=libabsl20220623t64 curl=libcurl4t64 onednn=libdnnl3 fmt=libfmt9 grpc=libgrpc29t64 grpcxx=libgrpc++1.51t64 highway=libhwy1t64
    protobuf=libprotobuf32t64 spdlog=libspdlog1.12 openssl=libssl3t64 yaml=libyaml-cpp0.8
    cargo=cargo-1.91 clang=18 chromium=() # there only as a snap: the web page's test is skipped without it
    ;;
  *)
    echo "this is ${PRETTY_NAME:-an unknown system}; $0 knows the package names of Debian 12 and 13 and Ubuntu 24.04." >&2
    echo "Elsewhere install what its lists name by hand: docs/building.md" >&2
    exit 1
    ;;
esac

run_packages=(
  "$abseil" "$curl" "$onednn" "$fmt" "$grpc" "$grpcxx" "$highway" "$protobuf" "$spdlog" "$openssl" "$yaml"
  ca-certificates libgomp1 libprometheus-cpp-core1.0 libstdc++6
)
build_packages=(
  ca-certificates ccache cmake g++ ninja-build pkg-config protobuf-compiler protobuf-compiler-grpc
  libabsl-dev libboost-dev libcurl4-openssl-dev libdnnl-dev libgrpc++-dev libhwy-dev libprotobuf-dev libspdlog-dev
  libssl-dev libyaml-cpp-dev libcli11-dev nlohmann-json3-dev prometheus-cpp-dev
  python3 # writes the manual pages
)
# The text library is Rust, and its crates come by https: ca-certificates. Whatever cargo is there is taken when it is new
# enough, rustup's too; else the system's newest: on Debian cargo-web (what browsers are built with), beside an old cargo.
wanted_cargo=1.87
has_cargo() {
  local version
  version=$(PATH="$PATH:${HOME:-/root}/.cargo/bin" cargo --version 2>/dev/null | awk '{print $2}')
  [ -n "$version" ] && printf '%s\n%s\n' "$wanted_cargo" "$version" | sort --check=quiet --version-sort
}
has_cargo || build_packages+=("$cargo")

# Python drives the end-to-end tests. prometheus and haproxy are the real ones that watch and balance kvasird in tests;
# tests start their own. jsonschema checks structured output, matplotlib draws the dashboards, numpy makes the model of the
# quality study, docker-compose only reads its files, debootstrap makes the clean systems of the image test. clang builds
# with the sanitizers, for fuzzing and with thread-safety analysis. chromium opens the web page, Node is a client among
# others, faketime sets the clock under a daemon, and reference libraries from PyPI go into virtual environments.
test_packages=(
  "${chromium[@]}" "clang-$clang" "clang-format-$clang" debootstrap docker-compose dpkg-dev faketime file haproxy libbenchmark-dev
  "libclang-rt-$clang-dev" libgmock-dev libgtest-dev "libomp-$clang-dev" openssl prometheus python3 python3-grpcio
  python3-jsonschema python3-matplotlib python3-numpy python3-protobuf python3-venv python3-yaml
)
# Node.js from elsewhere brings its own npm, beside which the system's cannot be installed.
command -v npm >/dev/null || test_packages+=(nodejs npm)

case "$1" in
  run) packages=("${run_packages[@]}") ;;
  build) packages=("${build_packages[@]}") ;;
  test) packages=("${build_packages[@]}" "${test_packages[@]}") ;;
esac

is_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "dependencies ($1): all ${#packages[@]} packages are installed"
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "cannot install: not root and no sudo. As root, run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@"
}

echo "dependencies ($1): installing ${#missing[@]} of ${#packages[@]} packages: ${missing[*]}"
if ! apt update; then
  echo "apt-get update failed; trying once more in 5 seconds" >&2
  sleep 5
  apt update
fi
# Packages that hold a server would start it now: Debian asks policy-rc.d first, and 101 means no. On a machine with
# systemd they stay enabled for the next boot: "systemctl disable prometheus haproxy" where that is not wanted.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi
apt install --yes --no-install-recommends "${missing[@]}"
echo "dependencies ($1): done"
