#!/bin/sh
# jiriaf2301: the agent in a Docker container, its pods on this host.
# usage: run/docker.sh NODENAME [IMAGE]
# Step 0: set CONTROL_PLANE_IP and APISERVER_PORT for a tunnel (in $HOME/hostpipe/env), or build one yourself.
set -eu
NODENAME="${1:?usage: $0 NODENAME [IMAGE]}"
IMAGE="${2:-jlabtsai/vk-cmd:latest}"

# Step 1: the host's end of the pipe, in the background. A copy of the program comes out of the image.
(umask 077 && mkdir -p "$HOME/hostpipe")
if [ ! -p "$HOME/hostpipe/vk-cmd" ]; then
    id=$(docker create "$IMAGE")
    docker cp "$id:/vk-cmd/vk-cmd" "$HOME/hostpipe/.vk-cmd.serve"
    docker rm "$id" >/dev/null
    nohup "$HOME/hostpipe/.vk-cmd.serve" hostpipe serve >"$HOME/hostpipe/serve.log" 2>&1 &
fi

# What the command line below does not pass: a kubeconfig, 0600, in the one directory that is mounted.
if [ ! -e "$HOME/hostpipe/kubeconfig" ] && [ -r "${KUBECONFIG:-$HOME/.kube/config}" ]; then
    (umask 077 && cp "${KUBECONFIG:-$HOME/.kube/config}" "$HOME/hostpipe/kubeconfig")
fi

# Step 3.
exec docker run -d -v "$HOME/hostpipe:/root/hostpipe" --network="host" -e NODENAME="$NODENAME" "$IMAGE"
