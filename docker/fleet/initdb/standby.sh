# Let a standby copy this cluster and follow it. Run once, in a new cluster.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set password `cat /run/password/standby`
CREATE ROLE standby LOGIN REPLICATION PASSWORD :'password';
SQL
echo 'host replication standby all scram-sha-256' >>"$PGDATA/pg_hba.conf"
