#!/usr/bin/env bash
# Installs the Debian 12 packages that Kvasir needs. As root, or as a user with sudo. Running it again is quick: what is
# installed already is only looked up.
#
#   deploy/install_dependencies.sh run     libraries that kvasird and kvasir load
#   deploy/install_dependencies.sh build   compilers and -dev packages (bring the libraries along)
#   deploy/install_dependencies.sh test    build, and what ctest needs
set -euo pipefail

# The names carry the ABI versions of Debian 12, so that a runtime image holds no headers.
run_packages=(
  ca-certificates libabsl20220623 libcurl4 libdnnl2 libfmt9 libgomp1 libgrpc++1.51 libgrpc29 libhwy1
  libprometheus-cpp-core1.0 libprotobuf32 libspdlog1.10 libssl3 libstdc++6 libyaml-cpp0.7
)
build_packages=(
  ccache cmake g++ ninja-build pkg-config protobuf-compiler protobuf-compiler-grpc
  libabsl-dev libboost-dev libcurl4-openssl-dev libdnnl-dev libgrpc++-dev libhwy-dev libprotobuf-dev libspdlog-dev libssl-dev
  libyaml-cpp-dev libcli11-dev nlohmann-json3-dev prometheus-cpp-dev
)
# The text library is Rust. Whatever cargo is there is taken when it is new enough, rustup's too; else Debian's newest,
# which comes as cargo-web (what browsers are built with) beside an old cargo.
wanted_cargo=1.87
has_cargo() {
  local version
  version=$(PATH="$PATH:${HOME:-/root}/.cargo/bin" cargo --version 2>/dev/null | awk '{print $2}')
  [ -n "$version" ] && printf '%s\n%s\n' "$wanted_cargo" "$version" | sort --check=quiet --version-sort
}
has_cargo || build_packages+=(cargo-web)

# Python drives the end-to-end tests. prometheus and haproxy are the real ones that watch and balance kvasird in tests;
# tests start their own. jsonschema checks structured output, matplotlib draws the dashboards, numpy makes the model of the
# quality study, docker-compose only reads its files, debootstrap makes the clean systems of the image test. clang builds with the sanitizers, for fuzzing and
# with thread-safety analysis. chromium opens the web page, Node is a client among others.
test_packages=(
  chromium chromium-driver clang-16 clang-format-16 debootstrap docker-compose dpkg-dev file haproxy libbenchmark-dev
  libclang-rt-16-dev libgmock-dev libgtest-dev libomp-16-dev openssl prometheus python3 python3-grpcio
  python3-jsonschema python3-matplotlib python3-numpy python3-protobuf python3-yaml
)
# Node.js from elsewhere brings its own npm, beside which Debian's cannot be installed.
command -v npm >/dev/null || test_packages+=(nodejs npm)

usage() {
  echo "usage: $0 {run|build|test}" >&2
  exit 2
}

[ $# -eq 1 ] || usage
case "$1" in
  run) packages=("${run_packages[@]}") ;;
  build) packages=("${build_packages[@]}") ;;
  test) packages=("${build_packages[@]}" "${test_packages[@]}") ;;
  *) usage ;;
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

. /etc/os-release
if [ "${ID:-}" != debian ] || [ "${VERSION_ID:-}" != 12 ]; then
  echo "warning: this is ${PRETTY_NAME:-an unknown system}, the package names are those of Debian 12" >&2
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
