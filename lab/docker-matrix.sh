#!/bin/sh
# Runs the Docker checks on every engine that Debian has, alone and mixed, and prints a table: a
# line a check, a column an engine, with the seconds that it took or FAILED. host2 of each check has
# an ordinary project beside.
#
#   lab/docker-matrix.sh [FOLDER]
#
# FOLDER is where lab/engines.sh keeps the engines. What the checks say goes to
# FOLDER/matrix/ENGINE.CHECK.log. Exits with 1 when a check failed. These variables choose:
#
#   CHECKS names and rounds, as "docker:4 docker-prefixes:50" ENGINES of "installed trixie sid
#   mixed"; mixed is the installed one on host1 and the newest on host2 LAB_COMMAND the command that
#   runs a check, unless it is that of a release build, which is built
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
checks=${CHECKS:-docker:4 docker-networks:4 docker-settings:1 docker-prefixes:50 docker-names:1 docker-boot:1 docker-kills:12 docker-upgrade:4 \
docker-churn:100 docker-removal:8 docker-lost:4 docker-slow:1 docker-firewall:1 docker-way-out:1 docker-protocol:10}
engines=${ENGINES:-installed trixie sid mixed}

folders=$("$root/lab/engines.sh" "$@")
newest=$(echo "$folders" | tail -n 1)
logs=$(dirname "$newest")/matrix
mkdir -p "$logs"
if [ -z "${LAB_COMMAND:-}" ]; then
    (cd "$root" && cargo build --release --quiet --bins)
    LAB_COMMAND=${CARGO_TARGET_DIR:-$root/target}/release/overlay-lab
fi

# The folders of an engine, as --engine takes them.
folders_of() {
    case $1 in
    installed) echo installed ;;
    mixed) echo "installed,$newest" ;;
    *) echo "$(dirname "$newest")/$1" ;;
    esac
}

failed=0
printf '%-18s' check
# shellcheck disable=SC2086 # a list of words
printf ' %10s' $engines
for check in $checks; do
    printf '\n%-18s' "${check%:*}"
    for engine in $engines; do
        log=$logs/$engine.${check%:*}.log
        # shellcheck disable=SC2086 # a command with its arguments
        if $LAB_COMMAND check "${check%:*}" --rounds "${check#*:}" --engine "$(folders_of "$engine")" >"$log" 2>&1; then
            printf ' %10s' "$(sed -n 's/^passed in //p' "$log")"
        else
            printf ' %10s' FAILED
            failed=1
        fi
    done
done
printf '\n'
exit $failed
