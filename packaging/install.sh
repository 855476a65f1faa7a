#!/usr/bin/env bash
# Puts what was built where a system looks for it: `install.sh` installs, `install.sh --remove` removes. What goes where is
# one list. From the environment, as make gives it:
#   DESTDIR     the root of the tree to install into; none: this system
#   PREFIX      the folder above sbin, share and lib
#   SYSCONFDIR  the folder above tcpcopy/*.toml
#   BUILT       the folder with the programs and, in `packaging`, the pages
set -euo pipefail
cd "$(dirname "$0")/.."

root=${DESTDIR:-}
prefix=${PREFIX:?}
configuration=${SYSCONFDIR:?}/tcpcopy
built=${BUILT:?}
pages=$built/packaging
documents=$prefix/share/doc/tcpcopy

entry() { # entry FOLDER MODE FILE...: one line each, of where to, mode and where from
    local folder=$1 mode=$2 file
    shift 2
    for file in "$@"; do
        printf '%s\t%s\t%s\n' "$folder/${file##*/}" "$mode" "$file"
    done
}

shopt -s nullglob
list() {
    entry "$prefix/sbin" 755 "$built/tcpcopy" "$built/intercept"
    entry "$prefix/share/man/man8" 644 "$pages"/man8/*.8
    entry "$prefix/share/bash-completion/completions" 644 "$pages"/completions/bash/*
    entry "$prefix/share/zsh/site-functions" 644 "$pages"/completions/zsh/_*
    entry "$prefix/share/fish/vendor_completions.d" 644 "$pages"/completions/fish/*.fish
    entry "$prefix/lib/systemd/system" 644 packaging/systemd/*.service
    # As in the repository, so that what one document says of another leads there.
    entry "$documents" 644 README.md CHANGELOG.md CONTRIBUTING.md LICENSE
    entry "$documents/docs" 644 docs/*.md
    entry "$documents/docs/monitoring" 644 docs/monitoring/*
    entry "$documents/packaging/kubernetes" 644 packaging/kubernetes/*
    # How they come: to compare with, where those that are in use were changed.
    entry "$documents/packaging" 644 packaging/tcpcopy.toml packaging/intercept.toml
}

if [ "${1:-}" = --remove ]; then
    while IFS=$'\t' read -r to _ _; do
        rm -f "$root$to"
    done < <(list)
    # Folders of our own, where nobody has put anything else; the others are the system's.
    for folder in "$documents"/{docs/monitoring,docs,packaging/kubernetes,packaging} "$documents" "$prefix/lib/tcpcopy"; do
        [ ! -d "$root$folder" ] || rmdir --ignore-fail-on-non-empty "$root$folder"
    done
    # What a person may have written stays, as it does when a package is removed.
    [ ! -d "$root$configuration" ] || echo "uninstall: $root$configuration is left as it is"
    exit 0
fi

for program in tcpcopy intercept; do
    if [ ! -x "$built/$program" ] || [ ! -d "$pages/man8" ]; then
        echo "install: $built has not all that is to be installed: run make build first" >&2
        exit 2
    fi
done
while IFS=$'\t' read -r to mode from; do
    install -D -m "$mode" "$from" "$root$to"
    case $to in
    # Units name the programs where packages have them.
    *.service) sed -i "s|/usr/sbin/|$prefix/sbin/|g; s|/etc/tcpcopy/|$configuration/|g" "$root$to" ;;
    esac
done < <(list)
# Modules that are found by their names.
install -d "$root$prefix/lib/tcpcopy"
for program in tcpcopy intercept; do
    if [ -e "$root$configuration/$program.toml" ]; then
        echo "install: $root$configuration/$program.toml is there already and stays as it is"
    else
        install -D -m 644 "packaging/$program.toml" "$root$configuration/$program.toml"
    fi
done
