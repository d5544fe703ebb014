"""Failover: a primary and its standby by streaming replication, and pools with both in their conninfo."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg2
import pytest
from postgres.helpers import DEADLINE, backend, pids_of, query, wait_for
from servers.postgres import PostgresServer
from servers.standby import Standby, allow_replication


@pytest.fixture
def pair(postgres_factory) -> Iterator[tuple[PostgresServer, Standby]]:
    primary = postgres_factory(wal_level="replica", max_wal_senders="5")
    primary.execute("CREATE TABLE IF NOT EXISTS public.noted (n int)")
    primary.execute("GRANT ALL ON public.noted TO PUBLIC")
    allow_replication(primary)
    standby = Standby(primary)
    try:
        yield primary, standby
    finally:
        standby.close()


def both(primary, standby, attrs) -> str:
    return (
        f"host={primary.socket_dir},{standby.socket_dir} port={primary.port},{standby.port} dbname=site user=site "
        f"target_session_attrs={attrs} connect_timeout=5"
    )


def write(pool):
    with pool.connection(DEADLINE) as conn:
        query(conn, "INSERT INTO public.noted VALUES (1)")
        return conn.info.host


def test_writes_recover_after_a_failover_without_a_restart(make_pool, pair):
    primary, standby = pair
    pool = make_pool(both(primary, standby, "read-write"), max_size=3)
    with_connections = [pool.getconn() for _ in range(3)]
    for conn in with_connections:
        pool.putconn(conn)
    assert write(pool) == str(primary.socket_dir)
    primary.stop("immediate")
    standby.promote()

    def recovered():
        try:
            return write(pool)
        except psycopg2.Error:  # the driver's for a server that goes away in the middle: not always Operational
            return None

    assert wait_for(recovered) == str(standby.socket_dir)
    # The old one comes back, read-only: nobody is there, and nobody goes there.
    primary.settings["default_transaction_read_only"] = "on"
    primary.start()
    pool.drain()
    assert {write(pool) for _ in range(5)} == {str(standby.socket_dir)}


def test_a_reader_pool_reads_from_the_standby(make_pool, pair):
    primary, standby = pair
    pool = make_pool(both(primary, standby, "standby"), max_size=1)
    with pool.connection() as conn:
        assert conn.info.host == str(standby.socket_dir)
        pid = backend(conn)
    # A stray write there says nothing about the server.
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        write(pool)
    with pool.connection() as conn:
        assert backend(conn) == pid


@pytest.mark.parametrize("way", ["connection", "getconn", "getconn autocommit"])
def test_a_primary_that_became_read_only_is_left(make_pool, postgres_factory, way):
    """25006 where default_transaction_read_only reads 'on' and did not when the connection was made."""
    server = postgres_factory()
    server.execute("CREATE TABLE public.noted (n int); GRANT ALL ON public.noted TO PUBLIC")
    pool = make_pool(server.conninfo, max_size=2)
    conns = [pool.getconn(), pool.getconn()]
    old = [backend(conn) for conn in conns]
    for conn in conns:
        conn.rollback()
        pool.putconn(conn)
    server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    server.execute("SELECT pg_reload_conf()")

    def refused():
        try:
            if way == "connection":
                write(pool)
                return False
            conn = pool.getconn()
            try:
                conn.autocommit = way.endswith("autocommit")
                query(conn, "INSERT INTO public.noted VALUES (1)")
                conn.commit() if not conn.autocommit else None
            finally:
                pool.putconn(conn)
        except psycopg2.errors.ReadOnlySqlTransaction:
            return True
        return False

    wait_for(refused)
    wait_for(lambda: backend_of(pool) not in old)
    wait_for(lambda: not set(old) & set(pids_of(server, pool)))


def backend_of(pool):
    with pool.connection(DEADLINE) as conn:
        return backend(conn)


def test_set_transaction_read_only_drops_nothing(make_pool, postgres):
    pool = make_pool(max_size=2)
    conns = [pool.getconn(), pool.getconn()]
    pids = sorted(backend(conn) for conn in conns)
    for conn in conns:
        pool.putconn(conn)
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), pool.connection() as conn:
        query(conn, "SET TRANSACTION READ ONLY")
        query(conn, "CREATE TABLE refused ()")
    assert sorted(pids_of(postgres, pool)) == pids


def test_a_holder_that_set_its_session_read_only_drops_nothing(make_pool, postgres):
    """Under autocommit the driver makes readonly a session default, which then reads 'on' like that of a standby."""
    pool = make_pool(max_size=2)
    conns = [pool.getconn(), pool.getconn()]
    pids = sorted(backend(conn) for conn in conns)
    for conn in conns:
        pool.putconn(conn)
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), pool.connection() as conn:
        conn.set_session(readonly=True, autocommit=True)
        query(conn, "CREATE TABLE refused ()")
    assert sorted(pids_of(postgres, pool)) == pids


def test_a_reader_pool_by_option_drops_nothing(make_pool, postgres):
    pool = make_pool(max_size=1, kwargs={"options": "-c default_transaction_read_only=on"})
    pid = backend_of(pool)
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction), pool.connection() as conn:
        query(conn, "CREATE TABLE refused ()")
    assert backend_of(pool) == pid


def test_a_generation_is_dropped_at_most_once_a_second(make_pool, postgres):
    pool = make_pool(max_size=4)
    generations = []
    for _ in range(3):
        with pytest.raises(psycopg2.Error), pool.connection() as conn:
            pid = backend(conn)
            postgres.execute("SELECT pg_terminate_backend(%s, 10000)", pid)
            query(conn, "SELECT 1")
        generations.append(pool._generation)
    started = pool._generation_dropped
    assert generations[0] == 1
    if time.monotonic() - started < 1.0:
        assert generations[-1] == 1
