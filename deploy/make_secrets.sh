#!/usr/bin/env bash
# Makes what deploy/config/tls.yaml needs, to try it and for networks of one's own: an authority, the server's certificate
# for localhost and the given names, and a key for each tenant. Where there is an authority already, put its certificate
# in the place of tls.crt and tls.key. Files that exist are kept: tls.crt removed, the next run renews it.
#
#   deploy/make_secrets.sh [--names kvasird.example.org,kvasird] [FOLDER]       default deploy/secrets
#
#   tls.crt tls.key ca.crt    for the server; clients need ca.crt
#   team-a.keys operator.keys hashes of the tenants' keys, for the server
#   team-a.key operator.key   the keys, for those clients alone
#   ca.key                    signs certificates: keep it elsewhere
set -euo pipefail

names=
if [ "${1:-}" = --names ]; then
  names=${2:?--names needs names, separated by commas}
  shift 2
fi
[ $# -le 1 ] && [[ "${1:-}" != -* ]] || { sed -n 's/^#   deploy/usage: deploy/p' "$0" >&2; exit 2; }
folder=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/secrets}
umask 077
mkdir -p "$folder"
cd "$folder"

curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
if [ ! -e ca.crt ]; then
  # Clients that check strictly, Python's from 3.13 on, want uses and identifiers of keys in both certificates.
  openssl req -x509 "${curve[@]}" -days 3650 -subj "/CN=kvasir authority" -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout ca.key -out ca.crt 2>/dev/null
fi
if [ ! -e tls.crt ]; then
  san=DNS:localhost,IP:127.0.0.1
  for name in ${names//,/ }; do san+=,DNS:$name; done
  openssl req "${curve[@]}" -subj "/CN=kvasird" -keyout tls.key -out tls.csr 2>/dev/null
  openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 \
    -extfile <(printf '%s\n' "subjectAltName=$san" basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature \
      subjectKeyIdentifier=hash authorityKeyIdentifier=keyid) -out tls.crt 2>/dev/null
  rm tls.csr
fi
for tenant in team-a operator; do
  [ ! -e "$tenant.key" ] || continue
  openssl rand -hex 32 >"$tenant.key"
  echo "sha256:$(tr -d '\n' <"$tenant.key" | sha256sum | cut -d' ' -f1)" >"$tenant.keys"
done
echo "$PWD: $(echo *)"

# The image runs as this user. Elsewhere the files stay the caller's.
if [ "$(id -u)" -eq 0 ]; then
  chown 10001 tls.crt tls.key ca.crt ./*.keys
else
  echo "for docker compose: sudo chown 10001 $PWD/{tls.crt,tls.key,ca.crt,*.keys}"
fi
