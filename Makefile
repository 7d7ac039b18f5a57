# The targets are the steps of CI. `make quickstart` runs the main job, `make test` the tests.

CARGO ?= cargo
BIN := target/fast/vk-cmd
DEBUG := target/debug/vk-cmd
STATIC := target/x86_64-unknown-linux-musl/release/vk-cmd
STATE ?= target/quickstart

.PHONY: help quickstart build test fmt lint deny doc release quick bench bench-idle bench-planes conformance conformance-quick test-kubernetes test-sites clean tools

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

tools:
	@command -v $(CARGO) >/dev/null || { echo "make: cargo is missing: install a Rust toolchain (rustup.rs, or your distribution's rustup)" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "make: cc is missing: install a C compiler (Debian: apt-get install gcc libc6-dev)" >&2; exit 1; }

build: tools ## build the program, optimised
	$(CARGO) build --locked --profile fast --bin vk-cmd

# As the tests build it: most of what is compiled here serves `make test` too.
$(DEBUG): tools
	$(CARGO) build --locked --bin vk-cmd

quickstart: $(DEBUG) ## run a control plane, a node and a pod; print the pod's output
	@rm -rf $(STATE) # of an earlier quick start
	$(DEBUG) up --state-dir $(STATE) --apply examples/quickstart.yaml --wait --logs

test: fmt lint deny doc ## all tests
	$(CARGO) test --locked --workspace

fmt: tools
	$(CARGO) fmt --all --check

lint: tools
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deny: tools ## licences, bans and sources of dependencies
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --locked check licenses bans sources; \
	else echo "SKIPPED deny: cargo-deny is missing (cargo install --locked cargo-deny)"; fi

doc: tools
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --locked --workspace --no-deps --document-private-items

bench: release ## measure the static binary; the rows of docs/performance.md
	VK_CMD=$(STATIC) scripts/bench-planes --only=whole

bench-idle: release ## measure what idle pods and probes cost an agent
	@VK_CMD=$(STATIC) scripts/bench-idle || { code=$$?; test $$code -eq 77 || exit $$code; }

bench-planes: release ## the embedded and a real control plane side by side; skipped where its programs are not built
	@VK_CMD=$(STATIC) scripts/bench-planes || { code=$$?; test $$code -eq 77 && echo "SKIPPED bench-planes: its programs are not built (tests/kubernetes/setup.sh)"; }

test-kubernetes: tools ## the tests that need Kubernetes' own control plane; skipped where Go is missing
	@CARGO=$(CARGO) tests/kubernetes/test.sh $(STEPS) || { code=$$?; test $$code -eq 77 && echo "SKIPPED test-kubernetes: not all of it ran"; }

conformance: build ## the official conformance suite against the embedded API server; skipped where Go is missing
	@VK_CMD=$(BIN) scripts/conformance || { code=$$?; test $$code -eq 77 && echo "SKIPPED conformance: its programs are not built and Go is missing"; }

conformance-quick: $(DEBUG) ## a part of it that takes a minute; skipped where its programs are not built
	@VK_CMD=$(DEBUG) scripts/conformance --quick || { code=$$?; test $$code -eq 77 && echo "SKIPPED conformance-quick: its programs are not built (scripts/conformance builds them)"; }

test-sites: tools ## sites with their real parts: installs container engines (as root), runs what needs them
	@tests/sites/setup.sh || { code=$$?; test $$code -eq 77 || exit $$code; }
	$(CARGO) test --locked --test sites

# Another machine (untried by our tests): rustup target add aarch64-unknown-linux-musl, a C compiler for it (Debian: gcc-aarch64-linux-gnu),
# and the same command with that target, CC_aarch64_unknown_linux_musl and
# CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER both aarch64-linux-gnu-gcc.
release: tools ## the static binary: target/x86_64-unknown-linux-musl/release/vk-cmd
	@command -v musl-gcc >/dev/null || { echo "make: musl-gcc is missing: install musl's C compiler (Debian: apt-get install musl-tools)" >&2; exit 1; }
	@ls "$$(rustc --print sysroot)/lib/rustlib" | grep -qx x86_64-unknown-linux-musl || { echo "make: Rust's library for musl is missing: rustup target add x86_64-unknown-linux-musl" >&2; exit 1; }
	CC_x86_64_unknown_linux_musl=musl-gcc $(CARGO) rustc --locked --release --target x86_64-unknown-linux-musl --bin vk-cmd -- -C relocation-model=static
	@$(STATIC) --version

quick: ## the container image (images/base); BASE, TAG, IMAGE, BUILDER are variables
	$(MAKE) -C images/base quick

clean:
	$(CARGO) clean
