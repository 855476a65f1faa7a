#!/usr/bin/env bash
# Builds tcpcopy with a protocol module linked in as its default: `build-with-module.sh MODULE [CARGO OPTION...]`.
#
# MODULE is the folder of a crate that depends on tcpcopy-module-api, has `rlib` among its crate types and calls
# `export_module!`. Cargo takes a dependency from a manifest only, so this writes a small crate that has both tcpcopy and
# the module as dependencies, into target/module-build/, and builds that.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cargo=${CARGO:-cargo}

give_up() {
    echo "build-with-module: $1" >&2
    exit 2
}

[ $# -ge 1 ] || give_up "usage: $0 MODULE [CARGO OPTION...]"
[ -f "$1/Cargo.toml" ] || give_up "\`$1\` is not the folder of a crate: it has no Cargo.toml"
module=$(cd "$1" && pwd)
shift
case $module$root in
*\'*) give_up "cannot build in a folder with a quote (') in its path" ;;
esac

# The value of a key in [package].
package=$(awk '/^\[/ { inside = ($0 ~ /^\[package\]/) }
    inside && /^name[ \t]*=/ { split($0, part, /["\047]/); print part[2]; exit }' "$module/Cargo.toml")
[ -n "$package" ] || give_up "$module/Cargo.toml has no package with a name"

# Module and program must mean the same API. A module that has it by path, has ours or will not compile; from anywhere
# else, ours takes its place.
api=$(awk '/^tcpcopy-module-api[ \t]*=/ { print; exit }' "$module/Cargo.toml")
patch=
case $api in
*path*) ;;
*git*=*) patch=$(printf '%s\n' "$api" | sed -n 's/.*git[ ]*=[ ]*"\([^"]*\)".*/"\1"/p') ;;
*=*) patch=crates-io ;;
esac

build=$root/target/module-build/$package
mkdir -p "$build/src"
# Only what has changed is written: cargo goes by the files' times.
write() {
    local new
    new=$(cat)
    if [ ! -f "$1" ] || [ "$new" != "$(cat "$1")" ]; then
        printf '%s\n' "$new" >"$1"
    fi
}

write "$build/Cargo.toml" <<END
# Written by scripts/build-with-module.sh.
[package]
name = "tcpcopy-with-module"
version = "0.0.0"
edition = "2024"
publish = false

[workspace]

[[bin]]
name = "tcpcopy"
path = "src/main.rs"

[dependencies]
tcpcopy = { path = '$root/cli' }
module = { path = '$module', package = '$package' }
${patch:+
[patch.$patch]
tcpcopy-module-api = { path = '$root/plugins/api' \}
}
$(awk '/^\[/ { inside = ($0 ~ /^\[profile\.(release|dev)\]/) } inside' "$root/Cargo.toml")
END
write "$build/src/main.rs" <<END
//! tcpcopy with \`$package\` as its default module. Written by scripts/build-with-module.sh.

fn main() -> std::process::ExitCode {
    let built_in = tcpcopy::tcpcopy::modules::BuiltIn::shipped();
    tcpcopy::program::main(built_in.with_default(module::tcpcopy_module_entry()))
}
END
# The versions that this repository was tested with; cargo adds what only the module needs.
if [ ! -f "$build/Cargo.lock" ] || [ "$root/Cargo.lock" -nt "$build/Cargo.lock" ]; then
    cp "$root/Cargo.lock" "$build/Cargo.lock"
fi

if ! "$cargo" build --manifest-path "$build/Cargo.toml" --target-dir "${CARGO_TARGET_DIR:-$root/target}" "$@"; then
    echo "build-with-module: could not build tcpcopy with the module in $module. It needs \"rlib\" among the crate-types in" >&2
    echo "build-with-module: its Cargo.toml, export_module! in its lib.rs, and the tcpcopy-module-api of this repository" >&2
    exit 1
fi
