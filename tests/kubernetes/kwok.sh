#!/usr/bin/env bash
#
# Runs a hundred simulated nodes and a thousand pods against the embedded API server, with kube-scheduler and
# kube-controller-manager: the pods come from Deployments, run on all nodes, and go with their namespace.
#
#   kwok.sh [DIR] [--nodes=N] [--pods=N]
#
# Starts a cluster in DIR (default: a temporary directory) with embedded.sh and stops it at the end; DIR then has
# the logs. Says how long each step took, and what the embedded control plane took of memory.
# Exit codes: those of embedded.sh (77: no Go, nothing built), else 1.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
within=300s # for one step: kube-controller-manager makes 20 pods a second
nodes=100
pods=1000
dir=
for argument; do
    case $argument in
    --nodes=*) nodes=${argument#*=} ;;
    --pods=*) pods=${argument#*=} ;;
    -*)
        sed -n 's/^#   //p' "$0" >&2
        exit 2
        ;;
    *) dir=$argument ;;
    esac
done
if [[ $dir ]]; then
    trap '"$here/embedded.sh" stop "$dir"' EXIT
else
    dir=$(mktemp -d)
    trap '"$here/embedded.sh" stop "$dir"; rm -rf "$dir"' EXIT
fi

began=$SECONDS
say() {
    printf '%4d s  %s\n' "$((SECONDS - began))" "$*"
}

fail() {
    say "FAIL  $*"
    exit 1
}

bin=$("$here/setup.sh" v1.34/kubectl)
kubectl() {
    "$bin/kubectl" "$@"
}

memory() {
    local pid
    read -r pid _ <"$dir/vk-cmd.pid"
    awk '/^VmRSS/ { printf "%.0f MB", $2 * 1.024 / 1000 }' "/proc/$pid/status"
}

KUBECONFIG=$("$here/embedded.sh" start "$dir" --real-scheduler --nodes="$nodes")
export KUBECONFIG
ready=$(kubectl get nodes --no-headers | awk '$2 == "Ready"' | wc -l)
((ready == nodes)) || fail "$ready of $nodes nodes are Ready"
say "$nodes nodes are Ready; the control plane takes $(memory)"

deployments=10
kubectl create namespace many >/dev/null
for ((i = 0; i < deployments; i++)); do
    kubectl -n many create deployment "web-$i" --image=web --replicas="$((pods / deployments))" >/dev/null
done
for ((i = 0; i < deployments; i++)); do
    kubectl -n many rollout status "deployment/web-$i" --timeout="$within" >"$dir/step.log" ||
        fail "$(cat "$dir/step.log")"
done
running=$(kubectl -n many get pods --field-selector=status.phase=Running --no-headers | wc -l)
((running == pods)) || fail "$running of $pods pods run"
used=$(kubectl -n many get pods -o jsonpath='{range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort | uniq -c |
    awk 'NR == 1 || $1 < least { least = $1 } $1 > most { most = $1 } END { print NR, least, most }')
read -r on least most <<<"$used"
((on == nodes)) || fail "they run on $on of $nodes nodes"
say "$pods pods of $deployments Deployments run, on each node $least to $most; the control plane takes $(memory)"

kubectl delete namespace many --timeout="$within" >"$dir/step.log" || fail "$(cat "$dir/step.log")"
left=$(kubectl get pods -A --no-headers 2>/dev/null | wc -l)
((left == 0)) || fail "$left pods are left"
ready=$(kubectl get nodes --no-headers | awk '$2 == "Ready"' | wc -l)
((ready == nodes)) || fail "$ready of $nodes nodes are still Ready"
say "the namespace is gone with all of them; all nodes are still Ready; the control plane takes $(memory)"
