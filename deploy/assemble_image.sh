#!/usr/bin/env bash
# Copies programs and what they need to run into an empty folder that becomes the image's root: the libraries they load,
# the dynamic linker, user names, and what lets scanners and lawyers see which Debian packages are inside. No shell, no
# package manager.
#
#   deploy/assemble_image.sh FOLDER PROGRAM...
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: $0 FOLDER PROGRAM..." >&2; exit 2; }
folder=$1
shift

# Usr-merged as Debian is: a library that ldd finds in /lib is in /usr/lib.
mkdir -p "$folder"/usr/{bin,lib,lib64,local/bin} "$folder"/{etc,tmp,proc,dev,sys} "$folder/var/lib/dpkg/status.d"
ln -s usr/bin "$folder/bin"
ln -s usr/lib "$folder/lib"
ln -s usr/lib64 "$folder/lib64"
chmod 1777 "$folder/tmp"
# Models by name go there; a new Docker volume takes its owner from the image.
install -d -o 10001 -g 10001 "$folder/hub"

mapfile -t libraries < <(ldd "$@" | awk '/=> \//{print $3} /^\t\//{print $1}' | sort -u)
if ldd "$@" | grep 'not found'; then
  echo "a library is missing" >&2
  exit 1
fi
for file in "$@" "${libraries[@]}"; do
  place=$(realpath -s "$file" | sed -E 's#^/(bin|lib|lib64)/#/usr/\1/#')
  install -D "$file" "$folder$place" # follows the link: the name that the program asks for is the file
done

# Authorities that a hub's certificate is checked against.
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/ca-certificates.crt"

# For whoever asks for the name of the image's user, or of a host.
printf '%s\n' 'root:x:0:0:root:/:/nonexistent' 'kvasir:x:10001:10001:kvasir:/:/nonexistent' >"$folder/etc/passwd"
printf '%s\n' 'root:x:0:' 'kvasir:x:10001:' >"$folder/etc/group"
printf '%s\n' 'hosts: files dns' >"$folder/etc/nsswitch.conf"
cp /etc/os-release "$folder/etc/"

# The packages that the files are from, as in distroless images, and their licences.
for file in "$@" "${libraries[@]}" /usr/sbin/update-ca-certificates; do
  path=$(realpath "$file")
  package=$(dpkg-query --search "$path" "${path#/usr}" 2>/dev/null | head -1 | cut -d: -f1) || true
  [ -n "$package" ] || continue # built here
  dpkg-query --status "$package" >"$folder/var/lib/dpkg/status.d/$package"
  if [ -e "/usr/share/doc/$package/copyright" ]; then
    mkdir -p "$folder/usr/share/doc/$package"
    cp -L "/usr/share/doc/$package/copyright" "$folder/usr/share/doc/$package/"
  fi
done
