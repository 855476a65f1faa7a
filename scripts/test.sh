#!/usr/bin/env bash
# Everything that must hold, in one run: format, lints, unit and engine tests, whole-system tests. All parts run even
# when one fails; the last line sums them up.
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0
skipped=0

check() { # check NAME COMMAND...: a part that passes or fails as a whole
    local name=$1
    shift
    echo "== $name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
    fi
}

suite() { # suite NAME COMMAND...: a part that counts its own tests
    local name=$1 status=0 sums
    shift
    echo "== $name"
    # Not a pipe: a program that a failed test leaves behind would keep it open, and everything waiting.
    : >"$log"
    tail -n +1 -f --pid=$$ "$log" &
    "$@" >"$log" 2>&1 || status=$?
    sleep 1
    kill $! && wait $! 2>/dev/null
    # "test result: ok. 3 passed; 0 failed; 1 ignored; ...", once for each test program.
    sums=$(awk '/^test result: /{for (i = 1; i < NF; i++) { if ($(i+1) ~ /^passed/) p += $i
        if ($(i+1) ~ /^failed/) f += $i; if ($(i+1) ~ /^ignored/) s += $i }} END {print p+0, f+0, s+0}' "$log")
    read -r p f s <<<"$sums"
    # A test that finds out by itself that it cannot run here says so; it has passed nothing.
    local unable
    unable=$(grep -c '^SKIPPED: ' "$log" || true)
    p=$((p - unable))
    s=$((s + unable))
    # It did not even build, or died.
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
        echo "FAILED: $name (exit code $status)"
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    skipped=$((skipped + s))
}

check "format" cargo fmt --all --check
check "clippy" cargo clippy --quiet --workspace --all-targets -- -D warnings
suite "unit and engine tests" cargo test --quiet --workspace --exclude tcpcopy-tests --no-fail-fast -- --nocapture
check "build of both programs" cargo build --quiet --package tcpcopy --bins
suite "whole-system tests" cargo test --package tcpcopy-tests --no-fail-fast

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
