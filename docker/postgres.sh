#!/bin/sh
# PostgreSQL in a container, as far as the compose files need the image `postgres`: POSTGRES_USER, POSTGRES_DB,
# POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, and /docker-entrypoint-initdb.d/*.sql and *.sh, once in a new cluster.
set -eu

fail() {
    echo "postgres.sh: $*" >&2
    exit 1
}

if [ "${1-}" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    if [ -n "${POSTGRES_PASSWORD_FILE-}" ]; then
        [ -r "$POSTGRES_PASSWORD_FILE" ] || fail "POSTGRES_PASSWORD_FILE: cannot read $POSTGRES_PASSWORD_FILE"
        password=$(cat "$POSTGRES_PASSWORD_FILE")
    else
        password=${POSTGRES_PASSWORD-}
    fi
    [ -n "$password" ] || fail "no password: set POSTGRES_PASSWORD_FILE or POSTGRES_PASSWORD"

    # Not a file on the way: initdb reads the password from the pipe.
    printf '%s\n' "$password" | initdb --username "$user" --pwfile /dev/stdin --auth-local trust \
        --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8 >/dev/null
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    # On its socket only: nobody takes the cluster for ready before it is.
    pg_ctl --silent --wait --options "-c listen_addresses=''" start
    # Like the official image, for scripts that call psql by themselves.
    export PGUSER="$user" PGDATABASE="$database"
    [ "$database" = postgres ] || createdb --maintenance-db postgres "$database"
    for script in /docker-entrypoint-initdb.d/*; do
        case $script in
            *.sql) psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --file "$script" ;;
            *.sh) sh -eu "$script" ;;
        esac
    done
    pg_ctl --silent --wait --mode fast stop
    unset PGUSER PGDATABASE
fi
[ "${1-}" != postgres ] || set -- "$@" -c listen_addresses='*'
unset POSTGRES_PASSWORD
exec "$@"
