# Everything done to Parley from a terminal. `make` alone lists the targets; what takes more than one
# line is a script in scripts/ and can be run without make.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := bash

# The variables and their defaults.
ARGS  ?=
BENCH ?= .
COUNT ?= 1
FUZZ  ?=
TIME  ?= 30s
FOR   ?= 5m
SEED  ?=

.PHONY: help
help:
	@printf '\nParley, from a terminal\n\n'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@printf '\n  make run ARGS="--help"            the flags of parley serve\n'
	@printf '  make test ARGS="./chat/... -v"    some of the tests, without lint\n'
	@printf '  make bench BENCH=Append COUNT=6   some of the benchmarks, for benchstat\n'
	@printf '  make fuzz FUZZ=Topic TIME=5m      some of the fuzz tests, longer\n'
	@printf '  make campaign FOR=30m SEED=7      a long campaign, or a failed one again\n'
	@printf '  make packets FOR=1h               bad packets for an hour\n\n'

.PHONY: run
run: ## start Parley, with a private PostgreSQL unless DATABASE_URL is set
	@scripts/need go $(if $(DATABASE_URL),,postgresql)
	@go build -o bin/parley ./cmd/parley && exec bin/parley serve $(ARGS)

.PHONY: test
test: ## lint, then all tests with the race detector and real services, as in CI
	@scripts/test $(ARGS)

.PHONY: lint
lint: ## go vet, golangci-lint and formatting
	@scripts/need go
	@scripts/lint $(ARGS)

.PHONY: fmt
fmt: ## format the code, with gofumpt
	@scripts/need go
	@golangci=$$(scripts/tool golangci-lint) && $$golangci fmt ./... && cd tools && $$golangci fmt --config ../.golangci.yml ./...

.PHONY: bench
bench: ## run the benchmarks
	@scripts/need go postgresql redis
	@go test -run='^$$' -bench='$(BENCH)' -benchmem -count=$(COUNT) $(or $(ARGS),./...)

.PHONY: fuzz
fuzz: ## run each fuzz test for a while
	@scripts/need go
	@scripts/fuzz $(TIME) $(FUZZ)

.PHONY: campaign
campaign: ## try to break the promises for a while (docs/reliability.md)
	@scripts/need go cc postgresql $(if $(findstring nodes,$(ARGS)),redis)
	@go run ./campaign/cmd -race -for=$(FOR) $(if $(SEED),-seed=$(SEED)) $(ARGS)

.PHONY: packets
packets: ## send the server bad packets for a while (docs/conformance.md)
	@scripts/need go cc postgresql
	@PARLEY_FUZZ_FOR=$(FOR) PARLEY_TEST_SEED=$(SEED) go test -race -count=1 -timeout=0 -v -run=TestPackets ./app/packetfuzz

.PHONY: build
build: ## build bin/parley, one static binary
	@scripts/need go
	CGO_ENABLED=0 go build -trimpath -o bin/parley ./cmd/parley

.PHONY: clean
clean: ## remove build and test output; never data
	rm -rf bin coverage* *.test *.prof *.out
