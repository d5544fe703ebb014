"""Behind PgBouncer in transaction mode: the pool needs no session, and what would need one is refused."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from postgres.helpers import DEADLINE, in_threads, kill, query, wait_for
from psycopg2.extensions import ISOLATION_LEVEL_SERIALIZABLE
from servers.pgbouncer import PgBouncer

from mpool import NullConnectionPool, PoolTimeout, PoolUnavailable


@pytest.fixture
def make_bouncer() -> Iterator[Callable[..., PgBouncer]]:
    """`make_bouncer(server, default_pool_size=1)`: a PgBouncer in front of *server*, closed at the end."""
    made: list[PgBouncer] = []

    def make(server: Any, **settings: object) -> PgBouncer:
        made.append(PgBouncer(server, settings={"server_login_retry": 1, **settings}))
        return made[-1]

    yield make
    for bouncer in made:
        bouncer.close()


@pytest.fixture
def bouncer(make_bouncer, postgres) -> PgBouncer:
    """One server connection for everybody: what one leaves behind the next one finds."""
    return make_bouncer(postgres, default_pool_size=1)


def others_see(bouncer: PgBouncer, setting: str) -> str:
    """What another client finds on the server connection that it is lent."""
    conn = psycopg2.connect(bouncer.conninfo)
    try:
        return query(conn, f"SHOW {setting}")
    finally:
        conn.close()


def test_more_clients_than_server_connections_each_in_its_own_transactions(make_pool, make_bouncer, postgres):
    bouncer = make_bouncer(postgres, default_pool_size=2, max_db_connections=2)
    pool = make_pool(bouncer.conninfo, max_size=6, check_after=0, check_bypass=0)
    postgres.execute("DROP TABLE IF EXISTS public.behind; CREATE TABLE public.behind (n int)")
    postgres.execute("GRANT ALL ON public.behind TO PUBLIC")

    def work(number: int) -> None:
        for turn in range(20):
            try:
                with pool.connection(DEADLINE) as conn:
                    query(conn, f"INSERT INTO public.behind VALUES ({number})")
                    assert query(conn, "SELECT count(*) FROM public.behind WHERE xmin = pg_current_xact_id()::xid") == 1
                    if turn % 2:
                        raise LookupError
            except LookupError:
                pass

    assert in_threads(6, work) == [None] * 6
    assert postgres.execute("SELECT count(*), count(DISTINCT n) FROM public.behind") == [(60, 6)]
    clients, servers = bouncer.connections()
    assert clients == pool.get_stats()["pool_size"] <= 6
    assert servers <= 2


def test_the_pool_itself_sends_nothing_that_needs_a_session(make_pool, postgres_factory):
    server = postgres_factory(log_statement="all")
    before = len(server.log())
    pool = make_pool(
        server.conninfo, max_size=2, pooler="transaction", check_after=0, check_bypass=0, check=lambda conn: None
    )
    for _ in range(3):
        with pool.connection() as conn, conn.transaction():
            query(conn, "SELECT 1")
        conn = pool.getconn()
        conn.isolation_level = ISOLATION_LEVEL_SERIALIZABLE
        conn.readonly = True
        query(conn, "SELECT 2")
        pool.putconn(conn)  # rolled back, and its setters are put back
        conn = pool.getconn()
        conn.autocommit = True
        query(conn, "SELECT 3")
        pool.putconn(conn)
        pool.check()
    pool.close()
    sent = set(re.findall(r"statement: (\w+)", server.log()[before:]))
    assert {"BEGIN", "SELECT", "ROLLBACK"} <= sent <= {"BEGIN", "SELECT", "ROLLBACK", "COMMIT"}


def test_readonly_and_isolation_level_are_those_of_the_transaction_alone(make_pool, bouncer):
    pool = make_pool(bouncer.conninfo, max_size=1)
    with pool.connection() as conn:
        conn.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
        assert query(conn, "SHOW transaction_read_only") == "on"
    assert others_see(bouncer, "default_transaction_read_only") == "off"
    assert others_see(bouncer, "default_transaction_isolation") == "read committed"
    with pool.connection() as conn:
        assert query(conn, "SHOW transaction_read_only") == "off"
        assert query(conn, "SHOW transaction_isolation") == "read committed"


def test_autocommit_ends_with_the_lease(make_pool, bouncer):
    pool = make_pool(bouncer.conninfo, max_size=1)
    with pool.connection() as conn:
        conn.autocommit = True
        query(conn, "SELECT 1")
        assert others_see(bouncer, "transaction_isolation") == "read committed"  # the server connection is free again
    with pool.connection() as conn:
        assert not conn.autocommit


def set_attribute(conn):
    conn.autocommit = True
    conn.readonly = True


def set_isolation(conn):
    conn.autocommit = True
    conn.isolation_level = "SERIALIZABLE"


def set_session(conn):
    conn.set_session(readonly=True, autocommit=True)


def set_deferrable(conn):
    conn.set_session(None, None, True, True)


def set_level_nought(conn):
    conn.readonly = True
    conn.set_isolation_level(0)


WAYS = [set_attribute, set_isolation, set_session, set_deferrable, set_level_nought]
SETTINGS = ["default_transaction_read_only", "default_transaction_deferrable"]


@pytest.mark.parametrize("way", WAYS)
def test_a_session_default_that_others_would_inherit_is_refused(make_pool, bouncer, way):
    pool = make_pool(bouncer.conninfo, max_size=1, pooler="transaction")
    with pytest.raises(psycopg2.NotSupportedError, match="BEGIN READ ONLY"), pool.connection() as conn:
        way(conn)
    assert [others_see(bouncer, setting) for setting in SETTINGS] == ["off", "off"]
    assert others_see(bouncer, "default_transaction_isolation") == "read committed"


def test_configure_is_refused_it_too_and_the_caller_is_told(make_pool, bouncer):
    pool = make_pool(bouncer.conninfo, max_size=1, configure=set_session, pooler="transaction")
    with pytest.raises(PoolUnavailable, match="BEGIN READ ONLY"):
        pool.getconn(DEADLINE)
    assert others_see(bouncer, "default_transaction_read_only") == "off"


@pytest.mark.parametrize("way", WAYS)
def test_defaults_may_be_set_where_there_is_no_pooler(make_pool, way):
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        way(conn)
    with pool.connection() as conn:
        assert not conn.autocommit and query(conn, "SHOW default_transaction_read_only") == "off"


def test_in_session_mode_everything_works_once_it_is_said(make_pool, make_bouncer, postgres):
    bouncer = make_bouncer(postgres, pool_mode="session", default_pool_size=2)
    pool = make_pool(bouncer.conninfo, max_size=1, pooler="session", reset_session=True)
    with pool.connection() as conn:
        set_session(conn)
        query(conn, "SET work_mem = '123kB'")
    with pool.connection() as conn:
        assert query(conn, "SHOW work_mem") != "123kB"
        assert query(conn, "SHOW default_transaction_read_only") == "off"


def test_a_pgbouncer_is_noticed_without_asking_it(make_pool, bouncer):
    # One number in a thousand that PgBouncer makes up could be a process's: not that of three in a row.
    pool = make_pool(bouncer.conninfo, max_size=4)
    for conn in [pool.getconn() for _ in range(3)]:
        pool.putconn(conn)
    first, second, third, last = [pool.getconn() for _ in range(4)]
    with pytest.raises(psycopg2.NotSupportedError):
        set_session(last)
    for conn in (first, second, third, last):
        pool.putconn(conn)


def test_client_encoding_follows_the_client(make_pool, bouncer):
    pool = make_pool(bouncer.conninfo, max_size=1)
    with pool.connection() as conn:
        conn.set_client_encoding("LATIN1")
        conn.commit()
        assert others_see(bouncer, "client_encoding") == "UTF8"
        assert query(conn, "SELECT 'é'") == "é" and query(conn, "SHOW client_encoding") == "LATIN1"
    with pool.connection() as conn:
        assert query(conn, "SHOW client_encoding") == "UTF8"


def test_reset_session_is_refused_at_the_first_connection(make_pool, bouncer, caplog):
    pool = make_pool(bouncer.conninfo, max_size=1, reset_session=True, pooler="transaction")
    with pytest.raises(PoolUnavailable, match=r"reset_session cannot work behind PgBouncer .* SET LOCAL"):
        pool.getconn(DEADLINE)
    wait_for(lambda: len([record for record in caplog.records if "SET LOCAL" in record.getMessage()]) == 1)


def test_options_that_pgbouncer_refuses_are_named(make_pool, bouncer):
    pool = make_pool(f"{bouncer.conninfo} options='-c statement_timeout=5000'", max_size=1)
    with pytest.raises(PoolUnavailable, match=r"unsupported startup parameter.*(options|statement_timeout)"):
        pool.getconn(DEADLINE)


def test_options_that_pgbouncer_ignores_are_warned_of_once(make_pool, make_bouncer, postgres, caplog):
    bouncer = make_bouncer(postgres, ignore_startup_parameters="options")
    pool = make_pool(f"{bouncer.conninfo} options='-c statement_timeout=5000'", max_size=3)
    for conn in [pool.getconn() for _ in range(3)]:
        assert query(conn, "SHOW statement_timeout") == "0"
        pool.putconn(conn)
    assert len([record for record in caplog.records if "options= reaches the server only" in record.getMessage()]) == 1


def test_no_option_is_warned_of_without_a_pooler(make_pool, postgres, caplog):
    pool = make_pool(f"{postgres.conninfo} options='-c statement_timeout=5000'", max_size=1, reset_session=True)
    with pool.connection() as conn:
        assert query(conn, "SHOW statement_timeout") == "5s"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_restart_of_pgbouncer_is_noticed_before_the_next_lease(make_pool, bouncer):
    pool = make_pool(bouncer.conninfo, max_size=3, check_bypass=0)
    for conn in [pool.getconn() for _ in range(3)]:
        pool.putconn(conn)
    bouncer.restart()
    for _ in range(3):
        with pool.connection(DEADLINE) as conn:
            assert query(conn, "SELECT 1") == 1
    assert pool.get_stats()["connections_lost"] >= 1


def test_callers_are_told_at_once_that_pgbouncer_is_down_and_served_when_it_is_back(make_pool, bouncer):
    pool = make_pool(bouncer.conninfo, max_size=1, check_bypass=0)
    with pool.connection():
        pass
    bouncer.stop()
    with pytest.raises(PoolUnavailable, match=r"No such file or directory|Connection refused"):
        pool.getconn(DEADLINE)
    bouncer.start()

    def served():
        try:
            with pool.connection() as conn:
                return query(conn, "SELECT 1") == 1
        except psycopg2.OperationalError:
            return False

    wait_for(served)


def test_a_restart_of_the_server_behind_pgbouncer_is_survived(make_pool, make_bouncer, postgres_factory):
    server = postgres_factory()
    bouncer = make_bouncer(server)
    pool = make_pool(bouncer.conninfo, max_size=2)
    with pool.connection() as conn:
        before = query(conn, "SELECT pg_postmaster_start_time()")
    server.restart("immediate")

    def another_server():
        try:
            with pool.connection() as conn:
                return query(conn, "SELECT pg_postmaster_start_time()") > before
        except psycopg2.DatabaseError:
            return False

    wait_for(another_server)


def test_a_killed_server_connection_costs_one_transaction(make_pool, bouncer, postgres):
    pool = make_pool(bouncer.conninfo, max_size=1)
    with pytest.raises(psycopg2.OperationalError) as raised, pool.connection() as conn:
        kill(postgres, query(conn, "SELECT pg_backend_pid()"))
        query(conn, "SELECT 1")
    assert raised.value.__notes__ and "FATAL" in raised.value.__notes__[0]
    with pool.connection(DEADLINE) as conn:
        assert query(conn, "SELECT 1") == 1


def test_a_full_pgbouncer_is_named_and_the_other_connections_are_kept(make_pool, make_bouncer, postgres, caplog):
    bouncer = make_bouncer(postgres, default_pool_size=1)
    pool = make_pool(bouncer.conninfo, max_size=3)
    holder, idle, waiting = [pool.getconn() for _ in range(3)]
    pool.putconn(idle)
    query(holder, "SELECT 1")  # has the server connection until its transaction ends
    bouncer.configure(query_wait_timeout=1)
    with pytest.raises(psycopg2.OperationalError):
        query(waiting, "SELECT 1")
    pool.putconn(waiting)
    holder.rollback()
    pool.putconn(holder)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "PgBouncer had no server connection free in time" in line]
    assert not [line for line in said if "generation" in line]
    with pool.connection() as first, pool.connection() as second:
        assert {id(first), id(second)} == {id(holder), id(idle)}


def test_the_error_of_a_block_says_that_pgbouncer_was_full(make_pool, make_bouncer, postgres, caplog):
    bouncer = make_bouncer(postgres, default_pool_size=1)
    pool = make_pool(bouncer.conninfo, max_size=2)
    with pool.connection() as holder:
        query(holder, "SELECT 1")
        bouncer.configure(query_wait_timeout=1)
        with pytest.raises(psycopg2.OperationalError) as raised, pool.connection() as conn:
            query(conn, "SELECT 1")
    assert raised.value.__notes__ == ["FATAL: query_wait_timeout"]
    assert len([record for record in caplog.records if "PgBouncer had no" in record.getMessage()]) == 1


def test_too_many_clients_for_pgbouncer_is_the_reason_that_a_caller_reads(make_pool, make_bouncer, postgres):
    bouncer = make_bouncer(postgres, max_client_conn=2)
    pool = make_pool(bouncer.conninfo, max_size=4)
    leased = [pool.getconn(), pool.getconn()]

    def told():
        with pytest.raises(PoolTimeout) as raised:
            pool.getconn(timeout=0.5)
        return "no more connections allowed" in str(raised.value)

    wait_for(told)
    for conn in leased:
        pool.putconn(conn)
    with pool.connection() as conn:
        assert query(conn, "SELECT 1") == 1


def test_a_caller_waits_for_a_server_connection_and_gets_it(make_pool, bouncer):
    pool = make_pool(bouncer.conninfo, max_size=2)
    results: list[int] = []

    def second() -> None:
        with pool.connection() as conn:
            results.append(query(conn, "SELECT 2"))

    with pool.connection() as conn:
        query(conn, "SELECT 1")
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: any(row["cl_waiting"] for row in bouncer.admin("SHOW POOLS")))
        assert results == []
    thread.join(DEADLINE)
    assert results == [2]


def test_pgbouncer_knows_whose_each_client_is(make_pool, bouncer):
    pool = make_pool(bouncer.conninfo, max_size=2, name="known")
    with pool.connection() as conn:
        query(conn, "SELECT 1")
        names = [row["application_name"] for row in bouncer.admin("SHOW CLIENTS") if row["database"] == "site"]
        assert len(names) == 1 and re.fullmatch(r"mpool/\d+/python/known", names[0])
        assert query(conn, "SHOW application_name") == names[0]


def test_a_pool_that_keeps_nothing_works_beside_a_local_pgbouncer(make_pool, bouncer):
    pool = make_pool(bouncer.conninfo, cls=NullConnectionPool, max_size=3)
    assert in_threads(3, lambda number: lease_once(pool, number)) == [0, 1, 2]
    assert wait_for(lambda: bouncer.connections()[0] == 0)


def lease_once(pool: Any, number: int) -> int:
    with pool.connection(DEADLINE) as conn:
        return query(conn, f"SELECT {number}")
