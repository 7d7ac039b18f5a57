#!/usr/bin/env bash
#
# Runs the embedded control plane with Kubernetes' own programs around it, on loopback ports.
#
#   embedded.sh start DIR [--nodes=N] [--real-scheduler] [--no-controller-manager]
#   embedded.sh stop DIR
#
# "start" runs `vk-cmd up --no-node --no-controllers`, kube-controller-manager with every controller, and kwok
# with N simulated nodes (default 2; their pods become Running at once, those of jobs complete). The pods are
# placed by our scheduler or, with --real-scheduler, by kube-scheduler. It prints the path of DIR/admin.kubeconfig.
# With --no-controller-manager, our own controllers run instead of it.
# The program under test is $VK_CMD, or target/debug/vk-cmd of this tree.
#
# "stop" ends all of them, also where an earlier run died half-way, and keeps DIR.
#
# DIR then holds
#   admin.kubeconfig   a member of system:masters
#   state/             the state directory of vk-cmd
#   pki/               keys and certificates of the programs beside it, signed by the authority in state/pki
#   PROGRAM.pid, PROGRAM.log
#
# Exit codes: those of setup.sh (77: no Go, nothing built), else 1.

set -euo pipefail
umask 077 # DIR holds keys

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=(kwok kube-scheduler kube-controller-manager vk-cmd) # in the order of stopping
ready_within=300 # seconds, on a busy machine
stop_within=10  # seconds until SIGKILL

say() {
    printf 'embedded.sh: %s\n' "$*" >&2
}

usage() {
    say "usage: embedded.sh start DIR [--nodes=N] [--real-scheduler] [--no-controller-manager] | stop DIR"
    exit 2
}

# shellcheck source-path=SCRIPTDIR
source "$here/processes.sh"

# new_identity NAME: a client and server certificate of user system:NAME, and its kubeconfig.
new_identity() {
    local name=$1 base=$dir/pki/$1
    openssl ecparam -name prime256v1 -genkey -noout -out "$base.key"
    openssl req -new -key "$base.key" -subj "/CN=system:$name" |
        openssl x509 -req -sha256 -days 365 -CA "$authority.crt" -CAkey "$authority.key" \
            -set_serial "0x$(openssl rand -hex 8)" -out "$base.crt" -extfile <(
            echo keyUsage=critical,digitalSignature
            echo extendedKeyUsage=serverAuth,clientAuth
            echo subjectAltName=IP:127.0.0.1,DNS:localhost
        ) 2>"$base.openssl" || {
        cat "$base.openssl" >&2
        return 1
    }
    rm -f "$base.openssl"
    cat >"$dir/$name.kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters:
- name: cluster
  cluster: {server: "$server", certificate-authority: "$authority.crt"}
users:
- name: $name
  user: {client-certificate: "$base.crt", client-key: "$base.key"}
contexts:
- name: cluster
  context: {cluster: cluster, user: $name}
current-context: cluster
EOF
}

request() {
    curl -sf --max-time 10 --cacert "$authority.crt" --cert "$dir/state/pki/admin.crt" \
        --key "$dir/state/pki/admin.key" "$@"
}

start_vk_cmd() {
    local -a arguments=(up --no-node --state-dir "$dir/state" --port "$(free_port)")
    ((with_manager)) && arguments+=(--no-controllers)
    ((real_scheduler)) && arguments+=(--no-scheduler)
    ln -sfn "$(realpath "${VK_CMD:-$here/../../target/debug/vk-cmd}")" "$dir/vk-cmd"
    launch vk-cmd "$dir" "${arguments[@]}"
    await vk-cmd grep -q '^export KUBECONFIG=' "$dir/vk-cmd.log"
    server=$(sed -n 's/^ *server: *//p' "$dir/state/admin.kubeconfig" | tr -d '"')
    await vk-cmd request "$server/readyz"
    ln -sfn state/admin.kubeconfig "$dir/admin.kubeconfig"
}

start_controller() {
    local program=$1 port
    shift
    port=$(free_port)
    new_identity "$program"
    launch "$program" "$kubernetes_bin" \
        --kubeconfig="$dir/$program.kubeconfig" \
        --authentication-kubeconfig="$dir/$program.kubeconfig" \
        --authorization-kubeconfig="$dir/$program.kubeconfig" \
        --bind-address=127.0.0.1 --secure-port="$port" \
        --tls-cert-file="$dir/pki/$program.crt" --tls-private-key-file="$dir/pki/$program.key" "$@"
    await "$program" request "https://127.0.0.1:$port/healthz"
}

nodes() {
    local i
    for ((i = 0; i < node_count; i++)); do
        cat <<EOF
---
apiVersion: v1
kind: Node
metadata:
  name: kwok-node-$i
  annotations: {kwok.x-k8s.io/node: fake, node.alpha.kubernetes.io/ttl: "0"}
  labels: {kubernetes.io/hostname: kwok-node-$i, kubernetes.io/os: linux, kubernetes.io/arch: amd64, type: kwok}
status:
  allocatable: {cpu: "32", memory: 256Gi, pods: "250"}
  capacity: {cpu: "32", memory: 256Gi, pods: "250"}
  nodeInfo: {operatingSystem: linux, architecture: amd64, kubeletVersion: fake}
  phase: Running
EOF
    done
}

kubectl() {
    "$kubernetes_bin/kubectl" --kubeconfig "$dir/admin.kubeconfig" "$@"
}

start_kwok() {
    launch kwok "$kwok_bin" --kubeconfig="$dir/admin.kubeconfig" --manage-all-nodes=false \
        --manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake --node-lease-duration-seconds=40 \
        --cidr=10.0.0.1/16 --node-ip=127.0.0.1
    nodes | kubectl apply -f - >/dev/null
    kubectl wait --for=condition=Ready nodes --all --timeout="${ready_within}s" >/dev/null
}

start() {
    local bins program
    local -a components=(v1.34/kube-controller-manager v1.34/kube-scheduler)
    ((node_count == 0)) || components+=(v1.34/kubectl kwok)
    bins=$("$here/setup.sh" "${components[@]}")
    { read -r kubernetes_bin && read -r kwok_bin; } <<<"$bins" || ((node_count == 0))
    for program in "${programs[@]}"; do
        if [[ $(pid_of "$program") ]]; then
            say "$program runs already in $dir"
            return 1
        fi
        rm -f "$dir/$program.pid"
    done
    mkdir -p "$dir/pki"
    authority=$dir/state/pki/ca
    trap stop EXIT # a start that fails or is broken off leaves nothing behind
    start_vk_cmd
    if ((with_manager)); then
        start_controller kube-controller-manager \
            --use-service-account-credentials --root-ca-file="$authority.crt" \
            --service-account-private-key-file="$dir/state/pki/sa.key" \
            --cluster-signing-cert-file="$authority.crt" --cluster-signing-key-file="$authority.key" \
            --allocate-node-cidrs=false \
            --controllers='*,bootstrap-signer-controller,token-cleaner-controller'
    fi
    if ((real_scheduler)); then
        start_controller kube-scheduler
    fi
    # Pods are refused until this is there.
    await vk-cmd request "$server/api/v1/namespaces/default/serviceaccounts/default"
    if ((node_count)); then
        start_kwok
    fi
    trap - EXIT
    echo "$dir/admin.kubeconfig"
}

main() {
    (($# >= 2)) || usage
    local command=$1
    [[ $command != stop || -d $2 ]] || return 0
    mkdir -p "$2"
    dir=$(cd "$2" && pwd)
    shift 2
    node_count=2
    real_scheduler=0
    with_manager=1
    while (($#)); do
        case $command/$1 in
        start/--nodes=*) node_count=${1#--nodes=} ;;
        start/--real-scheduler) real_scheduler=1 ;;
        start/--no-controller-manager) with_manager=0 ;;
        *) usage ;;
        esac
        shift
    done
    case $command in
    start | stop) "$command" ;;
    *) usage ;;
    esac
}

main "$@"
