"""Lease and return on a real server: what any good pool owes."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import threading
import time
import weakref

import psycopg2
import psycopg2.extensions as ext
import psycopg2.extras
import pytest
from postgres.helpers import (
    DEADLINE,
    backend,
    in_another_thread,
    in_threads,
    kill,
    patiently,
    pids_of,
    query,
    through,
    wait_for,
)

from mpool import (
    ConnectionPool,
    LeaseError,
    NullConnectionPool,
    PoolClosed,
    PoolError,
    PoolTimeout,
    PoolUnavailable,
    TooManyRequests,
)


def lease_all(pool, count):
    conns = [pool.getconn() for _ in range(count)]
    pids = [backend(conn) for conn in conns]
    for conn in conns:
        pool.putconn(conn)
    return pids


# -- sizes


def test_a_pool_tells_its_settings_by_psycopg_pools_names(make_pool):
    pool = make_pool(min_size=1, max_size=3, timeout=7.0, max_waiting=9, max_idle=60.0, num_workers=2)
    assert (pool.min_size, pool.max_size, pool.timeout, pool.max_waiting) == (1, 3, 7.0, 9)
    assert (pool.max_lifetime, pool.max_idle, pool.reconnect_timeout, pool.num_workers) == (3600.0, 60.0, 300.0, 2)
    pool.resize(2, 4)
    assert (pool.min_size, pool.max_size) == (2, 4)


@pytest.mark.parametrize("sizes", [(0, 0), (-1, 5), (3, 2), (0, -1)])
def test_bad_sizes_are_refused_at_construction_and_at_resize(make_pool, sizes):
    with pytest.raises(ValueError):
        make_pool(min_size=sizes[0], max_size=sizes[1])
    pool = make_pool(max_size=3)
    with pytest.raises(ValueError):
        pool.resize(*sizes)
    assert pool.get_stats()["pool_max"] == 3


def test_min_size_is_filled_and_waited_for(make_pool, postgres):
    pool = make_pool(min_size=3, max_size=4)
    pool.wait(DEADLINE)
    assert len(pids_of(postgres, pool)) == 3
    assert pool.get_stats()["pool_available"] == 3


def test_open_waits_for_min_size_if_it_is_told_to(make_pool):
    pool = make_pool(min_size=2, open=False)
    pool.open(wait=True, timeout=DEADLINE)
    assert pool.get_stats()["pool_available"] == 2


def test_min_size_is_filled_again_by_itself_when_connections_are_lost(make_pool, postgres):
    pool = make_pool(min_size=3, max_size=3)
    pool.wait(DEADLINE)
    held = pool.getconn()
    old = pids_of(postgres, pool)
    kill(postgres, *old)
    with pytest.raises(psycopg2.Error):
        query(held, "SELECT 1")
    pool.putconn(held)  # nobody asks for another
    wait_for(lambda: len(pids_of(postgres, pool)) == 3 and pool.get_stats()["pool_available"] == 3)
    assert not set(old) & set(pids_of(postgres, pool))


def test_min_size_is_filled_in_parallel(make_pool, proxy):
    proxy.delay = 10 * DEADLINE
    pool = make_pool(patiently(proxy), min_size=5, max_size=5, num_workers=2)
    wait_for(lambda: proxy.in_delay == 2)
    assert len(pool._openings) == 2
    proxy.hurry()
    pool.wait(DEADLINE)
    assert proxy.most_in_delay == 2


def test_the_second_lease_gets_a_connection_that_was_there(make_pool):
    pool = make_pool(max_size=4)
    first = lease_all(pool, 2)
    assert backend_of(pool) in first
    assert pool.get_stats()["pool_size"] == 2


def backend_of(pool):
    with pool.connection() as conn:
        return backend(conn)


def test_the_newest_idle_connection_is_lent_first(make_pool):
    pool = make_pool(max_size=4)
    conns = [pool.getconn() for _ in range(3)]
    pids = [backend(conn) for conn in conns]
    for conn in conns:
        pool.putconn(conn)
    assert [backend_of(pool) for _ in range(5)] == [pids[-1]] * 5


def test_what_is_above_min_size_is_kept_on_return(make_pool, postgres):
    pool = make_pool(min_size=1, max_size=5)
    pids = lease_all(pool, 5)
    assert sorted(pids_of(postgres, pool)) == sorted(pids)


def test_never_more_than_max_size_backends(make_pool, postgres):
    pool = make_pool(max_size=3)
    most = 0

    def use(number):
        nonlocal most
        for _ in range(20):
            with pool.connection(DEADLINE) as conn:
                most = max(most, len(pool._entries) + len(pool._openings))
                query(conn, "SELECT pg_sleep(0.001)")

    assert in_threads(12, use) == [None] * 12
    assert most == 3
    assert len(pids_of(postgres, pool)) == 3


def test_resize_up_and_down_at_run_time(make_pool, postgres):
    pool = make_pool(max_size=2)
    first = [pool.getconn() for _ in range(2)]
    pool.resize(0, 4)
    more = [pool.getconn() for _ in range(2)]
    pool.resize(0, 1)
    for conn in first + more:
        pool.putconn(conn)
    wait_for(lambda: len(pids_of(postgres, pool)) == 1)
    pool.resize(3, 3)
    wait_for(lambda: len(pids_of(postgres, pool)) == 3)


def test_a_spike_opens_no_more_connections_than_it_needs(make_pool, proxy):
    pool = make_pool(patiently(proxy), min_size=4, max_size=50)
    pool.wait(DEADLINE)
    proxy.delay = 10 * DEADLINE

    def use(number):
        with pool.connection(DEADLINE) as conn:
            query(conn, "SELECT pg_sleep(0.002)")

    assert in_threads(50, use) == [None] * 50
    assert pool.get_stats()["pool_size"] == 4 and pool.get_stats()["opening"] <= 1


def test_growth_serves_who_waits_while_returns_go_on(make_pool, proxy):
    proxy.delay = 0.1
    pool = make_pool(through(proxy), max_size=4)

    def use(number):
        with pool.connection(DEADLINE) as conn:
            return query(conn, f"SELECT {number} FROM pg_sleep(0.2)")

    assert in_threads(8, use) == list(range(8))
    assert 1 < pool.get_stats()["pool_size"] <= 4


# -- waiting


def test_waiters_are_served_in_order(make_pool):
    pool = make_pool(max_size=1)
    order = []
    held = pool.getconn()

    def wait_in_line(number):
        with pool.connection(DEADLINE):
            order.append(number)

    threads = []
    for number in range(6):
        threads.append(threading.Thread(target=wait_in_line, args=(number,)))
        threads[-1].start()
        wait_for(lambda number=number: pool.get_stats()["requests_waiting"] == number + 1)
    pool.putconn(held)
    for thread in threads:
        thread.join(DEADLINE)
    assert order == list(range(6))


def test_six_clients_on_two_connections_use_two_backends(make_pool):
    pool = make_pool(max_size=2)

    def use(number):
        with pool.connection(DEADLINE) as conn:
            query(conn, "SELECT pg_sleep(0.02)")
            return backend(conn)

    assert len(set(in_threads(6, use))) <= 2


def test_timeout_says_what_the_pool_was_doing(make_pool):
    pool = make_pool(max_size=1, timeout=0.05)
    held = pool.getconn(DEADLINE)
    for timeout in (None, 0.1):
        started = time.monotonic()
        with pytest.raises(PoolTimeout, match=rf"{pool.name}: .*within .*leased=1, idle=0, .*max_size=1"):
            in_another_thread(lambda timeout=timeout: pool.getconn(timeout))
        assert time.monotonic() - started >= (timeout or 0.05)
    pool.putconn(held)
    assert pool.get_stats()["requests_errors"] == 2


def test_a_waiter_that_timed_out_loses_no_connection(make_pool):
    pool = make_pool(max_size=1)
    held = pool.getconn()
    results = in_threads(4, lambda number: pool.getconn(timeout=0.05))
    assert [type(result) for result in results] == [PoolTimeout] * 4
    pool.putconn(held)
    assert pool.get_stats()["pool_available"] == 1
    with pool.connection(timeout=0) as conn:
        assert query(conn, "SELECT 1") == 1


def test_more_than_max_waiting_is_refused_at_once(make_pool):
    pool = make_pool(max_size=1, max_waiting=2)
    held = pool.getconn()
    waiting = [threading.Thread(target=lambda: pool.putconn(pool.getconn(DEADLINE))) for _ in range(2)]
    for thread in waiting:
        thread.start()
    wait_for(lambda: pool.get_stats()["requests_waiting"] == 2)
    with pytest.raises(TooManyRequests, match="max_waiting=2"):
        pool.getconn(DEADLINE)
    assert pool.get_stats()["requests_errors"] == 1
    pool.putconn(held)
    for thread in waiting:
        thread.join(DEADLINE)


def test_nested_checkout_is_named_in_the_timeout(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection() as outer:
        pid = backend(outer)
        with pytest.raises(PoolTimeout, match=rf"nested checkout: this thread already holds 1 .*{pid}"):
            pool.getconn(timeout=0.05)


def test_nested_checkout_of_one_request_is_named_over_threads(make_pool):
    pool = make_pool(max_size=1)
    conn = pool.getconn(owner="GET /accounts")
    with pytest.raises(PoolTimeout, match=r"nested checkout: the same request \(GET /accounts\)"):
        in_another_thread(lambda: pool.getconn(0.05, "GET /accounts"))
    with pytest.raises(PoolTimeout) as other:
        in_another_thread(lambda: pool.getconn(0.05, "GET /other"))
    assert "nested" not in str(other.value)
    pool.putconn(conn)


def test_fairness_under_contention(make_pool):
    pool = make_pool(max_size=3)
    lease_all(pool, 3)
    served = [0] * 12
    stop = time.monotonic() + 1.5

    def use(number):
        while time.monotonic() < stop:
            with pool.connection(DEADLINE):
                time.sleep(0.0005)
            served[number] += 1

    assert in_threads(12, use) == [None] * 12
    assert min(served) > 0.2 * max(served)  # without an order some are not served at all


# -- transactions


def test_the_block_commits(make_pool, postgres):
    postgres.execute("DROP TABLE IF EXISTS committed")
    pool = make_pool()
    with pool.connection() as conn:
        query(conn, "CREATE TABLE committed AS SELECT 1 AS n")
    with pool.connection() as conn:
        assert query(conn, "SELECT n FROM committed") == 1


def test_an_exception_rolls_back_and_keeps_the_connection(make_pool, caplog):
    pool = make_pool(max_size=1)
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        pid = backend(conn)
        query(conn, "CREATE TABLE never_there ()")
        raise ZeroDivisionError
    with pool.connection() as conn:
        assert backend(conn) == pid
        assert query(conn, "SELECT to_regclass('never_there')") is None
    assert not caplog.records, "what was to be expected is no warning"


def test_blocks_nest_by_savepoint(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        query(conn, "CREATE TEMP TABLE nested (n int)")
        with conn.transaction():
            query(conn, "INSERT INTO nested VALUES (1)")
            with pytest.raises(psycopg2.errors.DivisionByZero), conn.transaction():
                query(conn, "INSERT INTO nested VALUES (2)")
                query(conn, "SELECT 1/0")
            query(conn, "INSERT INTO nested VALUES (3)")
        assert query(conn, "SELECT array_agg(n ORDER BY n) FROM nested") == [1, 3]


@pytest.mark.parametrize("autocommit", [False, True])
def test_an_outermost_block_is_a_transaction_of_its_own(make_pool, autocommit):
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        conn.autocommit = autocommit
        with pytest.raises(ZeroDivisionError), conn.transaction():
            query(conn, "CREATE TABLE undone ()")
            raise ZeroDivisionError
        with conn.transaction():
            query(conn, "CREATE TEMP TABLE kept AS SELECT 5 AS n")
        assert conn.get_transaction_status() == ext.TRANSACTION_STATUS_IDLE
        assert query(conn, "SELECT n FROM kept") == 5
        assert query(conn, "SELECT to_regclass('undone')") is None


def test_returned_in_a_transaction_is_rolled_back_with_a_warning(make_pool, caplog):
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    pid = backend(conn)
    pool.putconn(conn)
    assert any("rolled back" in r.getMessage() and r.levelno == logging.WARNING for r in caplog.records)
    conn = pool.getconn()
    assert conn.get_transaction_status() == ext.TRANSACTION_STATUS_IDLE
    assert backend(conn) == pid
    pool.putconn(conn)


def test_returned_in_a_failed_transaction_is_rolled_back_and_kept(make_pool):
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    pid = backend(conn)
    with pytest.raises(psycopg2.Error):
        query(conn, "SELECT wat")
    pool.putconn(conn)
    assert backend_of(pool) == pid


def test_a_textual_begin_under_autocommit_is_noticed(make_pool):
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    conn.autocommit = True
    pid = backend(conn)
    query(conn, "BEGIN")
    pool.putconn(conn)
    conn = pool.getconn()
    assert conn.get_transaction_status() == ext.TRANSACTION_STATUS_IDLE
    assert not conn.autocommit
    assert backend(conn) == pid
    pool.putconn(conn)


def test_a_block_commits_a_textual_begin(make_pool):
    pool = make_pool(max_size=1, kwargs={"options": "-c search_path=public"})
    with pool.connection() as conn:
        conn.autocommit = True
        query(conn, "BEGIN")
        query(conn, "CREATE TEMP TABLE by_text AS SELECT 7 AS n")
    with pool.connection() as conn:
        assert query(conn, "SELECT n FROM by_text") == 7


ASLEEP = "SELECT pid FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND query = 'SELECT pg_sleep(600)'"


def test_returned_during_a_query_is_closed_and_replaced(make_pool, postgres):
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    pid = backend(conn)
    conn.commit()
    with conn.cursor() as cursor:
        worker = threading.Thread(target=lambda: swallow(cursor.execute, "SELECT pg_sleep(600)"), daemon=True)
        worker.start()
        # By the server's word: the driver is ACTIVE during its BEGIN, too, and idle in between for a moment.
        wait_for(lambda: postgres.execute(ASLEEP, pid), "the query runs")
        # And the driver's: the server may have the query before libpq has noted that it was sent.
        wait_for(lambda: conn.get_transaction_status() == ext.TRANSACTION_STATUS_ACTIVE, "the driver knows")
        # The driver itself would wait for the query's end before it closed.
        in_another_thread(lambda: pool.putconn(conn))
        assert pid in pids_of(postgres, pool)
        worker.join(DEADLINE)
        assert not worker.is_alive()
    kill(postgres, pid)
    assert backend_of(pool) != pid


def swallow(function, *args):
    with contextlib.suppress(psycopg2.Error):
        function(*args)


def test_returned_during_a_copy_is_closed(make_pool, postgres):
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    pid = backend(conn)

    class Stop(Exception):
        pass

    class Source:
        def read(self, size=-1):
            # Looked at while COPY is under way.
            assert conn.get_transaction_status() == ext.TRANSACTION_STATUS_ACTIVE
            raise Stop

    with conn.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE copied (n int)")
        with pytest.raises((Stop, psycopg2.Error)):
            cursor.copy_expert("COPY copied FROM STDIN", Source())
    pool.putconn(conn)
    with pool.connection() as conn:
        assert conn.get_transaction_status() == ext.TRANSACTION_STATUS_IDLE
        assert query(conn, "SELECT 1") == 1
    assert pid


def test_a_failing_rollback_closes_and_the_caller_sees_nothing(make_pool, postgres):
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    pid = backend(conn)
    kill(postgres, pid)
    pool.putconn(conn)
    assert backend_of(pool) != pid
    assert pool.get_stats()["returns_bad"] == 1


def test_session_settings_of_the_connection_are_put_back(make_pool):
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    pid = backend(conn)
    conn.rollback()
    conn.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True, autocommit=True)
    conn.set_client_encoding("LATIN1")
    pool.putconn(conn)
    conn = pool.getconn()
    assert (conn.autocommit, conn.isolation_level, conn.readonly, conn.deferrable) == (False, None, None, None)
    assert conn.encoding == "UTF8"
    assert backend(conn) == pid
    assert query(conn, "SHOW transaction_isolation") == "read committed"
    assert query(conn, "SHOW transaction_read_only") == "off"
    pool.putconn(conn)


@pytest.mark.parametrize(
    "name, value",
    [
        ("autocommit", True),
        ("isolation_level", 3),
        ("readonly", True),
        ("cursor_factory", psycopg2.extras.DictCursor),
    ],
)
def test_each_setter_is_noticed(make_pool, name, value):
    pool = make_pool(max_size=1)
    lease_all(pool, 1)
    for _ in range(3):  # the fast path too
        conn = pool.getconn()
        before = getattr(conn, name)
        assert before != value
        setattr(conn, name, value)
        assert getattr(conn, name) == value
        pool.putconn(conn)
    assert getattr(pool.getconn(), name) == before


def test_what_configure_set_is_what_is_put_back(make_pool):
    def configure(conn):
        conn.autocommit = True

    pool = make_pool(max_size=1, configure=configure)
    with pool.connection() as conn:
        conn.autocommit = False
    with pool.connection() as conn:
        assert conn.autocommit


def test_reset_session_undoes_what_sql_set(make_pool):
    for reset_session, expected in ((False, "1s"), (True, "0")):
        pool = make_pool(max_size=1, reset_session=reset_session)
        with pool.connection() as conn:
            pid = backend(conn)
            query(conn, "SET statement_timeout = '1s'")
        with pool.connection() as conn:
            assert backend(conn) == pid
            assert query(conn, "SHOW statement_timeout") == expected


def test_reset_session_undoes_another_role(make_pool, postgres):
    postgres.execute("DROP ROLE IF EXISTS clerk")
    postgres.execute("CREATE ROLE clerk; GRANT clerk TO site")
    for reset_session, expected in ((False, "clerk"), (True, "site")):
        pool = make_pool(max_size=1, reset_session=reset_session)
        with pool.connection() as conn:
            pid = backend(conn)
            query(conn, "SET ROLE clerk")
        with pool.connection() as conn:
            assert backend(conn) == pid
            assert query(conn, "SELECT current_user") == expected
        pool.close()


# -- callbacks


def test_configure_is_called_once_per_new_connection(make_pool):
    calls = []
    pool = make_pool(max_size=2, configure=calls.append)
    lease_all(pool, 2)
    lease_all(pool, 2)
    assert len(calls) == 2


@pytest.mark.parametrize("broken", [lambda conn: query(conn, "SELECT 1"), lambda conn: query(conn, "SELECT wat")])
def test_a_connection_that_configure_leaves_bad_is_not_served(make_pool, broken, postgres):
    pool = make_pool(configure=broken)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=DEADLINE)
    assert pool.get_stats()["connections_errors"] >= 1
    wait_for(lambda: not pids_of(postgres, pool))


def test_reset_is_called_on_each_return(make_pool):
    calls = []

    def reset(conn):
        calls.append(backend(conn))
        conn.rollback()

    pool = make_pool(max_size=1, reset=reset)
    pids = [backend_of(pool) for _ in range(3)]
    assert calls == pids and len(set(pids)) == 1


@pytest.mark.parametrize("broken", [lambda conn: query(conn, "SELECT 1"), lambda conn: query(conn, "SELECT wat")])
def test_a_connection_that_reset_leaves_bad_is_replaced(make_pool, broken):
    pool = make_pool(max_size=1, reset=broken)
    assert backend_of(pool) != backend_of(pool)


def test_check_callback_replaces_what_fails_it(make_pool):
    bad = set()

    def check(conn):
        if backend(conn) in bad:
            raise psycopg2.OperationalError("no good")

    pool = make_pool(max_size=2, check=check)
    first = backend_of(pool)
    bad.add(first)
    with pool.connection() as conn:
        assert conn.get_transaction_status() == ext.TRANSACTION_STATUS_IDLE
        assert backend(conn) != first


def test_a_check_that_always_fails_obeys_the_deadline_and_is_no_busy_loop(make_pool):
    calls = []

    def check(conn):
        calls.append(conn)
        raise psycopg2.OperationalError("no good")

    pool = make_pool(max_size=2, check=check)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=4.0)
    assert 1 < len(calls) < 20


def test_check_connection_leaves_no_transaction_and_keeps_autocommit(make_pool):
    pool = make_pool(max_size=1)
    pool_check = type(pool).check_connection
    with pool.connection() as conn:
        pool_check(conn)
        assert conn.get_transaction_status() == ext.TRANSACTION_STATUS_IDLE
        assert not conn.autocommit
        conn.autocommit = True
        pool_check(conn)
        assert conn.autocommit


# -- returns that are wrong


def test_a_double_return_is_refused_by_name(make_pool):
    pool = make_pool()
    conn = pool.getconn()
    pool.putconn(conn)
    with pytest.raises(LeaseError, match=rf"{pool.name}: .*not on lease: it is idle"):
        pool.putconn(conn)
    assert pool.get_stats()["pool_available"] == 1


def test_a_connection_of_another_pool_is_refused_by_name(make_pool):
    one, two = make_pool(), make_pool()
    conn = one.getconn()
    with pytest.raises(ValueError, match=rf"{two.name}: .*{one.name}"):
        two.putconn(conn)
    one.putconn(conn)


def test_a_connection_of_no_pool_is_refused(make_pool, postgres):
    pool = make_pool()
    conn = psycopg2.connect(postgres.conninfo)
    with pytest.raises(LeaseError, match="no pool's"):
        pool.putconn(conn)
    conn.close()


def test_a_connection_closed_by_the_client_is_replaced(make_pool):
    pool = make_pool(max_size=1)
    with pytest.raises(PoolError, match="not been committed"), pool.connection() as conn:
        pid = backend(conn)
        conn.close()
    assert backend_of(pool) != pid


def test_close_returns_gives_the_connection_back(make_pool):
    pool = make_pool(max_size=1, close_returns=True)
    conn = pool.getconn()
    pid = backend(conn)
    conn.close()
    assert not conn.closed
    with pool.connection() as conn:
        assert backend(conn) == pid
        conn.commit()
        conn.close()
    with pytest.raises(PoolError, match="not committed"), pool.connection() as conn:
        assert backend(conn) == pid
        conn.close()
    assert pool.get_stats()["pool_available"] == 1


# -- open, closed


def test_each_state_has_its_own_error(make_pool):
    pool = make_pool(open=False)
    with pytest.raises(PoolClosed, match="not open yet"):
        pool.getconn()
    pool.open()
    pool.open()
    conn = pool.getconn()
    pool.close()
    pool.close()
    with pytest.raises(PoolClosed, match="closed"):
        pool.getconn()
    with pytest.raises(PoolClosed):
        pool.wait()
    with pytest.raises(PoolClosed):
        pool.open()
    pool.putconn(conn)
    assert conn.closed


def test_close_sends_waiters_away_and_lets_borrowers_finish(make_pool, postgres):
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        waiter = threading.Thread(target=lambda: results.append(in_threads(1, lambda n: pool.getconn(DEADLINE))))
        results: list[object] = []
        waiter.start()
        wait_for(lambda: pool.get_stats()["requests_waiting"])
        pool.close()
        waiter.join(DEADLINE)
        assert isinstance(results[0][0], PoolClosed)
        assert query(conn, "SELECT 1") == 1
    assert conn.closed
    wait_for(lambda: not pids_of(postgres, pool))


def test_with_pool_closes_it(make_pool, postgres):
    with make_pool(min_size=2) as pool:
        pool.wait(DEADLINE)
    assert pool.closed
    wait_for(lambda: not pids_of(postgres, pool))


def test_an_unreferenced_pool_is_collected_and_its_backends_end(postgres):
    def use_and_forget():
        pool = ConnectionPool(postgres.conninfo, name="forgotten", min_size=2)
        pool.wait(DEADLINE)
        return weakref.ref(pool)

    ref = use_and_forget()
    wait_for(lambda: (gc.collect(), ref() is None)[1], "the pool is collected")
    wait_for(lambda: not postgres.backends(f"mpool/{os.getpid()}/python/forgotten"))


# -- liveness and age


def test_killed_idle_connections_are_never_lent(make_pool, postgres):
    pool = make_pool(max_size=4, check_bypass=0)
    pids = lease_all(pool, 4)
    kill(postgres, *pids)
    with pool.connection() as conn:
        assert backend(conn) not in pids
    assert pool.get_stats()["connections_lost"] == 4


def test_after_a_kill_at_most_one_error_within_check_bypass(make_pool, postgres):
    pool = make_pool(max_size=4, check_bypass=0.5)
    kill(postgres, *lease_all(pool, 4))
    errors = 0
    for _ in range(8):
        try:
            backend_of(pool)
        except psycopg2.Error:
            errors += 1
    assert errors <= 1


def test_a_dead_connection_makes_its_generation_suspect(make_pool, postgres):
    pool = make_pool(max_size=3)
    lease_all(pool, 3)
    wait_for(lambda: pool._stamp is not None)
    pool.maintain = lambda now: 1.0  # no further tick
    pids = lease_all(pool, 3)
    kill(postgres, *pids)
    with pytest.raises(psycopg2.Error):
        backend_of(pool)
    assert backend_of(pool) not in pids
    wait_for(lambda: len(pids_of(postgres, pool)) == 1)


def test_a_pending_notify_does_not_cost_the_connection(make_pool, postgres):
    pool = make_pool(max_size=1, check_bypass=0)
    with pool.connection() as conn:
        pid = backend(conn)
        query(conn, "LISTEN news")
    postgres_db = psycopg2.connect(postgres.conninfo)
    postgres_db.autocommit = True
    query(postgres_db, "NOTIFY news")
    postgres_db.close()
    assert select.select([conn], [], [], DEADLINE)[0], "the news has come in"
    with pool.connection() as conn:
        assert backend(conn) == pid
        assert not conn.notifies


def test_no_round_trip_for_liveness(make_pool, proxy):
    pool = make_pool(through(proxy), max_size=1, check_bypass=0)
    lease_all(pool, 1)
    proxy.stall()
    for _ in range(10):
        pool.putconn(pool.getconn(timeout=0.1))
    proxy.resume()


def test_a_silent_network_is_found_by_a_ping_within_the_callers_deadline(make_pool, proxy):
    pool = make_pool(through(proxy), max_size=1, check_after=0, check_bypass=0)
    lease_all(pool, 1)
    proxy.stall()
    started = time.monotonic()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.3)
    assert time.monotonic() - started < 10
    proxy.resume()
    with pool.connection(DEADLINE) as conn:
        assert query(conn, "SELECT 1") == 1


def test_check_replaces_only_the_dead(make_pool, postgres):
    pool = make_pool(min_size=3, max_size=3)
    pool.wait(DEADLINE)
    pids = pids_of(postgres, pool)
    kill(postgres, pids[0])
    pool.check()
    wait_for(lambda: pool.get_stats()["pool_available"] == 3)
    now = pids_of(postgres, pool)
    assert pids[0] not in now and set(pids[1:]) <= set(now)
    with pool.connection() as conn:
        assert conn.get_transaction_status() == ext.TRANSACTION_STATUS_IDLE


def test_past_max_lifetime_a_connection_is_replaced(make_pool):
    pool = make_pool(max_size=1, max_lifetime=0.2)
    first = backend_of(pool)
    wait_for(lambda: backend_of(pool) != first)


def test_lifetimes_are_spread_by_jitter(make_pool):
    pool = make_pool(min_size=4, max_size=4, max_lifetime=1000)
    pool.wait(DEADLINE)
    lives = [entry.expires - entry.created for entry in pool._entries]
    assert all(950 <= life <= 1000 for life in lives)
    assert len(set(lives)) == 4


def test_max_uses(make_pool):
    pool = make_pool(max_size=1, max_uses=3)
    pids = [backend_of(pool) for _ in range(6)]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4] == pids[5]


def test_unused_connections_above_min_size_are_closed(make_pool, postgres):
    pool = make_pool(min_size=1, max_size=4, max_idle=0.2)
    pids = lease_all(pool, 4)
    wait_for(lambda: len(pids_of(postgres, pool)) == 1)
    assert set(pids_of(postgres, pool)) <= set(pids)


def test_drain_replaces_those_on_lease_when_they_come_back(make_pool, postgres):
    pool = make_pool(max_size=3)
    lease_all(pool, 3)
    held = pool.getconn()
    old = pids_of(postgres, pool)
    assert len(old) == 3
    pool.drain()
    assert query(held, "SELECT 1") == 1
    pool.putconn(held)
    wait_for(lambda: not set(old) & set(pids_of(postgres, pool)))
    assert backend_of(pool) not in old


def test_credentials_from_a_callable_are_asked_for_at_each_connect(make_pool, postgres):
    asked = []

    def conninfo():
        asked.append("conninfo")
        return postgres.conninfo

    def kwargs():
        asked.append("kwargs")
        return {"application_name": f"run {len(asked) // 2}"}

    pool = make_pool(conninfo, kwargs=kwargs, max_size=1)
    with pool.connection() as conn:
        assert query(conn, "SHOW application_name").endswith(" run 1")
    pool.drain()
    with pool.connection() as conn:
        assert query(conn, "SHOW application_name").endswith(" run 2")


def test_a_raising_callable_is_a_failed_connect(make_pool, postgres):
    answers = [RuntimeError("vault sealed"), postgres.conninfo]

    def conninfo():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    pool = make_pool(conninfo, max_size=1)
    with pytest.raises(PoolTimeout, match="vault sealed") as caught:
        pool.getconn(DEADLINE)
    assert isinstance(caught.value.__cause__, RuntimeError)
    wait_for(lambda: swallow_pool(pool))


def swallow_pool(pool):
    try:
        return backend_of(pool)
    except PoolTimeout:
        return None


# -- the driver's ways


def test_connect_arguments_reach_the_driver(make_pool):
    pool = make_pool(
        kwargs={
            "cursor_factory": psycopg2.extras.RealDictCursor,
            "connection_factory": psycopg2.extras.LoggingConnection,
            "application_name": "mine",
        },
        configure=lambda conn: conn.initialize(logging.getLogger("sql")),
    )
    with pool.connection() as conn:
        assert isinstance(conn, psycopg2.extras.LoggingConnection)
        with conn.cursor() as cursor:
            cursor.execute("SELECT current_setting('application_name') AS name")
            name = cursor.fetchone()
        assert "mine" in str(name)


def test_a_factory_that_uses_the_setters_itself(make_pool):
    class Autocommit(ext.connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.autocommit = True

    pool = make_pool(kwargs={"connection_factory": Autocommit}, max_size=1)
    for _ in range(2):
        with pool.connection() as conn:
            assert conn.autocommit and isinstance(conn, Autocommit)
            conn.autocommit = False


def test_a_factory_that_is_no_class_is_refused_at_construction(make_pool):
    with pytest.raises(TypeError, match="connection_factory"):
        make_pool(kwargs={"connection_factory": lambda dsn: None})


def test_application_name_tells_backends_apart(make_pool, postgres):
    pool = make_pool(name="reports")
    with pool.connection() as conn:
        assert query(conn, "SHOW application_name") == f"mpool/{os.getpid()}/python/reports"


def test_types_are_registered_per_connection_through_configure(make_pool):
    shout = ext.new_type((25,), "SHOUT", lambda value, cursor: value and value.upper())
    pool = make_pool(configure=lambda conn: ext.register_type(shout, conn))
    other = make_pool()
    with pool.connection() as conn:
        assert query(conn, "SELECT 'loud'::text") == "LOUD"
    with other.connection() as conn:
        assert query(conn, "SELECT 'quiet'::text") == "quiet"


# -- figures


def test_figures_of_waiting_usage_and_connecting(make_pool, proxy):
    proxy.delay = 0.1
    pool = make_pool(through(proxy), max_size=1)

    def use():
        with pool.connection(DEADLINE):
            time.sleep(0.2)

    with pool.connection(DEADLINE):
        waiter = threading.Thread(target=use)
        waiter.start()
        wait_for(lambda: pool.get_stats()["requests_waiting"])
        time.sleep(0.2)
    waiter.join(DEADLINE)
    stats = pool.pop_stats()
    assert stats["requests_num"] == 2 and stats["requests_queued"] == 2
    assert 290 <= stats["requests_wait_ms"] < 60_000
    assert 400 <= stats["usage_ms"] < 60_000
    assert stats["connections_num"] == 1 and 90 <= stats["connections_ms"] < 60_000
    after = pool.get_stats()
    assert after["requests_num"] == after["usage_ms"] == after["connections_num"] == 0
    assert after["pool_size"] == 1


def test_failures_to_connect_are_counted(make_pool, proxy):
    proxy.refuse()
    pool = make_pool(through(proxy))
    with pytest.raises(psycopg2.OperationalError):
        pool.getconn()
    assert pool.get_stats()["connections_errors"] == 1


# -- variants


def test_without_a_housekeeper_there_is_no_thread(make_pool, postgres):
    before = set(threading.enumerate())
    pool = make_pool(max_size=2, housekeeper=False, check_bypass=0)
    pids = lease_all(pool, 2)
    kill(postgres, *pids)
    assert backend_of(pool) not in pids
    conn = pool.getconn()
    pool.getconn()
    del conn  # dropped: the next who waits finds out
    assert pool.getconn(timeout=DEADLINE)
    assert set(threading.enumerate()) <= before


def test_null_pool_keeps_nothing_idle(make_pool, postgres):
    pool = make_pool(cls=NullConnectionPool, max_size=2)
    pids = [backend_of(pool) for _ in range(3)]
    assert len(set(pids)) == 3
    wait_for(lambda: not pids_of(postgres, pool))


def test_null_pool_is_bounded_and_fair(make_pool):
    pool = make_pool(cls=NullConnectionPool, max_size=2)
    most = 0

    def use(number):
        nonlocal most
        with pool.connection(DEADLINE) as conn:
            most = max(most, pool.get_stats()["pool_size"])
            return backend(conn)

    assert len(set(in_threads(8, use))) == 8
    assert most <= 2
    held = [pool.getconn(), pool.getconn()]
    with pytest.raises(PoolTimeout, match="leased=2"):
        pool.getconn(timeout=0.05)
    for conn in held:
        pool.putconn(conn)
    with pytest.raises(ValueError):
        make_pool(cls=NullConnectionPool, min_size=1)


def test_null_pool_has_the_same_errors_and_figures(make_pool, proxy):
    pool = make_pool(through(proxy), cls=NullConnectionPool, max_size=1, max_waiting=1, timeout=DEADLINE)
    for _ in range(2):
        with pool.connection() as conn:
            query(conn, "SELECT 1")
            assert pool.get_stats()["leased"] == pool.get_stats()["pool_size"] == 1
    held = pool.getconn()
    waiter = threading.Thread(target=lambda: pool.putconn(pool.getconn()))
    waiter.start()
    wait_for(lambda: pool.get_stats()["requests_waiting"])
    with pytest.raises(TooManyRequests, match="max_waiting=1"):
        pool.getconn()
    pool.putconn(held)
    waiter.join(DEADLINE)
    with pytest.raises(LeaseError):
        pool.putconn(held)
    stats = pool.get_stats()
    assert (stats["requests_num"], stats["requests_errors"], stats["connections_num"]) == (5, 1, 4)
    assert (stats["pool_min"], stats["pool_max"], stats["pool_size"], stats["pool_available"]) == (0, 1, 0, 0)
    proxy.refuse()
    with pytest.raises(PoolUnavailable, match=r"(?i)refused.*next try in"):
        pool.getconn()
    pool.close()
    with pytest.raises(PoolClosed):
        pool.getconn()
