# Each target is one command or one script. There is no logic here.

.DEFAULT_GOAL := help
.PHONY: help run check test test-unit test-cluster test-browser lint deps
.PHONY: verify verify-report fuzz bench bench-deps
.PHONY: cluster status logs kill start restart wscat psql redis-cli down clean

help: ## Show this list
	@echo "Verbatim: a self-hosted chat server. Every message, exactly once, in order."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /  make \1   	/p' Makefile | expand -t 24
	@echo
	@echo "Settings: config.toml explains them; 'cargo run -- check' prints those in effect."

run: ## Build and serve on ws://127.0.0.1:8080/ws (needs only Rust and a C compiler)
	cargo run --release --locked

check: ## Check format and lints and run the unit tests, in less than a minute (needs only Rust)
	@scripts/check

test: ## Install what the tests need, then check format and lints and run all tests
	scripts/test

test-unit: ## Run only the unit tests, without servers
	@scripts/test unit

test-cluster: ## Run only the tests with real nodes, PostgreSQL and Redis
	@scripts/test cluster

test-browser: ## Run only the tests of the web page in a browser
	@scripts/test browser

lint: ## Check only format, lints and packages, and list what could not be checked
	scripts/lint

deps: ## Install PostgreSQL, Redis, Node and Chromium for the tests, unless installed
	scripts/deps

fuzz: ## Fuzz each parser for SECONDS=60 (TARGET=frame: only that one; see fuzz/README.md)
	@scripts/fuzz

bench: ## Measure against other servers and write docs/performance.md (QUICK=1: only try it out)
	scripts/bench

bench-deps: ## Install the other servers for bench: nats-server, Node.js, Socket.IO
	scripts/bench-deps

verify: ## Inject faults, SEEDS=20 times for SECONDS=30, and check every delivery (SEED=7: only that one)
	@scripts/verify

verify-report: ## Sum up all runs of `make verify` on this machine
	@scripts/verify report

cluster: ## Run N=3 nodes, PostgreSQL, Redis and nginx on this machine, without Docker
	@scripts/cluster up

status: ## Show which parts of the cluster run, and where
	@scripts/cluster status

logs: ## Follow the logs of the cluster (NODE=2: only that node)
	@scripts/cluster logs

kill: ## kill -9 NODE=2, or NODE=postgres, redis or nginx
	@scripts/cluster kill

start: ## Start NODE=2 again
	@scripts/cluster start

restart: ## Stop NODE=2 gracefully and start the current build
	@scripts/cluster restart

wscat: ## Chat with NODE=1, or with any node through nginx
	@scripts/cluster wscat

psql: ## Open psql on the cluster's PostgreSQL
	@scripts/cluster psql

redis-cli: ## Open redis-cli on the cluster's Redis
	@scripts/cluster redis-cli

down: ## Stop the cluster and keep its data
	@scripts/cluster down

clean: ## Stop the cluster and delete its data
	@scripts/cluster clean
