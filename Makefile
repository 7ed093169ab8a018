# What CI runs is `make test`.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/plimsoll/target

# One feature set for everything, so that dependencies are compiled once.
FEATURES := cli,zoo,fuzzing,highs
CARGO_FLAGS := --release --features $(FEATURES)

.PHONY: setup vulkan demo test lint doc unit bench gpu cuda remote experiments

# Rust itself is pinned by `rust-version` in Cargo.toml. HiGHS (feature `highs`, on by default) is compiled from source:
# that takes a C++ compiler, cmake and, for its bindings, libclang. Chromium opens the pages of `plimsoll report` in a test.
setup:
	@libclang() { [ -n "$$LIBCLANG_PATH" ] || ldconfig -p 2>/dev/null | grep -q 'libclang[-.]' \
		|| ls /usr/lib*/llvm*/lib/libclang*.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 \
		|| [ "$$(uname)" = Darwin ]; }; \
	if ! { command -v c++ && command -v cmake && command -v make && libclang; } >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc g++ libc6-dev make cmake libclang-dev; \
		else echo "missing: a C++ compiler, make, cmake or libclang (Debian: apt-get install g++ make cmake libclang-dev)"; exit 1; fi; \
	fi
	@if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
		else echo "no chromium: the test that opens report pages will be skipped"; fi; \
	fi
	@command -v cargo >/dev/null 2>&1 || { echo "missing: Rust 1.95 or newer (https://rustup.rs)"; exit 1; }
	@cargo fetch --locked

demo: setup
	cargo run $(CARGO_FLAGS) --example train_gpt -- --compare --budget 40%

test: lint doc unit gpu cuda

lint:
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps

# Without --all-targets: that would run the benches and leave the doc tests out.
unit:
	cargo test $(CARGO_FLAGS)

# The same steps on a CubeCL device; a software Vulkan driver will do. Compiles Burn's wgpu backend and its fusion first, in a profile
# of their own: optimized as the rest is they would take as long as all the rest.
GPU_FLAGS := --profile gpu --no-default-features
gpu: vulkan
	cargo test $(GPU_FLAGS) --features zoo,wgpu,fusion --test gpu -- --nocapture

vulkan: setup
	@if ! ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends mesa-vulkan-drivers; \
		else echo "no Vulkan driver (Debian: mesa-vulkan-drivers): the tests on a CubeCL device will be skipped"; fi; \
	fi

# That it compiles for CUDA; DOCS_RS keeps a dependency from downloading LLVM for that.
cuda:
	DOCS_RS=1 cargo clippy $(GPU_FLAGS) --features zoo,cuda,fusion --lib -- -D warnings

# The same steps on workers. Compiles Burn's remote backend first: some two hundred more packages, because Burn takes
# no remote devices without iroh.
remote: setup
	cargo clippy $(CARGO_FLAGS),remote --all-targets -- -D warnings
	cargo test $(CARGO_FLAGS),remote --test remote

bench: setup
	cargo bench --features $(FEATURES)

# The tables and pictures of docs/experiments/results, which docs/RESULTS.md shows. What has results is not done again; without any it
# takes some twenty minutes. Killed, it goes on where it stopped. One cell at a time, so that none has its time limit
# shortened by another, and costs are measured anew: those in the cache may be from a busier hour. (The example makes cargo
# build with the features that tests have, so that dependencies are compiled once.)
experiments: setup
	cargo build $(CARGO_FLAGS) --bin plimsoll --example train_gpt
	export XDG_CACHE_HOME="$$(mktemp -d)"; for name in solver-quality plan-vs-measurement scaling; do \
		"$(CARGO_TARGET_DIR)/release/plimsoll" experiment docs/experiments/$$name.toml --jobs 1 || exit 1; done
