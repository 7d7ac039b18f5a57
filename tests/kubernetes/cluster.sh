#!/usr/bin/env bash
#
# Runs a real Kubernetes control plane on loopback ports.
#
#   cluster.sh start DIR [VERSION] [--with-controllers] [--apiserver-arg=ARG…] [--controller-manager-arg=ARG…]
#   cluster.sh stop DIR
#
# "start" runs etcd and kube-apiserver of VERSION (v1.34 where none is given; see setup.sh, which it calls
# for the programs), waits until they are ready, and prints the path of DIR/admin.kubeconfig.
# With --with-controllers, kube-scheduler and kube-controller-manager run too. Without them nothing makes
# the service account that pods need, so "default/default" is to be made before the first pod.
# Each --apiserver-arg goes to kube-apiserver, after the others: where an option is given twice, the last one wins.
# So does each --controller-manager-arg to kube-controller-manager.
#
# "stop" ends all of them, also where an earlier run died half-way, and keeps DIR: the next "start" with the
# same DIR brings the same cluster back, at the same ports. It does nothing where nothing runs.
#
# DIR then holds
#   admin.kubeconfig          a member of system:masters
#   pki/                      ca.crt and ca.key sign servers and clients; front-proxy-ca, etcd-ca; sa.key
#   ports                     where each program listens
#   PROGRAM.pid               process id and start time, as /proc/PID/stat has it
#   PROGRAM.log
#   etcd/                     the data
#
# Exit codes: those of setup.sh (77: no Go, nothing built), else 1.

set -euo pipefail
umask 077 # DIR holds keys

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=(kube-controller-manager kube-scheduler kube-apiserver etcd) # in the order of stopping
ready_within=300 # seconds, on a busy machine
stop_within=10  # seconds until SIGKILL

say() {
    printf 'cluster.sh: %s\n' "$*" >&2
}

usage() {
    say "usage: cluster.sh start DIR [VERSION] [--with-controllers] [--apiserver-arg=ARG…] [--controller-manager-arg=ARG…] | stop DIR"
    exit 2
}

# shellcheck source-path=SCRIPTDIR
source "$here/processes.sh"

# --- ports ----------------------------------------------------------------------------------------

choose_ports() {
    local name
    for name in etcd etcd_peer kube_apiserver kube_scheduler kube_controller_manager; do
        echo "$name=$(free_port)"
    done >"$dir/ports.new"
    mv "$dir/ports.new" "$dir/ports"
}

port_of() {
    sed -n "s/^$1=//p" "$dir/ports"
}

# --- certificates ---------------------------------------------------------------------------------

new_key() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$1"
}

new_authority() {
    new_key "$pki/$1.key"
    openssl req -x509 -new -key "$pki/$1.key" -sha256 -days 3650 -subj "/CN=$1" -out "$pki/$1.crt" \
        -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
}

# new_certificate AUTHORITY NAME SUBJECT [SUBJECT-ALTERNATIVE-NAMES]
new_certificate() {
    local authority=$1 name=$2 subject=$3 alternatives=${4-}
    new_key "$pki/$name.key"
    {
        echo keyUsage=critical,digitalSignature
        echo basicConstraints=critical,CA:FALSE
        if [[ $alternatives ]]; then
            echo extendedKeyUsage=serverAuth,clientAuth
            echo "subjectAltName=$alternatives"
        else
            echo extendedKeyUsage=clientAuth
        fi
    } >"$pki/$name.extensions"
    openssl req -new -key "$pki/$name.key" -subj "$subject" |
        openssl x509 -req -sha256 -days 3650 -CA "$pki/$authority.crt" -CAkey "$pki/$authority.key" \
            -set_serial "0x$(openssl rand -hex 8)" -extfile "$pki/$name.extensions" -out "$pki/$name.crt" \
            2>"$pki/openssl.log" || {
        cat "$pki/openssl.log" >&2
        return 1
    }
    rm -f "$pki/$name.extensions" "$pki/openssl.log"
}

new_certificates() {
    pki=$dir/pki.new
    rm -rf "$pki"
    mkdir -m 700 "$pki"
    new_authority ca
    new_authority front-proxy-ca
    new_authority etcd-ca
    new_certificate etcd-ca etcd /CN=etcd IP:127.0.0.1,DNS:localhost
    new_certificate etcd-ca etcd-client /CN=kube-apiserver
    new_certificate ca kube-apiserver /CN=kube-apiserver \
        IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
    new_certificate ca kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
    new_certificate ca admin /O=system:masters/CN=kubernetes-admin
    new_certificate ca kube-scheduler /CN=system:kube-scheduler IP:127.0.0.1,DNS:localhost
    new_certificate ca kube-controller-manager /CN=system:kube-controller-manager IP:127.0.0.1,DNS:localhost
    new_certificate front-proxy-ca front-proxy-client /CN=front-proxy-client
    new_key "$pki/sa.key"
    openssl pkey -in "$pki/sa.key" -pubout -out "$pki/sa.pub"
    mv "$pki" "$dir/pki"
    pki=$dir/pki
}

write_kubeconfig() {
    local name=$1 file=$2
    cat >"$file.new" <<EOF
apiVersion: v1
kind: Config
clusters:
- name: cluster
  cluster:
    server: https://127.0.0.1:$(port_of kube_apiserver)
    certificate-authority-data: $(base64 -w 0 "$pki/ca.crt")
users:
- name: $name
  user:
    client-certificate-data: $(base64 -w 0 "$pki/$name.crt")
    client-key-data: $(base64 -w 0 "$pki/$name.key")
contexts:
- name: cluster
  context: {cluster: cluster, user: $name}
current-context: cluster
EOF
    mv "$file.new" "$file"
}

# --- readiness ------------------------------------------------------------------------------------

request() {
    curl -sf --max-time 10 --cacert "$pki/ca.crt" --cert "$pki/admin.crt" --key "$pki/admin.key" "$@"
}

# --- the programs ---------------------------------------------------------------------------------

etcd_ready() {
    curl -sf --max-time 10 --cacert "$pki/etcd-ca.crt" --cert "$pki/etcd-client.crt" \
        --key "$pki/etcd-client.key" "https://127.0.0.1:$(port_of etcd)/health"
}

start_etcd() {
    local client peer
    client=https://127.0.0.1:$(port_of etcd)
    peer=https://127.0.0.1:$(port_of etcd_peer)
    launch etcd "$1" \
        --data-dir="$dir/etcd" \
        --listen-client-urls="$client" --advertise-client-urls="$client" \
        --listen-peer-urls="$peer" --initial-advertise-peer-urls="$peer" --initial-cluster="default=$peer" \
        --cert-file="$pki/etcd.crt" --key-file="$pki/etcd.key" \
        --trusted-ca-file="$pki/etcd-ca.crt" --client-cert-auth \
        --peer-cert-file="$pki/etcd.crt" --peer-key-file="$pki/etcd.key" \
        --peer-trusted-ca-file="$pki/etcd-ca.crt" --peer-client-cert-auth \
        --log-level=warn
    await etcd etcd_ready
}

start_apiserver() {
    local bin=$1
    shift
    launch kube-apiserver "$bin" \
        --etcd-servers="https://127.0.0.1:$(port_of etcd)" \
        --etcd-cafile="$pki/etcd-ca.crt" --etcd-certfile="$pki/etcd-client.crt" \
        --etcd-keyfile="$pki/etcd-client.key" \
        --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$(port_of kube_apiserver)" \
        --tls-cert-file="$pki/kube-apiserver.crt" --tls-private-key-file="$pki/kube-apiserver.key" \
        --client-ca-file="$pki/ca.crt" \
        --service-cluster-ip-range=10.96.0.0/16 --endpoint-reconciler-type=none \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
        --enable-bootstrap-token-auth \
        --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
        --kubelet-client-certificate="$pki/kubelet-client.crt" --kubelet-client-key="$pki/kubelet-client.key" \
        --kubelet-preferred-address-types=InternalIP,Hostname \
        --requestheader-client-ca-file="$pki/front-proxy-ca.crt" \
        --requestheader-allowed-names=front-proxy-client \
        --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User \
        --proxy-client-cert-file="$pki/front-proxy-client.crt" \
        --proxy-client-key-file="$pki/front-proxy-client.key" \
        --enable-aggregator-routing=true "$@"
    await kube-apiserver request "https://127.0.0.1:$(port_of kube_apiserver)/readyz"
}

start_controller() {
    local program=$1 bin=$2 port
    shift 2
    port=$(port_of "${program//-/_}")
    write_kubeconfig "$program" "$dir/$program.kubeconfig"
    launch "$program" "$bin" \
        --kubeconfig="$dir/$program.kubeconfig" \
        --authentication-kubeconfig="$dir/$program.kubeconfig" \
        --authorization-kubeconfig="$dir/$program.kubeconfig" \
        --bind-address=127.0.0.1 --secure-port="$port" --leader-elect=false \
        --tls-cert-file="$pki/$program.crt" --tls-private-key-file="$pki/$program.key" "$@"
    await "$program" request "https://127.0.0.1:$port/healthz"
}

start_programs() {
    local server
    start_etcd "$etcd_bin" || return
    start_apiserver "$kubernetes_bin" "${apiserver_arguments[@]}" || return
    if ((with_controllers)); then
        start_controller kube-scheduler "$kubernetes_bin" || return
        start_controller kube-controller-manager "$kubernetes_bin" \
            --use-service-account-credentials --root-ca-file="$pki/ca.crt" \
            --service-account-private-key-file="$pki/sa.key" \
            --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
            --allocate-node-cidrs=false \
            --controllers='*,bootstrap-signer-controller,token-cleaner-controller' \
            "${manager_arguments[@]}" || return
        # Pods are refused until this is there.
        server=https://127.0.0.1:$(port_of kube_apiserver)
        await kube-controller-manager \
            request "$server/api/v1/namespaces/default/serviceaccounts/default" || return
    fi
}

# --- the two commands -----------------------------------------------------------------------------

start() {
    local tool program attempt bins fresh=0
    for tool in openssl curl setsid; do
        if ! command -v "$tool" >/dev/null; then
            say "$tool is needed and not there"
            return 1
        fi
    done
    for program in "${programs[@]}"; do
        if [[ $(pid_of "$program") ]]; then
            say "$program runs already in $dir"
            return 1
        fi
        rm -f "$dir/$program.pid"
    done

    local -a components=(etcd "$version/kube-apiserver")
    if ((with_controllers)); then
        components+=("$version/kube-scheduler" "$version/kube-controller-manager")
    fi
    bins=$("$here/setup.sh" "${components[@]}")
    { read -r etcd_bin && read -r kubernetes_bin; } <<<"$bins"

    [[ -d $dir/pki ]] || new_certificates
    pki=$dir/pki
    if [[ ! -f $dir/ports ]]; then
        fresh=1
        choose_ports
    fi

    trap stop EXIT # a start that fails or is broken off leaves nothing behind
    for attempt in 1 2 3 4 5; do
        write_kubeconfig admin "$dir/admin.kubeconfig"
        if start_programs; then
            trap - EXIT
            echo "$dir/admin.kubeconfig"
            return
        fi
        stop
        # Others may have taken a port. Only a new cluster may move: clients know the ports of an old one.
        if ! ((fresh)) || ! grep -qs 'address already in use' "$dir"/*.log; then
            break
        fi
        say "a port was taken; attempt $((attempt + 1))"
        rm -rf "$dir/etcd"
        choose_ports
    done
    return 1
}

main() {
    (($# >= 2)) || usage
    local command=$1
    [[ $command != stop || -d $2 ]] || return 0
    mkdir -p "$2"
    dir=$(cd "$2" && pwd)
    shift 2
    version=v1.34
    with_controllers=0
    apiserver_arguments=()
    manager_arguments=()
    while (($#)); do
        case $command/$1 in
        start/--with-controllers) with_controllers=1 ;;
        start/--apiserver-arg=*) apiserver_arguments+=("${1#--apiserver-arg=}") ;;
        start/--controller-manager-arg=*) manager_arguments+=("${1#--controller-manager-arg=}") ;;
        start/v*) version=$1 ;;
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
