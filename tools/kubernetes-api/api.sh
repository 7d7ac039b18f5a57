#!/bin/sh
# Asks the API server of a kubeconfig: api.sh PATH [curl's options]
set -eu
path="${1:?usage: $0 PATH [curl options]}"
shift
config="${KUBECONFIG:-$HOME/.kube/config}"

# The first value of a key; kubeconfigs of one cluster and one user have one of each.
value() { sed -n "s/^ *-\{0,1\} *\"\{0,1\}$1\"\{0,1\}: *\"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" "$config" | head -n 1; }

keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
value certificate-authority-data | base64 -d >"$keys/ca"
value client-certificate-data | base64 -d >"$keys/cert"
(umask 077 && value client-key-data | base64 -d >"$keys/key")

curl -fsS --cacert "$keys/ca" --cert "$keys/cert" --key "$keys/key" "$@" "$(value server)$path"
