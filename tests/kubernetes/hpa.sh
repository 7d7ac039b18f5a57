#!/usr/bin/env bash
#
# Lets the real metrics-server read a node of ours in a real control plane, with the flags that the documents give
# (--kubelet-use-node-status-port), and a HorizontalPodAutoscaler scale a Deployment of scripts on it from 1 to 4
# pods and back.
#
#   hpa.sh [DIR] [--record=FILE]
#
# Runs cluster.sh (DIR/cluster; default: a temporary directory), `vk-cmd agent` and metrics-server, which is
# registered with the API server. First a pod with a busy and an idle container runs until metrics-server tells what
# it and the node use. The script of the scaled pods burns processor time while there is a file "busy", and rests
# otherwise: no client sends it load.
# FILE (default DIR/scaling.tsv) gets a line a second: seconds, pods wanted, pods ready, use in percent of what is
# requested. `scripts/plot scaling FILE` draws it. Everything ends with the script.
# The program under test is $VK_CMD, or target/debug/vk-cmd of this tree.
#
# Exit codes: 0 all of it came; 77 programs are not built (setup.sh builds them); else 1.

set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
within=180 # seconds, for one step
most=4

say() {
    printf 'hpa.sh: %s\n' "$*" >&2
}

dir=
record=
for argument; do
    case $argument in
    --record=*) record=$(realpath "${argument#*=}") ;;
    -*)
        sed -n 's/^#   //p' "$0" >&2
        exit 2
        ;;
    *) dir=$argument ;;
    esac
done
vk_cmd=${VK_CMD:-$here/../../target/debug/vk-cmd}
if ! "$here/setup.sh" --built etcd v1.34 metrics-server >/dev/null; then
    say "SKIPPED: tests/kubernetes/setup.sh etcd v1.34 metrics-server builds what is missing"
    exit 77
fi
metrics_server=$("$here/setup.sh" metrics-server)/metrics-server
PATH=$("$here/setup.sh" v1.34/kubectl):$PATH

temporary=
if [[ ! $dir ]]; then
    dir=$(mktemp -d)
    temporary=$dir
fi
mkdir -p "$dir/home"
dir=$(cd "$dir" && pwd)
record=${record:-$dir/scaling.tsv}
children=()
finish() {
    local pid
    for pid in "${children[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    wait
    "$here/cluster.sh" stop "$dir/cluster" >/dev/null || true
    [[ ! $temporary ]] || rm -rf "$temporary"
}
trap finish EXIT

# The API server finds metrics-server by the name of its service, as no proxy of services runs here. The autoscaler's
# defaults wait five minutes before they scale down.
"$here/cluster.sh" start "$dir/cluster" --with-controllers --apiserver-arg=--enable-aggregator-routing=false \
    --controller-manager-arg=--horizontal-pod-autoscaler-sync-period=2s \
    --controller-manager-arg=--horizontal-pod-autoscaler-downscale-stabilization=10s \
    --controller-manager-arg=--horizontal-pod-autoscaler-initial-readiness-delay=1s \
    --controller-manager-arg=--horizontal-pod-autoscaler-cpu-initialization-period=1s >/dev/null
export KUBECONFIG=$dir/cluster/admin.kubeconfig

HOME=$dir/home "$vk_cmd" agent --nodename vk-scaling --no-taint --kubelet-port 0 --root "$dir/agent" \
    --drain-on-exit >"$dir/agent.log" 2>&1 &
children+=($!)

port=$((20000 + RANDOM % 12000))
"$metrics_server" --kubeconfig "$KUBECONFIG" --authentication-kubeconfig "$KUBECONFIG" \
    --authorization-kubeconfig "$KUBECONFIG" --cert-dir "$dir/metrics-server" --bind-address 127.0.0.1 \
    --secure-port "$port" --kubelet-insecure-tls --kubelet-use-node-status-port \
    --kubelet-preferred-address-types InternalIP --metric-resolution 10s --kubelet-request-timeout 5s \
    >"$dir/metrics-server.log" 2>&1 &
children+=($!)

kubectl apply -f - >/dev/null <<EOF
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec: {type: ExternalName, externalName: localhost}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: metrics-server, namespace: kube-system, port: $port}
EOF
kubectl wait --for=condition=Available apiservice/v1beta1.metrics.k8s.io --timeout="${within}s" >/dev/null
kubectl wait --for=create node/vk-scaling --timeout="${within}s" >/dev/null
kubectl wait --for=condition=Ready node/vk-scaling --timeout="${within}s" >/dev/null

kubectl apply -f - >/dev/null <<'EOF'
apiVersion: v1
kind: Pod
metadata: {name: two}
spec:
  nodeName: vk-scaling
  terminationGracePeriodSeconds: 1
  containers:
  - {name: busy, image: host, command: [bash, -c, 'while :; do (:); done']}
  - {name: idle, image: host, command: [sleep, "600"]}
EOF
kubectl wait --for=condition=Ready pod/two --timeout="${within}s" >/dev/null

# The names and amounts in an answer, without the words around them.
amounts() {
    grep -o '"\(name\|cpu\|memory\)":"[^"]*"' <<<"$1" | tr -d '"' | paste -sd ' '
}

tells() {
    local pod node
    pod=$(kubectl get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods/two 2>>"$dir/ask.log") || return 1
    node=$(kubectl get --raw /apis/metrics.k8s.io/v1beta1/nodes/vk-scaling 2>>"$dir/ask.log") || return 1
    [[ $pod == *'"name":"busy","usage":{"cpu":"'[1-9]* && $pod == *'"name":"idle"'* && $node == *'"cpu":"'[1-9]* ]] || return 1
    say "metrics-server tells: $(amounts "$pod"); $(amounts "$node")"
}

deadline=$((SECONDS + within))
until tells; do
    if ((SECONDS >= deadline)); then
        say "metrics-server tells nothing; its log is $dir/metrics-server.log, the agent's $dir/agent.log"
        exit 1
    fi
    sleep 1
done
kubectl delete pod two --timeout="${within}s" >/dev/null

kubectl apply -f - >/dev/null <<EOF
apiVersion: v1
kind: ConfigMap
metadata: {name: burn}
data:
  burn.sh: |
    #!/bin/bash
    while :; do
        if [[ -e $dir/home/busy ]]; then
            for ((i = 0; i < 100000; i++)); do :; done
        else
            sleep 0.5
        fi
    done
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: burn}
spec:
  replicas: 1
  selector: {matchLabels: {app: burn}}
  template:
    metadata: {labels: {app: burn}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: script
        command: [bash]
        resources: {requests: {cpu: 100m}}
        volumeMounts: [{name: script, mountPath: stress}]
      volumes: [{name: script, configMap: {name: burn}}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: burn}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: burn}
  minReplicas: 1
  maxReplicas: $most
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
EOF
kubectl rollout status deployment/burn --timeout="${within}s" >/dev/null

printf 'seconds\tpods wanted\tpods ready\tuse in percent\n' >"$record"
began=$SECONDS
wanted='' ready='' used=''
look() {
    wanted=$(kubectl get deployment burn -o jsonpath='{.spec.replicas}')
    ready=$(kubectl get deployment burn -o jsonpath='{.status.readyReplicas}')
    used=$(kubectl get hpa burn -o jsonpath='{.status.currentMetrics[0].resource.current.averageUtilization}')
    printf '%s\t%s\t%s\t%s\n' "$((SECONDS - began))" "$wanted" "${ready:-0}" "$used" >>"$record"
}

# until_scaled TO SECONDS-OF-REST-AFTERWARDS: looks once a second.
until_scaled() {
    local deadline=$((SECONDS + within)) rest=$2
    while ((SECONDS < deadline)); do
        look
        if [[ $wanted == "$1" && $ready == "$1" && $used ]]; then
            ((rest-- > 0)) || return 0
        fi
        sleep 1
    done
    say "no $1 pods after $within s; the autoscaler says:"
    kubectl describe hpa burn >&2
    return 1
}

until_scaled 1 3
touch "$dir/home/busy"
say "1 pod runs, the autoscaler knows its use ($used %); after $((SECONDS - began)) s its script begins to burn"
until_scaled "$most" 10
say "$most pods run after $((SECONDS - began)) s, at $used % of what they request; the script stops to burn"
rm "$dir/home/busy"
until_scaled 1 5
say "1 pod runs after $((SECONDS - began)) s"
