"""A server that is down, comes back, refuses, hangs, moves; and what leaks then: nothing."""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg2
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

import mpool
import mpool.compat
from mpool import PoolTimeout, PoolUnavailable

ROOT = Path(__file__).resolve().parents[2]


def backend_of(pool, timeout=None):
    with pool.connection(timeout) as conn:
        return backend(conn)


def serves(pool):
    try:
        return backend_of(pool)
    except psycopg2.OperationalError:
        return None


def test_the_first_failure_carries_the_drivers_error(make_pool, proxy):
    proxy.refuse()
    pool = make_pool(through(proxy), timeout=DEADLINE)
    started = time.monotonic()
    with pytest.raises(PoolUnavailable, match=r"(?i)connection refused.*next try in") as caught:
        pool.getconn()
    assert time.monotonic() - started < DEADLINE / 2
    assert isinstance(caught.value.__cause__, psycopg2.OperationalError)
    assert isinstance(caught.value, PoolTimeout) and isinstance(caught.value, psycopg2.OperationalError)


def test_while_the_server_is_down_callers_fail_at_once_without_asking_it(make_pool, proxy):
    proxy.delay = 0.0
    proxy.refuse()
    pool = make_pool(through(proxy), timeout=DEADLINE)
    attempts = []
    connect = pool._connector._connect

    def counted(**arguments):
        attempts.append(time.monotonic())
        return connect(**arguments)

    pool._connector._connect = counted
    failures = 0
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        with pytest.raises(PoolUnavailable):
            pool.getconn()
        failures += 1
    # 0, 0.1, 0.3, 0.7: backoff doubles, with 10 % of jitter.
    assert len(attempts) <= 5
    assert failures > len(attempts)
    proxy.resume()
    wait_for(lambda: serves(pool))
    assert not pool._circuit.is_open
    assert backend_of(pool)


def test_one_probe_at_a_time(make_pool, proxy):
    proxy.refuse()
    pool = make_pool(through(proxy), timeout=DEADLINE)
    with pytest.raises(PoolUnavailable):
        pool.getconn()
    proxy.stall()
    proxy.resume()
    proxy.stall()
    wait_for(lambda: pool._circuit.allows(time.monotonic()))
    probe = threading.Thread(target=lambda: in_threads(1, lambda n: pool.getconn(1.0)))
    probe.start()
    wait_for(lambda: pool._openings)
    # The others do not hang on the probe.
    results = in_threads(5, lambda number: pool.getconn(DEADLINE))
    assert [type(result) for result in results] == [PoolUnavailable] * 5
    assert len(pool._openings) == 1
    proxy.resume()
    probe.join(DEADLINE)
    wait_for(lambda: serves(pool))


def test_a_server_that_is_down_at_start_is_served_when_it_comes(make_pool, proxy):
    proxy.refuse()
    pool = make_pool(through(proxy), min_size=2)
    wait_for(lambda: pool._circuit.is_open)
    with pytest.raises(PoolTimeout, match=r"(?i)refused"):
        pool.wait(0.05)
    proxy.resume()
    pool.wait(DEADLINE)
    assert pool.get_stats()["pool_size"] == 2


def test_waiters_learn_of_an_outage_before_their_timeout(make_pool, proxy):
    pool = make_pool(through(proxy), max_size=1)
    held = pool.getconn()
    started = time.monotonic()
    results = []
    waiters = threading.Thread(target=lambda: results.extend(in_threads(3, lambda number: pool.getconn(DEADLINE))))
    waiters.start()
    wait_for(lambda: pool.get_stats()["requests_waiting"] == 3)
    proxy.go_down()
    with pytest.raises(psycopg2.Error):
        query(held, "SELECT 1")
    pool.putconn(held)
    waiters.join(DEADLINE)
    assert [type(result) for result in results] == [PoolUnavailable] * 3
    assert time.monotonic() - started < DEADLINE / 2


def test_a_stopped_server_fails_callers_at_once_though_a_lease_is_out(make_pool, postgres_factory):
    server = postgres_factory()
    pool = make_pool(server.conninfo, max_size=3, timeout=1000 * DEADLINE)
    held = pool.getconn()
    server.stop("fast")
    for _ in range(3):
        with pytest.raises(PoolUnavailable, match=r"next try in .*leased=1") as caught:
            in_another_thread(pool.getconn)
        assert type(caught.value.__cause__) is psycopg2.OperationalError
    server.start()
    wait_for(lambda: serves(pool))
    pool.putconn(held)
    assert pool.get_stats()["leased"] == 0


def test_a_lease_that_looks_alive_is_not_waited_for_where_no_server_answers(make_pool, proxy):
    """A silent network: nothing tells that the lease's own connection is dead."""
    pool = make_pool(through(proxy), max_size=2, timeout=1000 * DEADLINE, connect_timeout=2)
    held = wait_for(lambda: leased(pool))
    proxy.stall()
    for _ in range(2):
        with pytest.raises(PoolUnavailable, match="timeout expired"):
            in_another_thread(pool.getconn)
    proxy.resume()
    assert query(held, "SELECT 1") == 1
    pool.putconn(held)
    assert backend_of(pool)


def test_a_server_that_refuses_a_login_lives_and_its_leases_are_waited_for(make_pool, postgres_factory):
    server = postgres_factory()
    pool = make_pool(server.conninfo, max_size=2, timeout=1000 * DEADLINE)
    held = pool.getconn()
    server.execute("ALTER ROLE site NOLOGIN")
    results = []
    waiter = threading.Thread(target=lambda: results.extend(in_threads(2, lambda number: backend_of(pool))))
    waiter.start()
    wait_for(lambda: pool._circuit.is_open and pool.get_stats()["requests_waiting"] == 2)
    pid = backend(held)
    pool.putconn(held)
    waiter.join(DEADLINE)
    assert results == [pid, pid]


def test_a_lease_whose_server_has_hung_up_is_not_waited_for(make_pool, postgres_factory):
    """The server answers, and refuses; but of what is out on lease nothing can come back."""
    server = postgres_factory()
    pool = make_pool(server.conninfo, max_size=3, timeout=1000 * DEADLINE)
    held = [pool.getconn(), pool.getconn()]
    pids = [backend(conn) for conn in held]
    server.execute("ALTER ROLE site NOLOGIN")
    kill(server, *pids)
    with pytest.raises(PoolUnavailable, match="not permitted to log in"):
        in_another_thread(pool.getconn)
    server.execute("ALTER ROLE site LOGIN")
    assert wait_for(lambda: serves(pool)) not in pids
    for conn in held:
        pool.putconn(conn)


def test_a_restart_of_the_server_costs_a_full_pool_no_error(make_pool, postgres_factory):
    server = postgres_factory()
    pool = make_pool(server.conninfo, max_size=5, check_bypass=0)
    conns = [pool.getconn() for _ in range(5)]
    for conn in conns:
        pool.putconn(conn)
    server.restart("immediate")
    assert in_threads(5, lambda number: query_one(pool)) == [1] * 5


def leased(pool):
    try:
        return pool.getconn()
    except PoolUnavailable:
        return None


def query_one(pool):
    with pool.connection(DEADLINE) as conn:
        return query(conn, "SELECT 1")


def test_cut_connections_are_replaced_and_none_leaks(make_pool, proxy, postgres):
    pool = make_pool(through(proxy), max_size=4, check_bypass=0)
    conns = [pool.getconn() for _ in range(4)]
    for conn in conns[:2]:
        pool.putconn(conn)
    proxy.cut()
    for conn in conns[2:]:
        pool.putconn(conn)  # untouched since: it looks healthy
    del conns, conn
    assert backend_of(pool)
    wait_for(lambda: len(pids_of(postgres, pool)) == 1)
    assert pool.get_stats()["pool_size"] == 1


def test_gives_up_after_reconnect_timeout_and_works_at_once_when_back(make_pool, proxy):
    failed = []
    proxy.refuse()
    pool = make_pool(through(proxy), min_size=1, reconnect_timeout=0.3, reconnect_failed=failed.append)
    wait_for(lambda: failed == [pool])
    assert pool.get_stats()["pool_size"] == 0
    with pool._lock:
        pool._circuit.next_try += 3600.0  # no background try comes first
    proxy.resume()
    wait_for(lambda: not pool._openings)
    assert backend_of(pool)
    assert len(failed) == 1


def test_a_failed_growth_does_not_block_a_later_one(make_pool, proxy):
    pool = make_pool(through(proxy), max_size=2, timeout=DEADLINE)
    held = pool.getconn()
    proxy.refuse()
    with pytest.raises(PoolUnavailable, match=r"(?i)refused"):
        pool.getconn()
    proxy.resume()

    def second():
        try:
            return pool.getconn()
        except PoolTimeout:
            return None

    conn = wait_for(second)
    assert query(conn, "SELECT 1") == 1
    assert query(held, "SELECT 1") == 1
    pool.putconn(conn)
    pool.putconn(held)


def test_check_refills_after_all_were_killed(make_pool, postgres):
    pool = make_pool(min_size=3, max_size=3)
    pool.wait(DEADLINE)
    old = pids_of(postgres, pool)
    kill(postgres, *old)
    pool.check()
    wait_for(lambda: pool.get_stats()["pool_available"] == 3)
    assert not set(old) & set(pids_of(postgres, pool))


def test_wrong_password_is_a_clear_message_without_the_password(make_pool, postgres_factory):
    server = postgres_factory()
    hba = server.data / "pg_hba.conf"
    server.execute("ALTER ROLE site PASSWORD 'right-secret'")
    hba.write_text("host all site 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
    server.execute("SELECT pg_reload_conf()")
    pool = make_pool(server.tcp_conninfo + " password=wrong-secret")
    with pytest.raises(PoolUnavailable, match="password authentication failed") as caught:
        pool.getconn()
    assert "secret" not in everything_shown(caught.value) + repr(pool) + repr(pool.config)
    good = make_pool(server.tcp_conninfo, kwargs={"password": "right-secret"})
    with good.connection() as conn:
        assert "secret" not in repr(conn) + repr(good) + repr(good.config)


def everything_shown(error):
    """The report of an error as a debugging handler shows it: with the local variables of our own frames."""
    import traceback

    shown = []
    while error is not None:
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        shown += ["".join(frame.line or "") + repr(frame.locals) for frame in report.stack if "mpool" in frame.filename]
        shown.append(str(error))
        shown += [frame.filename + repr(frame.locals) for frame in report.stack if "psycopg2" in frame.filename]
        error = error.__cause__ or error.__context__
    return "\n".join(shown)


@pytest.mark.parametrize("compat", [True, False])
def test_no_frame_of_ours_shows_the_password_where_settings_are_refused(postgres, monkeypatch, compat):
    missing = f"host={postgres.socket_dir} port={postgres.port} user=site dbname=nosuch password=hush-secret"
    broken = missing + " bogus=1"
    if compat:
        makers = [
            lambda: mpool.compat.ThreadedConnectionPool(1, 2, missing),
            lambda: mpool.compat.SimpleConnectionPool(1, 2, dsn=missing),
            lambda: mpool.compat.SimpleConnectionPool(3, 2, missing),
        ]
    else:
        monkeypatch.setenv("MPOOL_CONNINFO", missing)
        monkeypatch.setenv("MPOOL_POOL", "nonsense")
        makers = [
            lambda: mpool.ConnectionPool(broken),
            lambda: mpool.ConnectionPool(missing, max_size=0),
            lambda: mpool.ConnectionPool(missing, max_sise=1),
            lambda: mpool.ConnectionPool(missing).resize(0, 0),
            lambda: mpool.ConnectionPool(missing + "\udc80"),
            lambda: mpool.NullConnectionPool(missing, max_size=0),
            lambda: mpool.ConnectionPool(missing, kwargs={"dbname": "a\0b"}, timeout=1.0).getconn(),
            lambda: mpool.ConnectionPool(lambda: broken, timeout=1.0).getconn(),
            lambda: mpool.init_pool(missing, name="refused", max_size=0),
            lambda: mpool.get_pool("refused"),
        ]
    for make in makers:
        with pytest.raises(Exception) as caught:  # whatever it is
            make()
        assert "secret" not in everything_shown(caught.value) + repr(caught.value)


def test_too_many_connections_is_named_and_what_exists_is_shared(make_pool, postgres_factory):
    server = postgres_factory(max_connections="6", superuser_reserved_connections="2")
    pool = make_pool(server.conninfo, max_size=10, timeout=4.0)
    held = []
    with pytest.raises(PoolTimeout, match=r"too many clients|remaining connection slots"):
        for _ in range(10):
            held.append(pool.getconn())
    assert 0 < len(held) <= 4
    waiter = threading.Thread(target=lambda: held.append(pool.getconn(DEADLINE)))
    waiter.start()
    wait_for(lambda: pool.get_stats()["requests_waiting"])
    pool.putconn(held.pop())
    waiter.join(DEADLINE)
    for conn in held:
        pool.putconn(conn)


def test_a_hang_during_connect_keeps_nobody_longer_than_his_timeout(make_pool, proxy, postgres):
    proxy.stall()
    pool = make_pool(through(proxy), connect_timeout=60)
    started = time.monotonic()
    with pytest.raises(PoolTimeout, match="has not answered a connect"):
        pool.getconn(timeout=0.3)
    assert time.monotonic() - started < DEADLINE
    # It comes through after all: the connect was not lost with its first caller.
    proxy.resume()
    assert backend_of(pool, DEADLINE)
    wait_for(lambda: len(pids_of(postgres, pool)) == 1)


# -- a network, or a server, that takes what is sent and never answers


def begin(conn):
    query(conn, "SELECT 1")


def session_settings(conn):
    conn.set_session(readonly=True, autocommit=True)


RETURNS = {
    "rollback": (begin, {}),
    "restored settings": (session_settings, {}),
    "reset callback": (lambda conn: None, {"reset": lambda conn: query(conn, "SELECT 1")}),
    "reset_session": (lambda conn: None, {"reset_session": True}),
}


@pytest.mark.parametrize("asks", RETURNS)
def test_a_return_that_gets_no_answer_ends_after_connect_timeout(make_pool, proxy, caplog, asks):
    use, options = RETURNS[asks]
    pool = make_pool(patiently(proxy), connect_timeout=0.5, **options)
    conn = pool.getconn(DEADLINE)
    use(conn)
    proxy.stall()
    in_another_thread(lambda: pool.putconn(conn))
    assert conn.closed and pool.get_stats()["pool_size"] == 0 and pool.get_stats()["returns_bad"] == 1
    assert any("could not be reset, and is closed" in r.getMessage() for r in caplog.records)
    proxy.resume()
    wait_for(lambda: serves(pool))


def test_a_failed_block_that_gets_no_answer_to_its_rollback_ends_too(make_pool, proxy):
    pool = make_pool(patiently(proxy), connect_timeout=0.5)

    def fail(number):
        with pool.connection(DEADLINE) as conn:
            begin(conn)
            proxy.stall()
            raise ZeroDivisionError

    assert type(in_threads(1, fail)[0]) is ZeroDivisionError
    assert pool.get_stats()["pool_size"] == 0


def test_waiters_end_a_hanging_return_where_there_is_no_housekeeper(make_pool, proxy):
    pool = make_pool(patiently(proxy), connect_timeout=0.5, max_size=1, housekeeper=False)
    conn = pool.getconn(DEADLINE)
    begin(conn)
    proxy.stall()
    threads = [threading.Thread(target=work, args=(arg,)) for work, arg in ((pool.putconn, conn), (serves, pool))]
    for thread in threads:
        thread.start()
    wait_for(lambda: conn.closed)
    proxy.resume()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_a_check_callback_that_gets_no_answer_ends_with_the_callers_deadline(make_pool, proxy):
    pool = make_pool(through(proxy), max_size=1, check=mpool.ConnectionPool.check_connection)
    backend_of(pool, DEADLINE)
    proxy.stall()
    with pytest.raises(PoolTimeout):
        in_another_thread(lambda: pool.getconn(0.3))
    proxy.resume()
    assert backend_of(pool, DEADLINE)


def test_check_ends_without_an_answer(make_pool, proxy):
    pool = make_pool(patiently(proxy), max_size=1, connect_timeout=0.5)
    backend_of(pool, DEADLINE)
    proxy.stall()
    in_another_thread(pool.check)
    assert pool.get_stats()["connections_lost"] == 1


def test_a_closed_pool_asks_a_silent_server_nothing(make_pool, proxy):
    pool = make_pool(through(proxy), connect_timeout=3600)
    first, second = pool.getconn(), pool.getconn()
    begin(first)
    begin(second)
    proxy.stall()
    returning = threading.Thread(target=pool.putconn, args=(first,), daemon=True)
    returning.start()
    wait_for(lambda: first._entry.cut_at is not None)
    pool.close()  # ends the return under way
    returning.join(DEADLINE)
    assert not returning.is_alive() and first.closed
    in_another_thread(lambda: pool.putconn(second))
    assert second.closed


def test_tcp_gives_up_on_a_silent_network_in_seconds_not_hours(make_pool, postgres):
    """Beside what the pool itself asks: a caller's own statement. What the user says comes first."""

    def options(**kwargs):
        pool = make_pool(postgres.tcp_conninfo, kwargs=kwargs)
        with pool.connection() as conn, socket.socket(fileno=os.dup(conn.fileno())) as end:
            names = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            return [end.getsockopt(socket.IPPROTO_TCP, name) for name in names]

    assert options() == [30_000, 30, 10, 3]
    assert options(tcp_user_timeout=5_000, keepalives_count=2) == [5_000, 30, 10, 2]


def test_a_service_files_own_settings_are_left_alone(make_pool, postgres, tmp_path, monkeypatch):
    service = tmp_path / "services"
    service.write_text(f"[ours]\nhost=127.0.0.1\nport={postgres.port}\ndbname=site\nuser=site\nkeepalives_idle=77\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    pool = make_pool("service=ours")
    with pool.connection() as conn, socket.socket(fileno=os.dup(conn.fileno())) as end:
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77


def test_a_host_name_that_moves_is_followed(postgres, proxy, tmp_path):
    """libpq resolves the name at each connect; the pool keeps nothing of it."""
    script = ROOT / "tests" / "postgres" / "moving_host.py"
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 moving.test\n")
    inside = f'mount --bind "{hosts}" /etc/hosts && exec "{sys.executable}" "{script}" "{hosts}" {postgres.port}'
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("no mount namespaces here: " + probe.stderr.decode().strip())
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["first", "moved", "followed"]


# -- leaks


def test_a_long_lease_is_reported_with_its_holder_and_again_when_it_is_back(make_pool, caplog):
    pool = make_pool(max_size=1, leak_after=1.0)
    release = threading.Event()

    def a_slow_page():
        with pool.connection():
            release.wait(DEADLINE)

    thread = threading.Thread(target=a_slow_page)
    with caplog.at_level(logging.INFO, "mpool"):
        thread.start()
        report = wait_for(lambda: [r.getMessage() for r in caplog.records if "on lease for" in r.getMessage()])[0]
        assert f"thread {thread.ident}" in report
        assert "a_slow_page" in report and "release.wait" in report
        release.set()
        thread.join(DEADLINE)
        assert any("came back after" in r.getMessage() for r in caplog.records)
        assert pool.get_stats()["leaks_reported"] == 1
        assert sum("on lease for" in r.getMessage() for r in caplog.records) == 1


def test_a_leak_names_the_request_and_finds_the_thread(make_pool, caplog):
    pool = make_pool(max_size=1, leak_after=1.0)
    release = threading.Event()

    def slow_handler():
        conn = pool.getconn(owner="GET /accounts")
        release.wait(DEADLINE)
        pool.putconn(conn)

    thread = threading.Thread(target=slow_handler)
    thread.start()
    report = wait_for(lambda: [r.getMessage() for r in caplog.records if "on lease for" in r.getMessage()])[0]
    release.set()
    thread.join(DEADLINE)
    assert "request GET /accounts" in report and "slow_handler" in report


@pytest.mark.parametrize("leak_stacks", [True, False])
def test_the_stack_that_took_it_is_known_with_leak_stacks_or_after_a_first_report(make_pool, caplog, leak_stacks):
    pool = make_pool(max_size=2, leak_after=1.0, leak_stacks=leak_stacks)

    def this_function_leaks():
        return pool.getconn()

    conn = this_function_leaks()
    first = wait_for(lambda: [r.getMessage() for r in caplog.records if "on lease for" in r.getMessage()])[0]
    assert ("taken here" in first and "this_function_leaks" in first) == leak_stacks
    pool.putconn(conn)
    caplog.clear()
    conn = this_function_leaks()
    second = wait_for(lambda: [r.getMessage() for r in caplog.records if "on lease for" in r.getMessage()])[0]
    assert "taken here" in second and "this_function_leaks" in second
    pool.putconn(conn)


def test_a_lease_that_was_dropped_frees_its_slot_and_is_reported(make_pool, postgres, caplog):
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    pid = backend(conn)
    del conn
    gc.collect()
    assert backend_of(pool, DEADLINE) != pid
    wait_for(lambda: pid not in pids_of(postgres, pool))
    wait_for(lambda: any(f"backend {pid} was dropped on lease" in r.getMessage() for r in caplog.records))
    assert pool.get_stats()["leases_dropped"] == 1


def test_a_waiter_is_served_when_somebody_drops_a_lease(make_pool):
    pool = make_pool(max_size=1)
    held = [pool.getconn()]
    results = []
    waiter = threading.Thread(target=lambda: results.append(serves(pool)))
    waiter.start()
    wait_for(lambda: pool.get_stats()["requests_waiting"])
    held.clear()
    waiter.join(DEADLINE)
    assert results[0]
