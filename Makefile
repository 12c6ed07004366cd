# Everything here works on a machine with Go and a C compiler (for the race detector), and nothing else. What needs
# RocksDB is left out where its library is not installed and cannot be.

GO      ?= go
OUT     := bin
# Fuzzing time for each fuzz test.
FUZZTIME ?= 20s
# Build tags: TAGS=rocksdb builds the program with the rocksdb engine.
TAGS    ?=
# Where `make run` keeps its data; ARGS are further flags, as in: make run ARGS="--name a".
DATA    ?= default.etcd
ARGS    ?=
# Where `make cluster` keeps the data of its members; ARGS are flags of each.
CLUSTER ?= cluster.etcd

# How many seeds `make sim` simulates, from which one on, and in how many processes: each runs one seed at a time.
SEEDS   ?= 20000
FIRST_SEED ?= 1
SIM_PROCESSES ?= $(shell nproc 2>/dev/null || echo 1)

# How long, from which seed and on how many members `make robustness` lets faults strike.
TIME    ?= 10m
SEED    ?= 1
MEMBERS ?= 3

# Flags of `make e2e`; `make e2e E2E=-help` lists them.
E2E     ?=

# The least statement coverage of a package, in percent.
COVERAGE ?= 75

.PHONY: build run cluster test asan cover etcdctl lint fuzz bench bench-store compat compat-cluster interchange crash robustness sim e2e clean

build: ## bin/dolmen, and bin/etcd as a link to it
	$(GO) build -buildvcs=auto -tags "$(TAGS)" -o $(OUT)/dolmen ./cmd/dolmen
	ln -sf dolmen $(OUT)/etcd

run: build ## a member on localhost:2379
	$(OUT)/dolmen --data-dir $(DATA) $(ARGS)

cluster: build ## three members on localhost, at ports 2379, 12379 and 22379, until Ctrl-C
	@tools/cluster.sh $(OUT)/dolmen $(CLUSTER) $(ARGS)

etcdctl: ## bin/etcdctl, etcd's own client at the version that the tests use
	cd tests && $(GO) build -o ../$(OUT)/etcdctl go.etcd.io/etcd/etcdctl/v3

test: compiler ## all tests of all modules under the race detector
	@mkdir -p $(OUT)
	$(GO) test -race -timeout 15m -coverprofile=$(OUT)/cover.out ./...
	DOLMEN_TEST_TRANSPORT=grpc-go $(GO) test -race -count=1 ./internal/rpc
	@rm -f $(OUT)/cover-rocksdb.out; tags=$$(.ci/rocksdb); [ -z "$$tags" ] || { set -x; \
		$(GO) test -race -tags $$tags -timeout 15m -coverprofile=$(OUT)/cover-rocksdb.out $(ROCKSDB_PACKAGES); }
	@echo "comparing with a real etcd, which is built first"
	cd tests && $(GO) test -race -short -tags "$$(../.ci/rocksdb)" -timeout 15m ./...
	cd bench && $(GO) test -race -timeout 15m ./...

# What differs with the build tag rocksdb.
ROCKSDB_PACKAGES := ./internal/engine/rocksdb ./internal/config ./internal/inspect ./embed

asan: compiler ## the rocksdb engine under the address sanitizer, which also finds what is never freed
	@tags=$$(.ci/rocksdb); [ -z "$$tags" ] || { set -x; $(GO) test -asan -tags $$tags -timeout 15m ./internal/engine/rocksdb; }

cover: ## the statement coverage of each package in the last `make test`; fails below COVERAGE
	@test -f $(OUT)/cover.out || { echo "run make test first: it measures what this looks at" >&2; exit 1; }
	@awk -v least=$(COVERAGE) -f .ci/coverage.awk $(wildcard $(OUT)/cover.out $(OUT)/cover-rocksdb.out)

lint: ## vet, and the formatting and linters of .golangci.yml, in all modules
	$(GO) vet ./...
	cd tests && $(GO) vet ./...
	cd bench && $(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...
	@tags=$$(.ci/rocksdb); [ -z "$$tags" ] || { set -x; \
		$(GO) tool -modfile=tools/go.mod golangci-lint run --build-tags $$tags ./internal/engine/rocksdb; }
	cd tests && $(GO) tool -modfile=../tools/go.mod golangci-lint run -c ../.golangci.yml ./...
	cd bench && $(GO) tool -modfile=../tools/go.mod golangci-lint run -c ../.golangci.yml ./...

fuzz: ## every fuzz test for FUZZTIME
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' cmd internal | sort | while read -r file; do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) ./$$(dirname "$$file"); \
		done; \
	done

bench: ## every benchmark once, with allocations
	$(GO) test -run '^$$' -bench . -benchmem -tags "$$(.ci/rocksdb)" ./...

bench-store: ## our key space against etcd's mvcc package, without a network; ARGS are its flags, as in: ARGS="-rounds 3"
	cd bench && $(GO) run ./store $(ARGS)

compat: ## the long comparison with a real etcd, on each engine
	@set -e; tags=$$(.ci/rocksdb); for engine in pebble memory $$tags; do \
		echo "comparing with etcd, our engine is $$engine"; \
		(cd tests && DOLMEN_TEST_ENGINE=$$engine $(GO) test -tags "$$tags" -count=1 -v -timeout 60m ./compat -args -seeds 50 -steps 2000); \
	done

compat-cluster: ## the long comparison of three members with three of etcd, at the leader and at a follower
	@set -e; for endpoint in leader follower; do \
		echo "comparing with etcd at the $$endpoint of three members"; \
		(cd tests && $(GO) test -count=1 -v -parallel 4 -timeout 60m ./compat -args -endpoint $$endpoint -seeds 10 -steps 1000); \
	done

interchange: ## 100,000 keys from a real etcd to ours and back, on each engine
	cd tests && $(GO) test -tags "$$(../.ci/rocksdb)" -count=1 -v -timeout 60m ./interchange -run ThereAndBack -args -keys 100000

crash: ## the long kill-and-restart and power-cut rounds, on each engine
	$(GO) test -count=1 -v -timeout 60m ./internal/node -run Crash -args -rounds 100
	cd tests && $(GO) test -tags "$$(../.ci/rocksdb)" -count=1 -v -timeout 120m ./robustness -args -rounds 100

robustness: ## TIME of random faults, from SEED, on a cluster of MEMBERS processes under load, and whether all was right
	cd tests && $(GO) test -count=1 -v -timeout 0 ./robustness -run '^TestRandomFaults$$' -args -time $(TIME) -seed $(SEED) -members $(MEMBERS)

e2e: ## etcd's own common tests on ours, with the official etcdctl and etcdutl; E2E="-run TestKV" runs some, E2E=-mixed also with members of etcd
	cd tests && $(GO) run ./e2e $(E2E)

sim: ## SEEDS simulated clusters, each from its seed; a failure prints its seed, and FIRST_SEED=n SEEDS=1 repeats it
	$(GO) test -c -o $(OUT)/sim.test ./internal/sim
	@share=$$((($(SEEDS) + $(SIM_PROCESSES) - 1) / $(SIM_PROCESSES))); first=$(FIRST_SEED); end=$$(($(FIRST_SEED) + $(SEEDS))); pids=; \
	while [ $$first -lt $$end ]; do \
		left=$$((end - first)); \
		$(OUT)/sim.test -test.run '^TestSeeds$$' -test.timeout 0 -progress 15s -first-seed $$first \
			-seeds $$((left < share ? left : share)) & pids="$$pids $$!"; \
		first=$$((first + share)); \
	done; \
	failed=0; for pid in $$pids; do wait $$pid || failed=1; done; exit $$failed

clean: ## what was built, and the data of `make run` and `make cluster`
	rm -rf $(OUT) $(DATA) $(CLUSTER) tests/bin

# The race detector needs a C compiler.
.PHONY: compiler
compiler:
	@command -v "$$($(GO) env CC)" >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq gcc libc6-dev; \
		else \
			echo "the race detector needs a C compiler: install gcc and the C library's headers (Debian: gcc libc6-dev)" >&2; exit 1; \
		fi; }
