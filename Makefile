# The targets that a newcomer wants first come first.

CARGO ?= cargo
# Which workloads `make bench` runs, such as ONLY=4,5; all when empty.
ONLY ?=

.PHONY: demo test setup build bench fmt clippy help

## Show a copy at work on this machine; nothing else is touched
demo:
	@scripts/setup.sh demo
	@$(CARGO) build --release --quiet --package tcpcopy --bins
	@./target/release/tcpcopy demo

## Check everything: format, clippy, unit and engine tests, whole-system tests
test:
	@scripts/setup.sh test
	@scripts/test.sh

## Install what building, the demo and the tests need (Debian, Ubuntu)
setup:
	@scripts/setup.sh test

## Build the two programs, target/release/tcpcopy and target/release/intercept
build:
	@scripts/setup.sh build
	$(CARGO) build --release --package tcpcopy --bins

## Measure the workloads; ONLY=4,5 chooses
bench:
	@scripts/setup.sh test
	@$(CARGO) build --release --quiet --package tcpcopy --bins --package tcpcopy-tests
	@./target/release/bench $(if $(ONLY),--only $(ONLY))

## Format the code
fmt:
	$(CARGO) fmt

## The lints that `make test` insists on
clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

## This list
help:
	@awk '/^## /{text=substr($$0,4)} /^[a-z]+:/&&text{sub(/:.*/,"");printf "  make %-8s %s\n",$$0,text;text=""}' $(MAKEFILE_LIST)
