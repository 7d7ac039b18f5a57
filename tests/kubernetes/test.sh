#!/usr/bin/env bash
#
# Everything that needs a real Kubernetes, one step after the other: what `make test-kubernetes` runs.
#
#   test.sh [STEP…]   some of the steps; all where none is named
#
#   programs       setup.sh builds what is missing: etcd, two versions of Kubernetes, kwok, metrics-server
#   build          cargo builds the program and its tests
#   end-to-end     tests/it: each test that runs on both control planes on the real one, and the workloads on both
#   same-requests  the same requests to both API servers, answers compared
#   components     kube-scheduler and kube-controller-manager against the embedded API server (components.sh)
#   kwok           100 simulated nodes and 1,000 pods against it (kwok.sh)
#   hpa            metrics-server reads a node of ours, an autoscaler scales on it (hpa.sh)
#
# A step that fails does not keep the others from running, but for the first two. The end of the output has a
# line for each step: how it ended, and its seconds. $KUBERNETES replaces the list of what setup.sh builds, and
# $VK_CMD_KUBERNETES_CACHE says where to: see there.
#
# Exit codes: 0 nothing failed; 77 programs are not built and there is no Go; 2 usage; else 1.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
cargo=${CARGO:-cargo}
all=(programs build end-to-end same-requests components kwok hpa)
kubernetes=v1.34/kube-apiserver
for program in kube-scheduler kube-controller-manager kubectl; do
    kubernetes+=" v1.34/$program"
done
for program in kube-apiserver kube-scheduler kube-controller-manager; do
    kubernetes+=" v1.30/$program"
done
read -ra programs <<<"${KUBERNETES:-etcd $kubernetes kwok metrics-server}"

steps=("$@")
((${#steps[@]})) || steps=("${all[@]}")
for step in "${steps[@]}"; do
    if [[ " ${all[*]} " != *" $step "* ]]; then
        echo "test.sh: no step $step; there are: ${all[*]}" >&2
        exit 2
    fi
done

# shellcheck disable=SC2317 # run calls it by its name
run_programs() {
    "$here/setup.sh" "${programs[@]}" >/dev/null
}

# With the packages of both steps named in both, what they need is built once, not with other features for each.
same=(--package vk-cmd --package control-plane --test same_requests)

# shellcheck disable=SC2317
run_build() {
    "$cargo" test --locked --package vk-cmd --test it --no-run &&
        "$cargo" test --locked "${same[@]}" --no-run
}

# shellcheck disable=SC2317
run_end-to-end() {
    # Most of them wait most of the time.
    "$cargo" test --locked --package vk-cmd --test it -- real workloads:: --test-threads=4
}

# shellcheck disable=SC2317
run_same-requests() {
    "$cargo" test --locked "${same[@]}"
}

# A script that takes a directory; what is in it stays where the script fails.
script() {
    local name=$1 dir code=0
    dir=$(mktemp -d)
    "$here/$name.sh" "$dir" || code=$?
    if ((code == 0 || code == 77)); then
        rm -rf "$dir"
    else
        echo "test.sh: the logs of $name.sh are in $dir" >&2
    fi
    return "$code"
}

# shellcheck disable=SC2317
run_components() {
    script components
}

# shellcheck disable=SC2317
run_kwok() {
    script kwok
}

# shellcheck disable=SC2317
run_hpa() {
    script hpa
}

export VK_CMD=${VK_CMD:-${CARGO_TARGET_DIR:-$PWD/target}/debug/vk-cmd}
failed=0
skipped=0
lines=()
for step in "${steps[@]}"; do
    printf '\n== %s\n' "$step"
    # The kubectl of these versions, where the machine has none: what the first step builds.
    if ! command -v kubectl >/dev/null && "$here/setup.sh" --built v1.34/kubectl >/dev/null 2>&1; then
        PATH=$PATH:$("$here/setup.sh" v1.34/kubectl)
    fi
    began=$SECONDS
    code=0
    "run_$step" || code=$?
    case $code in
    0) how=ok ;;
    77)
        how=SKIPPED
        skipped=1
        ;;
    *)
        how="FAILED ($code)"
        failed=1
        ;;
    esac
    lines+=("$(printf '%-14s %5d s  %s' "$step" $((SECONDS - began)) "$how")")
    if ((code)) && [[ $step == programs || $step == build ]]; then
        break
    fi
done

printf '\n== test-kubernetes\n'
printf '%s\n' "${lines[@]}"
printf '%-14s %5d s\n' all "$SECONDS"
((failed == 0)) || exit 1
if ((skipped)); then
    printf '\nSKIPPED: programs of a real Kubernetes are not built; tests/kubernetes/setup.sh says which (it needs Go)\n'
    exit 77
fi
