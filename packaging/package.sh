#!/usr/bin/env bash
# `package.sh deb` and `package.sh rpm` make a package of what was built (BUILT, as make gives it), by cargo-deb and
# cargo-generate-rpm of fixed versions. Where they are missing they are built from crates.io into target/tools, once;
# nothing is installed on the system. PACKAGE_OPTIONS are further options of these tools.
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(realpath "${BUILT:?}")
# make's variable of that name, which it hands on when it is given on its command line, is not the one that cargo sets.
unset CARGO

tool() { # tool NAME VERSION: has it, of that version, in target/tools
    local name=$1 version=$2
    if ! grep -qsF "\"$name $version " target/tools/.crates.toml || [ ! -x "target/tools/bin/$name" ]; then
        echo "package: building $name $version into target/tools; this takes a minute"
        # It runs for a moment, so that it is better built soon than built well; and apart from the project's own target folder.
        env -u CARGO_TARGET_DIR -u RUSTFLAGS CARGO_PROFILE_DEV_DEBUG=0 \
            cargo install --quiet --debug --locked --root target/tools --version "$version" "$name"
    fi
}

# Both tools know built things by the path target/release, and put the target folder that they are told in the place of
# `target`. They are given one with what belongs into a package, as it is there.
target=${built%/*}/packages/work
stage() {
    rm -rf "$target"
    mkdir -p "$target/release"
    install -s "$built/tcpcopy" "$built/intercept" "$target/release"
    cp -r "$built/packaging" "$target/release"
    gzip -9n "$target"/release/packaging/man8/*.8
    gzip -9nc CHANGELOG.md >"$target/release/packaging/changelog.gz"
}
finish() { # finish PATTERN: says what there is
    rm -rf "$target"
    ls "${target%/*}"/$1
}

case ${1:-} in
deb)
    tool cargo-deb 3.8.0
    stage
    # The system's xz is several times as fast as that of a cargo-deb that was built in a hurry.
    own_xz=()
    ! type -P xz >/dev/null || own_xz=(--compress-system)
    CARGO_TARGET_DIR=$target target/tools/bin/cargo-deb --quiet --no-build --no-strip --package tcpcopy \
        --output "${target%/*}/" "${own_xz[@]}" ${PACKAGE_OPTIONS-}
    finish '*.deb'
    ;;
rpm)
    # Without it dependencies would be guessed, from all that is loaded and not from what is linked.
    requires=/usr/lib/rpm/find-requires
    [ -x "$requires" ] || { echo "package: there is no $requires; it is in the package rpm of Debian, rpm-build elsewhere" >&2; exit 2; }
    tool cargo-generate-rpm 0.21.1
    stage
    target/tools/bin/cargo-generate-rpm --package cli --target-dir "$target" --auto-req "$requires" \
        --output "${target%/*}/" ${PACKAGE_OPTIONS-}
    finish '*.rpm'
    ;;
*)
    echo "usage: package.sh deb|rpm" >&2
    exit 2
    ;;
esac
