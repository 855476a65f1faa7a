#!/usr/bin/env bash
# Installs what is missing for a purpose: `setup.sh build`, `setup.sh demo` or `setup.sh test`; each includes those
# before it. Does nothing when all is there. Knows Debian and Ubuntu; elsewhere it names what it misses. For the tests it
# also has fetch-mysql.sh fetch a MySQL, which is not installed.
set -euo pipefail

purpose=${1:-test}
packages=()   # Debian packages to install
databases=()  # those of them that belong to MariaDB or talk to it
required=no   # whether one of them is needed to build at all

need() { # need PACKAGE TEST...: PACKAGE is missing unless TEST succeeds
    local package=$1
    shift
    if ! "$@" >/dev/null 2>&1; then
        packages+=("$package")
    fi
}

need_database() { # the same; where MySQL is installed, for one, MariaDB cannot be
    local missing=${#packages[@]}
    need "$@"
    if [ ${#packages[@]} -gt "$missing" ]; then
        unset "packages[$missing]"
        databases+=("$1")
    fi
}

has() { # has PROGRAM (not a word of the shell): also where an ordinary user's PATH does not look
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" type -P "$1"
}

# Whether the linker finds libpcap; the dynamic library alone (libpcap0.8) has no name that it looks for.
can_link_pcap() {
    echo 'int main(void) { return 0; }' | cc -x c - -o /dev/null -lpcap
}

case $purpose in
build | demo | test) ;;
*)
    echo "usage: $0 build|demo|test" >&2
    exit 2
    ;;
esac

need make has make
need gcc has cc
need libc6-dev test -e /usr/include/stdio.h
need libpcap-dev can_link_pcap
[ ${#packages[@]} -eq 0 ] || required=yes
if [ "$purpose" != build ]; then
    need iproute2 has ip
fi
if [ "$purpose" = test ]; then
    need g++ has c++
    need nginx has nginx
    need openssl has openssl
    need wrk has wrk
    need iptables has iptables
    need libcap2-bin has setcap
    need systemd has systemd-analyze
    need tcpdump has tcpdump
    need dnsmasq-base has dnsmasq
    need memcached has memcached
    # Man pages, completions and packages are looked at by those that they are for.
    need mandoc has mandoc
    need zsh has zsh
    need fish has fish
    need dpkg-dev has dpkg-shlibdeps
    need rpm test -x /usr/lib/rpm/find-requires
    need python3-yaml /usr/bin/python3 -c 'import yaml'
    need procps has sysctl
    need curl has curl
    need ethtool has ethtool
    need_database mariadb-server-core has mariadbd
    need_database mariadb-client-core has mariadb
    need_database sysbench has sysbench
    need_database python3-pymysql /usr/bin/python3 -c 'import pymysql'
    need_database python3-cryptography /usr/bin/python3 -c 'import cryptography'
fi

# rustfmt and clippy come with the toolchain, but not with its minimal profile.
if [ "$purpose" = test ]; then
    for component in rustfmt:fmt clippy:clippy; do
        if ! cargo "${component#*:}" --version >/dev/null 2>&1; then
            echo "setup: adding ${component%:*} to the Rust toolchain"
            rustup component add "${component%:*}" || echo "setup: please add ${component%:*} to the Rust toolchain" >&2
        fi
    done
fi

# What is not installed but fetched. Its reasons are its own, and so are its words.
fetch() {
    [ "$purpose" != test ] || "$(dirname "$0")/fetch-mysql.sh" || true
}

if [ $((${#packages[@]} + ${#databases[@]})) -eq 0 ]; then
    fetch
    exit 0
fi

# Without what the build needs there is no going on; the rest is for tests, which say what they skip.
give_up() {
    echo "setup: $1" >&2
    echo "setup: please install (Debian package names): ${packages[*]} ${databases[*]}" >&2
    if [ "$required" = yes ] || [ "$purpose" = demo ]; then
        exit 1
    fi
    fetch
    exit 0
}

has apt-get >/dev/null || give_up "this system has no apt-get"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    has sudo >/dev/null || give_up "installing packages needs root, and there is no sudo"
    as_root=(sudo)
    # Where nobody can type a password, do not ask for one.
    [ -t 0 ] || as_root=(sudo -n)
    "${as_root[@]}" true || give_up "installing packages needs root, and sudo was refused"
fi

# A package may start its service when it is installed; ours are wanted for their programs alone. Debian's way to say so
# is a policy-rc.d that answers 101. One that is there already stays as it is.
policy=/usr/sbin/policy-rc.d
own_policy=no
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    own_policy=yes
    "${as_root[@]}" chmod 755 "$policy"
fi
remove_policy() {
    if [ "$own_policy" = yes ]; then
        "${as_root[@]}" rm -f "$policy"
    fi
}
trap remove_policy EXIT

apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 "$@"
}
log=$(mktemp)
install() { # install PACKAGE...: nothing that is there is removed for it
    echo "setup: installing $*"
    apt install -y --no-install-recommends --no-remove "$@" >"$log" 2>&1
}
failed() {
    tail -n 20 "$log" >&2
    rm -f "$log"
    give_up "apt-get failed"
}
apt update >"$log" 2>&1 || failed
[ ${#packages[@]} -eq 0 ] || install "${packages[@]}" || failed
packages=()
[ ${#databases[@]} -eq 0 ] || install "${databases[@]}" || failed
rm -f "$log"
fetch
