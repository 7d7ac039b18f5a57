#!/bin/sh
# Makes crates/control-plane/data/schema.txt, the type table of the Kubernetes API, from the
# published Go modules: once from the release that the server serves (scripts/gen-schema/go.mod),
# once from the newest one (newest.mod), which adds what only newer clients send.
# Needs Go and, for the first run, the network.
set -eu
cd "$(dirname "$0")/gen-schema"
served=$(mktemp)
trap 'rm -f "$served"' EXIT
go run . -dump "$served"
go run -modfile=newest.mod -tags=newest . -served "$served" -out ../../crates/control-plane/data/schema.txt
