#!/usr/bin/env bash
# Puts what no stable Debian installs beside MariaDB into a cache folder of the tests, without touching the system and
# without root: MySQL 8.4 or later with its client, from Debian unstable with all libraries that it needs, and MariaDB's
# server side of ed25519. Does nothing when it is all there; remove the folder to fetch it again.
#
#   mysql/bin/mysqld, mysql/bin/mysql   run with the loader and the libraries beside them
#   mysql/VERSION                       what `mysqld --version` says
#   mariadb-plugins-VERSION/            auth_ed25519.so of the MariaDB that is installed
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/tcpcopy-tests
oldest=8.4

give_up() {
    echo "setup: no MySQL for the tests: $1; the tests that need it are skipped" >&2
    exit 1
}

has() {
    PATH="$PATH:/usr/sbin:/sbin" type -P "$1" >/dev/null
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt fetches as a user of its own when it is run by root.
chmod 755 "$work"
mkdir -p "$cache"

# What Debian has only in the package that also makes a service of the server.
fetch_ed25519() {
    local version target
    has mariadbd && has dpkg-query && [ ! -e /usr/lib/mysql/plugin/auth_ed25519.so ] || return 0
    version=$(dpkg-query --show --showformat='${Version}' mariadb-server-core 2>/dev/null) || return 0
    target=$cache/mariadb-plugins-${version//[^0-9A-Za-z.+-]/_}
    [ ! -e "$target/auth_ed25519.so" ] || return 0
    mkdir "$work/ed25519"
    if ! (cd "$work/ed25519" && apt-get -q download "mariadb-server=$version" && dpkg-deb -x ./*.deb tree) >"$work/log" 2>&1; then
        tail -n 3 "$work/log" >&2
        echo "setup: MariaDB's auth_ed25519 cannot be had; the tests that need it are skipped" >&2
        return 0
    fi
    # Those of versions that were here before are of no use to this one.
    rm -rf "$cache"/mariadb-plugins-*
    mkdir -p "$target"
    mv "$work/ed25519/tree/usr/lib/mysql/plugin/auth_ed25519.so" "$target/"
}

# apt with lists, state and cache of its own. It verifies the archive's signature as always; nothing that failed that is
# unpacked.
private_apt() { # private_apt PROGRAM ARGUMENT...
    local program=$1
    shift
    "$program" -q -o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
        -o Dir::Etc::SourceList="$work/unstable.sources" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::PreferencesParts=/dev/null -o Dir::Etc::Preferences=/dev/null \
        -o APT::Install-Recommends=false -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o Acquire::AllowInsecureRepositories=false -o APT::Get::AllowUnauthenticated=false "$@"
}

fetch_mysql() {
    local mirror keys architecture server="" name version packages="" loader library tree=$work/tree new=$work/mysql
    has apt-get && has dpkg-deb || give_up "this system has no apt"
    # The mirror that this machine's own sources name.
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '$1 == "Debian" && $2 == "main" && $3 !~ /security/ {print $3; exit}')
    [ -n "$mirror" ] || give_up "this machine's apt names no mirror of Debian (apt-get update may help)"
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keys" ] || give_up "the keys of Debian's archive are missing (package debian-archive-keyring)"
    architecture=$(dpkg --print-architecture)

    mkdir -p "$work"/{state/lists/partial,cache/archives/partial,tree,mysql/bin,mysql/lib,mysql/plugin}
    : >"$work/status"
    printf 'Types: deb\nURIs: %s\nSuites: unstable\nComponents: main\nArchitectures: %s\nSigned-By: %s\n' \
        "$mirror" "$architecture" "$keys" >"$work/unstable.sources"
    private_apt apt-get update >"$work/log" 2>&1 || { tail -n 3 "$work/log" >&2; give_up "apt-get update failed"; }

    for name in mysql-server-core mysql-server-core-8.4; do
        version=$(private_apt apt-cache policy "$name" | awk '$1 == "Candidate:" {print $2}')
        if [ -n "$version" ] && [ "$version" != "(none)" ] && dpkg --compare-versions "$version" ge "$oldest"; then
            server=$name
            break
        fi
    done
    [ -n "$server" ] || give_up "Debian unstable has no MySQL of at least $oldest for $architecture"
    packages="$server ${server/server/client}"
    echo "setup: fetching MySQL $version and the libraries that it needs for the tests"
    # shellcheck disable=SC2086
    private_apt apt-get install --download-only -y $packages >"$work/log" 2>&1 ||
        { tail -n 3 "$work/log" >&2; give_up "its packages cannot be had"; }
    for name in "$work"/cache/archives/*.deb; do
        dpkg-deb -x "$name" "$tree"
    done

    # Only what runs: a tenth of what was unpacked are programs that nobody calls, perl and documentation.
    loader=$(find "$tree" -name 'ld-linux*.so.*' -type f | head -n 1)
    [ -n "$loader" ] || give_up "there is no loader among its libraries"
    library=$(dirname "$loader")
    find "$library" -maxdepth 1 -name '*.so*' -exec cp -a {} "$new/lib/" \;
    [ ! -d "$library/mysql" ] || find "$library/mysql" -name '*.so*' -exec cp -a {} "$new/lib/" \;
    cp "$tree/usr/sbin/mysqld" "$new/bin/mysqld.program"
    cp "$tree/usr/bin/mysql" "$new/bin/mysql.program"
    cp -a "$tree/usr/share/mysql" "$new/share"
    for name in mysql_native_password component_query_attributes component_reference_cache; do
        cp "$tree/usr/lib/mysql/plugin/$name.so" "$new/plugin/" 2>/dev/null || true
    done
    write_start mysqld --basedir=share/.. --lc-messages-dir=share --character-sets-dir=share/charsets --plugin-dir=plugin
    write_start mysql --character-sets-dir=share/charsets --plugin-dir=plugin
    "$new/bin/mysqld" --no-defaults --version 2>"$work/log" | sed "s/^.*Ver /Ver /" >"$new/VERSION" ||
        { tail -n 3 "$work/log" >&2; give_up "it does not run here"; }
    "$new/bin/mysql" --no-defaults --version >/dev/null 2>"$work/log" ||
        { tail -n 3 "$work/log" >&2; give_up "its client does not run here"; }
    # In one step, so that nobody finds half of it.
    rm -rf "$cache/mysql.new.$$"
    mv "$new" "$cache/mysql.new.$$"
    rm -rf "$cache/mysql"
    mv "$cache/mysql.new.$$" "$cache/mysql"
    rm -rf "$cache"/initialised-mysql-*
}

# A script that starts a program with its own loader, and tells it where its files are: FOLDER-OPTION=PATH, relative to
# the folder of MySQL. --no-defaults, if given, must come first.
write_start() { # write_start PROGRAM OPTION...
    local program=$1 option
    shift
    {
        printf '%s\n' '#!/bin/sh' 'here=$(dirname "$(dirname "$(readlink -f "$0")")")' 'first='
        printf '%s\n' 'if [ "${1:-}" = --no-defaults ]; then first=$1; shift; fi'
        printf '%s' "exec \"\$here/lib/$(basename "$loader")\" --library-path \"\$here/lib\" \"\$here/bin/$program.program\" \$first"
        for option in "$@"; do
            printf ' "%s=$here/%s"' "${option%%=*}" "${option#*=}"
        done
        printf ' "$@"\n'
    } >"$new/bin/$program"
    chmod 755 "$new/bin/$program"
}

fetch_ed25519
[ -x "$cache/mysql/bin/mysqld" ] && [ -s "$cache/mysql/VERSION" ] || fetch_mysql
