# Everything here works on a machine with Go and a C compiler (for the race detector), and nothing else.

GO      ?= go
OUT     := bin
# Fuzzing time for each fuzz test.
FUZZTIME ?= 20s
# Where `make run` keeps its data; ARGS are further flags, as in: make run ARGS="--name a".
DATA    ?= default.etcd
ARGS    ?=

.PHONY: build run test lint fuzz bench compat crash clean

build: ## bin/dolmen, and bin/etcd as a link to it
	$(GO) build -buildvcs=auto -o $(OUT)/dolmen ./cmd/dolmen
	ln -sf dolmen $(OUT)/etcd

run: build ## a member on localhost:2379
	$(OUT)/dolmen --data-dir $(DATA) $(ARGS)

test: compiler ## all tests of both modules under the race detector
	$(GO) test -race ./...
	cd tests && $(GO) test -race -short ./...

lint: ## formatting, vet, and the linters of .golangci.yml
	$(GO) vet ./...
	cd tests && $(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...

fuzz: ## every fuzz test for FUZZTIME
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' cmd internal | sort | while read -r file; do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) ./$$(dirname "$$file"); \
		done; \
	done

bench: ## every benchmark once, with allocations
	$(GO) test -run '^$$' -bench . -benchmem ./...

compat: ## the long comparison with a real etcd
	cd tests && $(GO) test -count=1 -timeout 60m ./compat/...

crash: ## the long kill-and-restart rounds
	cd tests && $(GO) test -count=1 -timeout 60m ./robustness/...

clean:
	rm -rf $(OUT) $(DATA)

# The race detector needs a C compiler.
.PHONY: compiler
compiler:
	@command -v "$$($(GO) env CC)" >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq gcc libc6-dev; \
		else \
			echo "the race detector needs a C compiler: install gcc and the C library's headers (Debian: gcc libc6-dev)" >&2; exit 1; \
		fi; }
