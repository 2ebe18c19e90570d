#!/usr/bin/env bash
# Runs what the Dockerfile's runtime stage says, in order, on a clean Debian 12 root file system, where no container
# engine is needed: packages, binaries, models; then as the image's user, with the image's command, on a read-only root:
# the daemon starts, is healthy, serves, and drains on SIGTERM in time. Prints the size of the image without the models.
#
#   tests/image_test.sh [FOLDER_OF_BINARIES]        default build/release/bin; they are stripped on the way
#
# As root; needs debootstrap, unshare and about 600 MB below ${TMPDIR:-/tmp}. Not part of ctest: it downloads a system.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
binaries=${1:-$root/build/release/bin}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
image=$(mktemp -d "${TMPDIR:-/tmp}/kvasir-image.XXXXXX")
chmod 755 "$image" # mktemp gives it to root alone
daemon=
finish() {
  [ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null || true
  rm -rf --one-file-system "$image"
}
trap finish EXIT

fail() {
  echo "image test: $*" >&2
  [ ! -f "$image.log" ] || cat "$image.log" >&2
  exit 1
}

# A line of the Dockerfile's runtime stage, without its keyword.
stage() {
  sed -n '/^FROM debian:12-slim/,$p' "$root/Dockerfile" | sed -n "s/^$1 //p" | tail -1
}
list() { # a JSON list of strings to one word per line
  tr -d '[]"' <<<"$1" | tr ',' '\n' | sed 's/^ *//'
}

echo "== FROM debian:12-slim"
debootstrap --variant=minbase bookworm "$image" "$mirror" >"$image.log" 2>&1 || fail "debootstrap failed"
cp /etc/apt/sources.list "$image/etc/apt/sources.list" 2>/dev/null || true
cp -r /etc/apt/sources.list.d /etc/apt/apt.conf.d "$image/etc/apt/" 2>/dev/null || true
cp /etc/resolv.conf "$image/etc/" 2>/dev/null || true
before=$(du -sm "$image" | cut -f1)

echo "== RUN install_dependencies.sh run"
install -m 755 "$root/deploy/install_dependencies.sh" "$image/tmp/"
chroot "$image" /tmp/install_dependencies.sh run >>"$image.log" 2>&1 || fail "installing packages failed"
rm -rf "$image/tmp/install_dependencies.sh" "$image"/var/lib/apt/lists/* "$image"/var/cache/apt/*

echo "== COPY binaries, models, licence"
install -s -m 755 "$binaries/kvasird" "$binaries/kvasir" "$image/usr/local/bin/"
without_models=$(du -sm "$image" | cut -f1)
cp -r "$root/deploy/models" "$image/models"
install -D -m 644 "$root/LICENSE" "$image/usr/share/doc/kvasir/copyright"
echo "   ${without_models} MB without models, of which the base system is ${before} MB before its caches are removed"

mapfile -t entrypoint < <(list "$(stage ENTRYPOINT)")
mapfile -t command < <(list "$(stage CMD)")
mapfile -t health < <(stage HEALTHCHECK | sed 's/.*CMD //' | tr -d '[]"' | tr ',' '\n' | sed 's/^ *//')
user=$(stage USER)
[ -n "$user" ] && [ ${#entrypoint[@]} -gt 0 ] && [ ${#command[@]} -gt 0 ] || fail "the Dockerfile has no USER, ENTRYPOINT or CMD"

# Ports of their own, so that a daemon on this machine does not answer in its place.
command=("${command[@]//:50051/:50971}")
command=("${command[@]//:9464/:9971}")
as_user=(setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups --no-new-privs --bounding-set -all)
inside=(chroot "$image" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin KVASIR_SERVER=127.0.0.1:50971 "${as_user[@]}")

echo "== run as $user, root read-only: ${entrypoint[*]} ${command[*]}"
# shellcheck disable=SC2016
unshare --mount --propagation private bash -c '
  image=$1; shift
  mount --bind "$image" "$image" && mount -t proc proc "$image/proc" && mount -o remount,bind,ro "$image" && exec "$@"
' mount "$image" "${inside[@]}" "${entrypoint[@]}" "${command[@]}" >>"$image.log" 2>&1 &
daemon=$!

healthy=
for _ in $(seq 300); do
  kill -0 "$daemon" 2>/dev/null || fail "the daemon ended"
  if "${inside[@]}" "${health[@]}" >/dev/null 2>&1; then healthy=yes; break; fi
  sleep 0.2
done
[ -n "$healthy" ] || fail "not healthy within a minute"
[ "$(stat -c %u "/proc/$daemon")" = "${user%:*}" ] || fail "the daemon does not run as $user"
text=$("${inside[@]}" kvasir generate --max_tokens 16 --temperature 0 "Once upon a time") || fail "it does not generate"
[ -n "$text" ] || fail "it generates nothing"
echo "   healthy; says: $text"

started=$(date +%s%N)
kill -TERM "$daemon"
code=0
wait "$daemon" || code=$?
chmod 755 "$image" # mktemp gives it to root alone
daemon=
[ "$code" -eq 0 ] || fail "exit code $code after SIGTERM"
echo "   drained in $((($(date +%s%N) - started) / 1000000)) ms, exit code 0"
echo "== image test passed"
rm -f "$image.log"
