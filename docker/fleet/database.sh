#!/bin/sh
# A database machine in a container: PostgreSQL, and the PgBouncer beside it, which ends when PostgreSQL does.
#
# The passwords of the roles site and standby are in /run/password. With STANDBY_OF=HOST a new cluster is a copy of the
# one of that host, and follows it.
set -eu

# quoted FILE CHARACTER: the line in FILE, each CHARACTER of it twice.
quoted() { sed "s/$2/$2$2/g" "$1"; }

umask 077
printf '"site" "%s"\n' "$(quoted /run/password/site '"')" >/etc/pgbouncer/users.txt

if [ -n "${STANDBY_OF-}" ]; then
    # Named in the standby's primary_conninfo, so here at every start.
    PGPASSFILE=/etc/pgbouncer/standby.pgpass
    export PGPASSFILE
    printf '*:*:*:standby:%s\n' "$(sed 's/[\\:]/\\&/g' /run/password/standby)" >"$PGPASSFILE"
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        pg_basebackup --host "$STANDBY_OF" --username standby --no-password --pgdata "$PGDATA" \
            --write-recovery-conf --wal-method stream --checkpoint fast
    fi
fi
umask 022

# Started again where it fails alone; as a child of PostgreSQL's first process, it is gone when the container is.
while :; do
    pgbouncer --quiet /etc/pgbouncer/pgbouncer.ini || true
    sleep 1
done &

command -v docker-entrypoint.sh >/dev/null && exec docker-entrypoint.sh "$@"
exec sh /usr/local/bin/postgres.sh "$@"
