//go:build tools

// Package tools names the programs that setup.sh builds, so that go.sum covers all they need.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
)
