#!/usr/bin/env bash
#
# Shows that kube-controller-manager and kube-scheduler do their work against the embedded API server:
# workloads roll out and end, garbage is collected, budgets hold, namespaces go.
#
#   components.sh [DIR]
#
# Starts a cluster in DIR (default: a temporary directory) with embedded.sh and stops it at the end; DIR then has
# the logs. Each step waits for its outcome and names itself where that does not come.
# Exit codes: those of embedded.sh (77: no Go, nothing built), else 1.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
within=90s # for one step, on a busy machine
if (($#)); then
    dir=$1
    trap '"$here/embedded.sh" stop "$dir"' EXIT
else
    dir=$(mktemp -d)
    trap '"$here/embedded.sh" stop "$dir"; rm -rf "$dir"' EXIT
fi

KUBECONFIG=$("$here/embedded.sh" start "$dir" --real-scheduler)
export KUBECONFIG
bin=$("$here/setup.sh" v1.34/kubectl)

kubectl() {
    "$bin/kubectl" "$@"
}

step() {
    local what=$1
    shift
    if "$@" >"$dir/step.log" 2>&1; then
        printf 'ok    %s\n' "$what"
    else
        printf 'FAIL  %s\n' "$what"
        cat "$dir/step.log"
        exit 1
    fi
}

pods_bound_by_kube_scheduler() {
    kubectl get pods -l app=web -o jsonpath='{range .items[*]}{.spec.nodeName}{"\n"}{end}' | grep -c kwok-node | grep -qx 5
    kubectl get events --field-selector reason=Scheduled -o jsonpath='{.items[*].reportingComponent}' | grep -q default-scheduler
}

eviction_is_refused() {
    local pod
    pod=$(kubectl get pods -l app=web -o jsonpath='{.items[0].metadata.name}')
    kubectl wait --for=jsonpath='{.status.expectedPods}'=5 pdb/web --timeout="$within"
    ! kubectl create --raw "/api/v1/namespaces/default/pods/$pod/eviction" -f - 2>"$dir/eviction" <<EOF || return 1
{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "$pod", "namespace": "default"}}
EOF
    grep -q "Cannot evict pod as it would violate the pod's disruption budget" "$dir/eviction"
}

gone() {
    kubectl wait --for=delete "$@" --timeout="$within"
}

# Nobody has asked for Deployments yet but kube-controller-manager.
informers_sync() {
    local deadline=$((SECONDS + ${within%s}))
    until kubectl get --raw /metrics >"$dir/metrics" && grep -q 'resource="deployments",verb="WATCH"' "$dir/metrics"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.2
    done
    ! grep 'resource="deployments",verb="LIST"' "$dir/metrics"
}

rolls_out() {
    kubectl create deployment web --image=web:1 --replicas=3 &&
        kubectl rollout status deployment/web --timeout="$within"
}

scales() {
    kubectl scale deployment/web --replicas=5 &&
        kubectl wait --for=jsonpath='{.status.readyReplicas}'=5 deployment/web --timeout="$within"
}

changes_its_image() {
    kubectl set image deployment/web web=web:2 &&
        kubectl rollout status deployment/web --timeout="$within"
}

gets_endpoints() {
    kubectl expose deployment web --port=80 &&
        kubectl wait --for=jsonpath='{.subsets[0].addresses[0].ip}' endpoints/web --timeout="$within"
}

budget_holds() {
    kubectl create pdb web --selector=app=web --min-available=5 &&
        eviction_is_refused
}

job_completes() {
    kubectl create job once --image=job &&
        kubectl wait --for=condition=Complete job/once --timeout="$within"
}

cron_job_makes_jobs() {
    kubectl create cronjob often --image=job --schedule='* * * * *' &&
        kubectl wait --for=jsonpath='{.status.lastScheduleTime}' cronjob/often --timeout="$within"
}

garbage_goes() {
    kubectl delete deployment web --cascade=foreground --timeout="$within" &&
        gone pods -l app=web &&
        gone replicasets -l app=web
}

orphans_stay() {
    kubectl delete statefulset ordered --cascade=orphan &&
        kubectl get pod ordered-0 ordered-1
}

namespace_goes() {
    kubectl create namespace short &&
        kubectl -n short create deployment web --image=web --replicas=2 &&
        kubectl -n short rollout status deployment/web --timeout="$within" &&
        kubectl delete namespace short --timeout="$within" &&
        gone namespace/short
}

step "informers sync by watches that begin with a list" informers_sync
step "a Deployment rolls out" rolls_out
step "it scales" scales
step "its pods are bound by kube-scheduler" pods_bound_by_kube_scheduler
step "it rolls over to another image" changes_its_image
step "a Service gets endpoints" gets_endpoints
step "a budget is counted, an eviction beyond it refused" budget_holds
step "an autoscaler is accepted" kubectl autoscale deployment web --max=9 --cpu-percent=50
step "a Job completes" job_completes
step "a CronJob makes Jobs" cron_job_makes_jobs
step "a StatefulSet and a DaemonSet roll out" kubectl apply -f - <<'EOF'
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ordered}
spec:
  replicas: 2
  serviceName: ordered
  selector: {matchLabels: {app: ordered}}
  template:
    metadata: {labels: {app: ordered}}
    spec: {containers: [{name: main, image: main}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec: {containers: [{name: main, image: main}]}
EOF
step "… the first in order" kubectl rollout status statefulset/ordered --timeout="$within"
step "… the second on each node" kubectl rollout status daemonset/everywhere --timeout="$within"
step "garbage is collected" garbage_goes
step "orphans stay" orphans_stay
step "a namespace goes with all that is in it" namespace_goes
if grep -q 'Observed a panic' "$dir"/kube-*.log; then
    echo "FAIL  a program panicked; see $dir/kube-*.log"
    exit 1
fi
