#!/bin/sh
# docker/engine.sh [--apart] COMMAND [ARGUMENT...]: run COMMAND with a Docker engine, and end with its exit status.
#
# An engine that answers is used as it is. Else one is started, as root, and stopped when COMMAND has ended. Its data is
# in $ENGINE_DIR, which is kept, or in a directory that is removed. It has namespaces for processes and mounts of its own:
# however this ends, even by SIGKILL, nothing of it runs on and no mount is left.
#
# Without --apart it has the machine's network and none of its own: to build images (docker build --network host).
# With --apart engine and COMMAND share a network of their own, without a way out: Docker's networks and published ports
# are real there, and in nobody's way.
set -eu

# Debian's own client is the one that fits the engine: another may come first in PATH.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
START_SECONDS=60

fail() {
    echo "engine.sh: $*" >&2
    exit 1
}

run_with_engine() {
    apart=$1
    shift
    if [ -n "$apart" ]; then
        ip link set lo up
        network=
    else
        network='--bridge=none --iptables=false --ip6tables=false --ip-forward=false'
    fi
    # $network is several words.
    # shellcheck disable=SC2086
    dockerd --host "$DOCKER_HOST" --data-root "$ENGINE_DIR/data" --exec-root "$ENGINE_DIR/exec" \
        --pidfile "$ENGINE_DIR/dockerd.pid" --cgroup-parent "$ENGINE_CGROUP" $network >"$ENGINE_DIR/log" 2>&1 &
    engine=$!
    trap 'kill $engine 2>/dev/null || true; wait $engine || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    tries=$((START_SECONDS * 5))
    until docker version >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ $tries -eq 0 ] || ! kill -0 $engine 2>/dev/null; then
            reason=$(grep -E 'level=fatal|failed to start daemon' "$ENGINE_DIR/log" | tail -n 1)
            fail "no Docker engine: dockerd does not start: ${reason:-$(tail -n 1 "$ENGINE_DIR/log")}"
        fi
        sleep 0.2
    done
    "$@"
}

# Called by ourselves, inside the namespaces.
if [ "${1-}" = --inside ]; then
    shift
    run_with_engine "$@"
    exit
fi

apart=
if [ "${1-}" = --apart ]; then
    apart=--net
    shift
fi
[ $# -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }

command -v docker >/dev/null || fail "no docker client: apt-get install docker.io"
if docker version >/dev/null 2>&1; then
    exec "$@"
fi
[ -z "${DOCKER_HOST-}" ] || fail "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST"
[ "$(id -u)" -eq 0 ] || fail "no Docker engine answers, and only root can start one: start yours, or run this as root"
command -v dockerd >/dev/null || fail "no Docker engine to start: apt-get install docker.io"

remove=
if [ -z "${ENGINE_DIR-}" ]; then
    ENGINE_DIR=$(mktemp -d /var/tmp/mpool-engine-XXXXXX)
    remove=$ENGINE_DIR
fi
mkdir -p "$ENGINE_DIR"
rm -f "$ENGINE_DIR/dockerd.pid"
ENGINE_CGROUP=/mpool-engine-$$
DOCKER_HOST=unix://$ENGINE_DIR/docker.sock
export ENGINE_DIR ENGINE_CGROUP DOCKER_HOST

clean_up() {
    # Groups that are empty by now, and ours by name.
    find /sys/fs/cgroup -depth -type d -path "*$ENGINE_CGROUP*" -exec rmdir {} + 2>/dev/null || true
    [ -z "$remove" ] || rm -rf "$remove"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
unshare --mount --propagation private --pid --fork --kill-child --mount-proc $apart \
    sh "$0" --inside "$apart" "$@"
