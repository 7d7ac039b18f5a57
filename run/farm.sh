#!/bin/sh
# ifarm: the agent in an Apptainer container; what needs the host goes through $HOME/hostpipe.
# usage: run/farm.sh NODENAME [IMAGE]
set -eu
NODENAME="${1:?usage: $0 NODENAME [IMAGE]}"
IMAGE="${2:-docker://jlabtsai/vk-cmd:latest}"
export NODENAME

(umask 077 && mkdir -p "$HOME/hostpipe")
if [ ! -p "$HOME/hostpipe/vk-cmd" ]; then
    apptainer exec "$IMAGE" cp /vk-cmd/vk-cmd "$HOME/hostpipe/.vk-cmd.serve"
    nohup "$HOME/hostpipe/.vk-cmd.serve" hostpipe serve >"$HOME/hostpipe/serve.log" 2>&1 &
fi

exec apptainer run "$IMAGE"
