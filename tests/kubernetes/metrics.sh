#!/usr/bin/env bash
#
# Lets the real metrics-server read a node of ours in a real control plane.
#
#   metrics.sh DIR
#
# Runs cluster.sh (DIR/cluster), `vk-cmd agent` and metrics-server with the flags that the documents give
# (--kubelet-use-node-status-port), starts a pod with a busy and an idle container, and waits until
# metrics-server tells what node and pod use. Everything ends with the script.
# The program under test is $VK_CMD, or target/debug/vk-cmd of this tree.
#
# Exit codes: 0 it does; 77 programs are not built (setup.sh builds them); else 1.

set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
within=120 # seconds

say() {
    printf 'metrics.sh: %s\n' "$*" >&2
}

[[ $# == 1 ]] || { say "usage: metrics.sh DIR"; exit 2; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
vk_cmd=${VK_CMD:-$here/../../target/debug/vk-cmd}

if ! "$here/setup.sh" --built etcd v1.34 metrics-server >/dev/null; then
    say "SKIPPED: tests/kubernetes/setup.sh etcd v1.34 metrics-server builds what is missing"
    exit 77
fi
metrics_server=$("$here/setup.sh" metrics-server)/metrics-server

children=()
# shellcheck disable=SC2317 # the trap calls it
finish() {
    local pid
    for pid in "${children[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    wait
    "$here/cluster.sh" stop "$dir/cluster" >/dev/null || true
}
trap finish EXIT

"$here/cluster.sh" start "$dir/cluster" --with-controllers >/dev/null
export KUBECONFIG=$dir/cluster/admin.kubeconfig

"$vk_cmd" agent --nodename vk-metrics --no-taint --kubelet-port 0 --root "$dir/agent" --drain-on-exit \
    >"$dir/agent.log" 2>&1 &
children+=($!)

port=$((20000 + RANDOM % 20000))
"$metrics_server" --kubeconfig "$KUBECONFIG" --authentication-kubeconfig "$KUBECONFIG" \
    --authorization-kubeconfig "$KUBECONFIG" --cert-dir "$dir/metrics-server" --secure-port "$port" \
    --kubelet-insecure-tls --kubelet-use-node-status-port --kubelet-preferred-address-types InternalIP \
    --metric-resolution 15s >"$dir/metrics-server.log" 2>&1 &
children+=($!)

kubectl wait --for=create node/vk-metrics --timeout="${within}s" >/dev/null
kubectl wait --for=condition=Ready node/vk-metrics --timeout="${within}s" >/dev/null
kubectl wait --for=create serviceaccount/default --timeout="${within}s" >/dev/null
kubectl apply -f - >/dev/null <<'POD'
apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  nodeName: vk-metrics
  terminationGracePeriodSeconds: 1
  containers:
  - {name: busy, image: host, command: [bash, -c, 'while :; do (:); done']}
  - {name: idle, image: host, command: [sleep, "600"]}
POD
kubectl wait --for=condition=Ready pod/busy --timeout="${within}s" >/dev/null

ask() {
    kubectl get --raw "/apis/metrics.k8s.io/v1beta1/$1" --server="https://127.0.0.1:$port" \
        --insecure-skip-tls-verify 2>>"$dir/ask.log"
}

tells() {
    local pod node
    pod=$(ask namespaces/default/pods/busy) && node=$(ask nodes/vk-metrics) || return 1
    [[ $pod == *'"name":"busy","usage":{"cpu":"'[1-9]* && $pod == *'"name":"idle"'* && $node == *'"cpu":"'[1-9]* ]] || return 1
    printf '%s\n%s\n' "$pod" "$node"
}

for ((i = 0; i < within; i++)); do
    if tells; then
        exit 0
    fi
    sleep 1
done
say "metrics-server tells nothing; its log is $dir/metrics-server.log, the agent's $dir/agent.log"
exit 1
