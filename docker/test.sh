#!/bin/sh
# docker/test.sh SUITE: build the images on Debian SUITE; run the whole test suite in one of them, then the images' own
# tests beside them, whose closing line is the last. Installs what it needs and does not find; the engine that it starts,
# where none answers, is gone in the end with all that it held. PYTHON: of a virtual environment (make venv).
set -eu

[ $# -eq 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
SUITE=$1
export SUITE
cd "$(dirname "$0")/.."

PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
packages='debootstrap procps'
# Where somebody has Docker from elsewhere, Debian's would take its place.
docker version >/dev/null 2>&1 || command -v dockerd >/dev/null || packages="$packages docker.io iproute2"
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || packages="$packages docker-compose"
# One word a package.
# shellcheck disable=SC2086
sh .ci/debian $packages

if [ -z "${ENGINE_DIR-}" ]; then
    ENGINE_DIR=$(mktemp -d /var/tmp/mpool-engine-XXXXXX)
    export ENGINE_DIR
    trap 'rm -rf "$ENGINE_DIR"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
fi
sh docker/engine.sh sh -euc '
    sh docker/build.sh "$SUITE" web demo postgres test
    sh docker/fleet/build.sh "$SUITE"
'
# Some tests mount file systems in namespaces of their own.
sh docker/engine.sh --apart sh -euc '
    docker run --rm --init --network none --shm-size 256m --cap-add SYS_ADMIN \
        --security-opt seccomp=unconfined --security-opt apparmor=unconfined "mpool-test:$SUITE"
    "${PYTHON:-python3}" -m pytest tests/docker
'
