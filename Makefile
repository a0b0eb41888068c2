# What can be done here. No logic: each target is one command or one script.

.DEFAULT_GOAL := help
.PHONY: help run test lint deps

help: ## Show this list
	@echo "Verbatim: a self-hosted chat server. Every message, exactly once, in order."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /  make \1   	/p' Makefile
	@echo
	@echo "Settings: config.toml says what there is; 'cargo run -- check' what is in effect."

run: ## Build and serve on ws://127.0.0.1:8080/ws (needs Rust and a C compiler only)
	cargo run --release --locked

test: ## Install what is missing, then check format and lints and run all tests
	scripts/test

lint: ## Check format and lints only
	scripts/lint

deps: ## Install PostgreSQL and Redis for the tests, if they are missing
	scripts/deps
