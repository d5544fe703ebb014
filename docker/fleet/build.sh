#!/bin/sh
# docker/fleet/build.sh SUITE: build the image of a database machine, mpool-database:SUITE, on mpool-postgres:SUITE, for
# where no registry can be reached. POSTGRES=IMAGE builds on another one.
set -eu

[ $# -eq 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
cd "$(dirname "$0")/../.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! docker build --network host --file docker/fleet/Dockerfile --build-arg "POSTGRES=${POSTGRES-mpool-postgres:$1}" \
    --tag "mpool-database:$1" . >"$log" 2>&1; then
    cat "$log" >&2
    exit 1
fi
docker image inspect --format "mpool-database:$1 built: {{.Size}} bytes" "mpool-database:$1"
