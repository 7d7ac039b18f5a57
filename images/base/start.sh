#!/bin/sh
# Starts the node agent as the documents do:
#   ./start.sh KUBECONFIG NODENAME VKUBELET_POD_IP KUBELET_PORT JIRIAF_WALLTIME JIRIAF_NODETYPE JIRIAF_SITE
# Its output goes to ./NODENAME.log.
set -eu

if [ $# -ne 7 ]; then
    echo "start.sh: 7 arguments are needed, $# were given" >&2
    echo "usage: $0 KUBECONFIG NODENAME VKUBELET_POD_IP KUBELET_PORT JIRIAF_WALLTIME JIRIAF_NODETYPE JIRIAF_SITE" >&2
    exit 2
fi

export KUBECONFIG="$1" NODENAME="$2" VKUBELET_POD_IP="$3" KUBELET_PORT="$4"
export JIRIAF_WALLTIME="$5" JIRIAF_NODETYPE="$6" JIRIAF_SITE="$7"

# Where they lie beside the script's caller, as they used to; else the agent makes its own.
if [ -f client.crt ] && [ -f client.key ]; then
    export APISERVER_CERT_LOCATION="${APISERVER_CERT_LOCATION:-client.crt}"
    export APISERVER_KEY_LOCATION="${APISERVER_KEY_LOCATION:-client.key}"
fi

exec "$(dirname "$0")/virtual-kubelet" --nodename "$NODENAME" --provider mock --klog.v 3 >"./$NODENAME.log" 2>&1
