#!/bin/sh
# docker/build.sh SUITE TARGET...: build stages of docker/Dockerfile on a base made of this machine's Debian packages.
#
# The target web is tagged mpool:SUITE, every other mpool-TARGET:SUITE. BASE=IMAGE builds on another base, of a registry
# for example. PYTHON (python3): whose pip brings pytest and hypothesis for the target test.
set -eu

[ $# -ge 2 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
suite=$1
shift
cd "$(dirname "$0")/.."
export DOCKER_BUILDKIT=1

base=${BASE-mpool-base:$suite}
if [ -z "${BASE-}" ] && ! docker image inspect "$base" >/dev/null 2>&1; then
    sh docker/base-image.sh "$suite" "$base"
fi

build() {
    target=$1
    tag=mpool-$target:$suite
    [ "$target" != web ] || tag=mpool:$suite
    shift
    # Docker says on stdout which image it is, and all else on stderr; that is of interest only if it fails.
    if ! docker build --network host --file docker/Dockerfile --target "$target" --tag "$tag" --progress plain \
        --build-arg "SUITE=$suite" --build-arg "BASE=$base" --build-arg "REVISION=$(revision)" "$@" . >"$log" 2>&1; then
        cat "$log" >&2
        exit 1
    fi
    docker image inspect --format "$tag built: {{.Size}} bytes" "$tag"
}

revision() {
    git rev-parse HEAD 2>/dev/null || echo unknown
}

# The wheels for the Python of that suite, which need not be this machine's.
fetch_wheels() {
    version=$(docker run --rm --network none --entrypoint /usr/bin/python3 "mpool:$suite" -c \
        'import sys; print("%d.%d" % sys.version_info[:2])')
    machine=$(uname -m)
    rm -rf "build/wheels/$suite"
    "${PYTHON:-python3}" -m pip download --quiet --quiet --dest "build/wheels/$suite" --only-binary :all: \
        --implementation cp --python-version "$version" --platform "manylinux2014_$machine" \
        --platform "manylinux_2_17_$machine" --platform "manylinux_2_28_$machine" 'pytest>=8' 'hypothesis>=6'
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "$@"; do
    if [ "$target" = test ]; then
        fetch_wheels
        build test --build-arg "WHEELS=build/wheels/$suite"
    else
        build "$target"
    fi
done
