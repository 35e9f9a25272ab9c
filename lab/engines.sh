#!/bin/sh
# Fetches Docker engines of newer Debian releases, for
# `overlay-lab check NAME --engine FOLDER[,FOLDER]`: those of trixie (26) and of sid (28 or newer)
# beside the installed one. Nothing is installed and the system's own apt state is not touched: a
# private one is made out of the mirror that the system's sources name, and the packages are
# unpacked.
#
#   lab/engines.sh [FOLDER]
#
# FOLDER is `engines` in Cargo's target folder unless given, which is where the tests look. What is
# there already stays; remove the folder to fetch again. On success the folders of the engines are
# printed, one a line.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-${CARGO_TARGET_DIR:-$root/target}/engines}
releases="trixie sid"

fail() {
    echo "engines: $*" >&2
    exit 1
}

missing=""
for release in $releases; do
    [ -x "$folder/$release/usr/sbin/dockerd" ] || missing="$missing $release"
done

if [ -n "$missing" ]; then
    for program in apt-get dpkg; do
        command -v $program >/dev/null 2>&1 || fail "$program is missing: engines are fetched on Debian and what descends from it"
    done
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' | head -n 1)
    [ -n "$mirror" ] || fail "apt's sources name no mirror of Debian; run apt-get update once if they do"

    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    state=$(mktemp -d "$folder/apt.XXXXXX")
    trap 'rm -rf "$state"' EXIT
    trap 'exit 1' HUP INT TERM
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/packages"
    mkdir "$state/none"
    : >"$state/status"
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    signed=""
    [ ! -e $keyring ] || signed="[signed-by=$keyring]"
    for release in $missing; do
        echo "deb $signed $mirror $release main" >>"$state/sources.list"
    done
    # Proxies and credentials of the system's configuration hold here too.
    private() {
        apt-get -qq -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts="$state/none" \
            -o Dir::Etc::preferences="$state/none" -o Dir::Etc::preferencesparts="$state/none" -o Dir::State="$state" \
            -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" -o APT::Sandbox::User= \
            -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
            -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
            -o APT::Update::Error-Mode=any -o Acquire::Retries=1 -o Acquire::http::Timeout=20 "$@"
    }
    private update >&2 || fail "the mirror that apt's sources name does not answer: without a network no engines can be fetched"
    for release in $missing; do
        rm -rf "$state/packages" && mkdir "$state/packages"
        (cd "$state/packages" && private download "docker.io/$release" >&2) || fail "docker.io of $release cannot be fetched"
        # The client has had a package of its own since trixie; without one, the installed client is
        # used.
        (cd "$state/packages" && private download "docker-cli/$release" >&2) ||
            echo "engines: $release has no docker-cli" >&2
        mkdir "$state/$release"
        for package in "$state/packages"/*.deb; do
            dpkg -x "$package" "$state/$release"
        done
        "$state/$release/usr/sbin/dockerd" --version >&2 || fail "the engine of $release does not run on this system"
        rm -rf "${folder:?}/$release"
        mv "$state/$release" "$folder/$release"
    done
fi

for release in $releases; do
    echo "$folder/$release"
done
