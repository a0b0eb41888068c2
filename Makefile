# What can be done here. No logic: each target is one command or one script.

.DEFAULT_GOAL := help
.PHONY: help run check test test-unit test-cluster test-browser lint deps
.PHONY: verify verify-report fuzz bench bench-deps
.PHONY: cluster status logs kill start restart wscat psql redis-cli down clean

help: ## Show this list
	@echo "Verbatim: a self-hosted chat server. Every message, exactly once, in order."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /  make \1   	/p' Makefile | expand -t 24
	@echo
	@echo "Settings: config.toml says what there is; 'cargo run -- check' what is in effect."

run: ## Build and serve on ws://127.0.0.1:8080/ws (needs Rust and a C compiler only)
	cargo run --release --locked

check: ## After each change, in less than a minute: format, lints, unit tests (needs Rust only)
	@scripts/check

test: ## Install what is missing, then check format and lints and run all tests
	scripts/test

test-unit: ## Only the tests without a server
	@scripts/test unit

test-cluster: ## Only the tests with real nodes, PostgreSQL and Redis
	@scripts/test cluster

test-browser: ## Only the tests of the page in a browser
	@scripts/test browser

lint: ## Check format, lints and packages only, and say what could not be checked
	scripts/lint

deps: ## Install PostgreSQL, Redis, Node and Chromium for the tests, if they are missing
	scripts/deps

fuzz: ## Give each parser random bytes for SECONDS=60 (TARGET=frame: that one; fuzz/README.md)
	@scripts/fuzz

bench: ## Measure everything beside its peers and write docs/performance.md (QUICK=1: only see that it works)
	scripts/bench

bench-deps: ## Install what bench measures beside us: nats-server, Node.js, Socket.IO
	scripts/bench-deps

verify: ## Break everything, SEEDS=20 times for SECONDS=30, and check every delivery (SEED=7: that one)
	@scripts/verify

verify-report: ## Add up all that `make verify` ever ran here
	@scripts/verify report

cluster: ## Serve with N=3 nodes, PostgreSQL, Redis and nginx on this machine, without Docker
	@scripts/cluster up

status: ## What of the cluster runs where
	@scripts/cluster status

logs: ## Follow the logs of the cluster (NODE=2: of that node)
	@scripts/cluster logs

kill: ## kill -9 of NODE=2, or of NODE=postgres, redis, nginx
	@scripts/cluster kill

start: ## Start NODE=2 again
	@scripts/cluster start

restart: ## Stop NODE=2 in order and start it as it is built now
	@scripts/cluster restart

wscat: ## Talk to NODE=1, or to any node through nginx
	@scripts/cluster wscat

psql: ## Look into the cluster's PostgreSQL
	@scripts/cluster psql

redis-cli: ## Look into the cluster's Redis
	@scripts/cluster redis-cli

down: ## Stop the cluster; its data stays
	@scripts/cluster down

clean: ## Stop the cluster and remove its data
	@scripts/cluster clean
