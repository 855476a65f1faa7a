# The targets that a newcomer wants first come first.

# The choices of ./configure, if it was run.
-include config.mk

CARGO ?= cargo
# The folder of a crate with a protocol module, to be linked into tcpcopy as its default; none when empty.
MODULE ?=
# Where `make install` puts the programs: into its folder sbin.
PREFIX ?= /usr/local
# Which workloads `make bench` runs, such as ONLY=4,5; all when empty.
ONLY ?=
# How its table looks: text, or markdown as in docs/benchmarks.md.
FORMAT ?= text

.PHONY: demo test setup build install bench fmt clippy help

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

## Build target/release/tcpcopy and target/release/intercept; MODULE=FOLDER links a protocol module into tcpcopy
build:
	@scripts/setup.sh build
	$(CARGO) build --release --package tcpcopy $(if $(MODULE),--bin intercept,--bins)
	$(if $(MODULE),CARGO="$(CARGO)" scripts/build-with-module.sh "$(MODULE)" --release)

## Put the programs that were built into PREFIX/sbin
install:
	@test -x target/release/tcpcopy && test -x target/release/intercept || { echo "make install: run make build first" >&2; exit 2; }
	install -d "$(DESTDIR)$(PREFIX)/sbin"
	install target/release/tcpcopy target/release/intercept "$(DESTDIR)$(PREFIX)/sbin"

## Measure the workloads; ONLY=4,5 chooses, FORMAT=markdown prints the table of docs/benchmarks.md
bench:
	@scripts/setup.sh test
	@$(CARGO) build --release --quiet --package tcpcopy --bins --package tcpcopy-tests
	@./target/release/bench --format $(FORMAT) $(if $(ONLY),--only $(ONLY))

## Format the code
fmt:
	$(CARGO) fmt

## The lints that `make test` insists on
clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

## This list
help:
	@awk '/^## /{text=substr($$0,4)} /^[a-z]+:/&&text{sub(/:.*/,"");printf "  make %-8s %s\n",$$0,text;text=""}' $(MAKEFILE_LIST)
