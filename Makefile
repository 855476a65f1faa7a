# The targets that a newcomer wants first come first.

# The choices of ./configure, if it was run.
-include config.mk

CARGO ?= cargo
# The folder of a crate with a protocol module, to be linked into tcpcopy as its default; none when empty.
MODULE ?=
# Where `make install` puts things: programs into its folder sbin, and so on.
PREFIX ?= /usr/local
# The folder above tcpcopy/tcpcopy.toml and tcpcopy/intercept.toml.
SYSCONFDIR ?= /etc
# Further options of the tool that makes a package, for `make deb` and `make rpm`.
PACKAGE_OPTIONS ?=
# Which workloads `make bench` runs, such as ONLY=4,5; all when empty.
ONLY ?=
# How its table looks: text, or markdown as in docs/benchmarks.md.
FORMAT ?= text

# Where cargo puts what `make build` builds.
BUILT = $(or $(CARGO_TARGET_DIR),target)/release
placing = DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" SYSCONFDIR="$(SYSCONFDIR)" BUILT="$(BUILT)" packaging/install.sh

.PHONY: demo test setup build install uninstall deb rpm bench fmt clippy help

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

## Build target/release/tcpcopy, target/release/intercept and their pages; MODULE=FOLDER links a protocol module in
build:
	@scripts/setup.sh build
	$(CARGO) build --release --package tcpcopy $(if $(MODULE),--bin intercept,--bins)
	$(if $(MODULE),CARGO="$(CARGO)" scripts/build-with-module.sh "$(MODULE)" --release)
	$(CARGO) build --release --package tcpcopy-packaging --bin pages
	"$(BUILT)/pages" "$(BUILT)/packaging"

## Install what was built into PREFIX: programs, man pages, completions, systemd units; DESTDIR=FOLDER for a tree apart
install:
	@$(placing)

## Remove what `make install` has put there; the configuration stays
uninstall:
	@$(placing) --remove

## Build a package for Debian and Ubuntu, target/packages/*.deb
deb: build
	@BUILT="$(BUILT)" PACKAGE_OPTIONS="$(PACKAGE_OPTIONS)" packaging/package.sh deb

## Build a package for Fedora, RHEL, SUSE, target/packages/*.rpm
rpm: build
	@BUILT="$(BUILT)" PACKAGE_OPTIONS="$(PACKAGE_OPTIONS)" packaging/package.sh rpm

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
	@awk '/^## /{text=substr($$0,4)} /^[a-z]+:/&&text{sub(/:.*/,"");printf "  make %-9s %s\n",$$0,text;text=""}' $(MAKEFILE_LIST)
