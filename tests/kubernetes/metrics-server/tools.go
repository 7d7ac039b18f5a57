//go:build tools

// Package tools names the programs that setup.sh builds, so that go.sum covers all they need.
package tools

import (
	_ "sigs.k8s.io/metrics-server/cmd/metrics-server"
)
