# What CI runs is `make test`.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/plimsoll/target

# One feature set for everything, so that dependencies are compiled once.
FEATURES := cli,zoo,fuzzing
CARGO_FLAGS := --release --features $(FEATURES)

.PHONY: setup demo test lint doc unit bench

# Rust itself is pinned by `rust-version` in Cargo.toml; beyond it a C linker is all that is needed.
setup:
	@if ! command -v cc >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev; \
		else echo "missing: a C linker (Debian: apt-get install gcc libc6-dev)"; exit 1; fi; \
	fi
	@command -v cargo >/dev/null 2>&1 || { echo "missing: Rust 1.95 or newer (https://rustup.rs)"; exit 1; }
	@cargo fetch --locked

demo: setup
	cargo run $(CARGO_FLAGS) --example train_gpt -- --compare --budget 40%

test: lint doc unit

lint:
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps

# Without --all-targets: that would run the benches and leave the doc tests out.
unit:
	cargo test $(CARGO_FLAGS)

bench:
	cargo bench --features $(FEATURES)
