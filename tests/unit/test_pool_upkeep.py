"""Upkeep on a fake clock: nothing sleeps."""

from __future__ import annotations

import psycopg2
import psycopg2.errors
import pytest
from unit.fakes import Background, FakeClock, FakeServer, make_pool

from mpool import LeaseError, PoolError, PoolTimeout, PoolUnavailable
from mpool.driver.psycopg import went_unanswered
from mpool.engine.circuit import FIRST_DELAY, JITTER, LONGEST_DELAY, Circuit
from mpool.engine.waiting import Waiter
from mpool.host.books import inside


@pytest.fixture
def server():
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def clock():
    return FakeClock()


def lease_all(pool, count):
    conns = [pool.getconn() for _ in range(count)]
    for conn in conns:
        pool.putconn(conn)
    return conns


def ticking(server, clock, **options):
    """A pool that has ticks, whose housekeeper is the test."""
    pool = make_pool(server, clock, housekeeper=True, spawn=Background(), open=False, **options)
    pool._watch = lambda: None
    pool._spawn = lambda function, *args: function(*args)
    pool.open()
    pool.maintain(clock())
    return pool


def test_backoff_doubles_with_jitter_up_to_a_limit():
    circuit = Circuit()
    now, delays = 0.0, []
    for _ in range(12):
        circuit.failed(now, OSError("down"))
        delays.append(circuit.next_try - now)
        assert not circuit.allows(circuit.next_try - 0.001) and circuit.allows(circuit.next_try)
        now = circuit.next_try
    for number, delay in enumerate(delays):
        ideal = min(LONGEST_DELAY, FIRST_DELAY * 2**number)
        assert ideal * (1 - JITTER) - 1e-9 <= delay <= ideal * (1 + JITTER) + 1e-9
    assert len(set(delays)) == len(delays)
    circuit.succeeded()
    assert circuit.allows(0.0)


@pytest.mark.parametrize(
    "text, unanswered",
    [
        (
            'connection to server at "127.0.0.1", port 5 failed: Connection refused\n\tIs the server running',
            1,
        ),
        ('connection to server on socket "/s/.s.PGSQL.5" failed: No such file or directory\n\tIs the server', 1),
        ('connection to server at "10.0.0.1", port 5432 failed: timeout expired', 1),
        ('could not translate host name "db.test" to address: Name or service not known', 1),
        ('connection to server at "127.0.0.1", port 5 failed: FATAL:  sorry, too many clients already', 0),
        ('connection to server at "127.0.0.1", port 5 failed: ВАЖНО:  извините, уже слишком много клиентов', 0),
        ("could not connect: Connection refused\nconnection failed: FATAL:  the database system is starting up", 0),
    ],
)
def test_a_servers_own_refusal_is_told_from_no_answer_in_any_language(text, unanswered):
    assert went_unanswered(psycopg2.OperationalError(text)) == unanswered


def test_what_a_statement_or_a_callback_raised_is_no_missing_server():
    for error in (RuntimeError("vault sealed"), PoolError("left in a transaction"), psycopg2.errors.QueryCanceled("x")):
        assert not went_unanswered(error)


def test_between_two_ticks_a_dead_connection_passes_and_after_one_it_does_not(server, clock):
    pool = ticking(server, clock, check_bypass=0.5)
    conn = lease_all(pool, 1)[0]
    conn.kill()
    assert pool.getconn() is conn  # the price of the bypass
    pool.putconn(conn)
    clock.advance(0.3)
    pool.maintain(clock())
    assert pool.getconn() is not conn
    pool.close()


def test_a_connection_found_alive_is_not_looked_at_again_within_the_tick(server, clock):
    pool = ticking(server, clock)
    conn = lease_all(pool, 1)[0]
    pool.putconn(pool.getconn())

    class NoPoll:
        def poll(self, timeout):
            raise AssertionError("looked at")

    conn._entry.poller = NoPoll()
    for _ in range(3):
        pool.putconn(pool.getconn())
    pool.close()


def test_an_unused_pool_rests_and_looks_for_itself_afterwards(server, clock):
    pool = ticking(server, clock)
    conn = lease_all(pool, 1)[0]
    waits = []
    for _ in range(6):
        waits.append(pool.maintain(clock()))
        clock.advance(waits[-1])
    assert waits[0] <= 0.25 and waits[-1] >= 10
    conn.kill()
    assert pool.getconn() is not conn
    pool.close()


def test_a_ping_only_after_a_silence(server, clock):
    pool = make_pool(server, clock, check_after=30.0)
    conn = lease_all(pool, 1)[0]
    clock.advance(29)
    pool.putconn(pool.getconn())
    assert "SELECT 1" not in conn.statements
    clock.advance(31)
    pool.putconn(pool.getconn())
    assert conn.statements.count("SELECT 1") == 1


def test_max_idle_closes_the_coldest_above_min_size(server, clock):
    pool = make_pool(server, clock, min_size=1, max_size=4, max_idle=60)
    conns = lease_all(pool, 4)
    clock.advance(50)
    hot = pool.getconn()
    pool.putconn(hot)
    pool.maintain(clock())
    assert len(server.open) == 4
    clock.advance(50)
    pool.maintain(clock())
    assert server.open == {hot} and hot is conns[-1]
    clock.advance(1000)
    pool.maintain(clock())
    assert server.open == {hot}  # min_size


def test_lifetime_ends_idle_and_leased_ones_and_min_size_is_refilled(server, clock):
    pool = make_pool(server, clock, min_size=2, max_size=2, max_lifetime=100)
    held = pool.getconn()
    old = set(server.open)
    clock.advance(101)
    pool.maintain(clock())
    assert held in server.open and len(server.open) == 2
    pool.putconn(held)
    assert not old & server.open
    pool.maintain(clock())
    assert len(server.open) == 2


def test_a_connection_opened_before_a_drain_is_not_kept(server, clock):
    background = Background()
    pool = make_pool(server, clock, housekeeper=True, spawn=background, open=False, min_size=1)
    pool._watch = lambda: None
    pool.open()
    connect = pool._connector._connect

    def drained_meanwhile(**arguments):
        conn = connect(**arguments)
        pool._connector._connect = connect
        pool.drain()
        return conn

    pool._connector._connect = drained_meanwhile
    background.run()
    assert len(server.attempts) == 2 and len(server.open) == 1
    assert {conn._entry.generation for conn in server.open} == {1}
    pool.close()


def test_reconnect_failed_is_called_once_an_outage(server, clock):
    failed = []
    server.down = True
    pool = make_pool(server, clock, min_size=1, reconnect_timeout=10, reconnect_failed=failed.append)
    for _ in range(20):
        clock.advance(1)
        pool.maintain(clock())
    assert failed == [pool]
    server.down = False
    clock.advance(6)
    pool.maintain(clock())
    assert len(server.open) == 1
    for conn in list(server.open):
        conn.kill()
    server.down = True
    with pytest.raises(PoolUnavailable):
        clock.advance(1)
        pool.getconn()
    for _ in range(20):
        clock.advance(1)
        pool.maintain(clock())
    assert failed == [pool, pool]


def test_a_failing_rollback_costs_the_connection_and_nothing_else(server, clock):
    pool = make_pool(server, clock)
    conn = pool.getconn()
    conn.status, conn.rollback_fails = 2, True
    pool.putconn(conn)
    assert conn.closed and pool.get_stats()["returns_bad"] == 1


def test_unknown_status_closes(server, clock):
    pool = make_pool(server, clock)
    conn = pool.getconn()
    conn.status = 4
    pool.putconn(conn)
    assert conn.closed


def test_repr_shows_the_state_and_no_password(server, clock):
    pool = make_pool(server, clock, name="reports", kwargs={"password": "hush"})
    conn = pool.getconn()
    assert repr(pool) == ("<ConnectionPool 'reports' open: leased=1, idle=0, opening=0, waiting=0, max_size=10>")
    assert "hush" not in repr(vars(pool)) and "hush" not in repr(conn._entry)
    pool.putconn(conn)


def test_a_timeout_of_zero_takes_what_is_there(server, clock):
    pool = make_pool(server, clock, max_size=1)
    conn = pool.getconn(timeout=0)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    pool.putconn(conn)


# -- time on lease


def test_each_lease_is_timed_where_every_checkout_reads_the_clock(server, clock):
    pool = make_pool(server, clock)
    for seconds in (0.2, 3.0, 0.01):
        conn = pool.getconn()
        clock.advance(seconds)
        pool.putconn(conn)
        clock.advance(1.0)
    assert pool.get_stats()["usage_ms"] == 3210


def test_an_untimed_lease_counts_as_long_as_the_next_timed_one_of_its_connection(server, clock):
    pool = ticking(server, clock, max_size=2)
    held = pool.getconn()  # a long one beside them stands for nobody else
    for _ in range(2):
        for _ in range(10):
            conn = pool.getconn()
            clock.advance(0.01)
            pool.putconn(conn)
        pool.maintain(clock())
    assert pool.get_stats()["usage_ms"] == 110  # the first, and those up to the second that was timed
    conn = pool.getconn()
    clock.advance(0.01)
    pool.putconn(conn)
    assert pool.get_stats()["usage_ms"] == 210
    pool.putconn(held)
    assert pool.get_stats()["usage_ms"] == 420
    pool.close()


def test_untimed_leases_count_no_longer_than_the_time_that_there_was(server, clock):
    pool = ticking(server, clock)
    for seconds in (0.1, 0.1, 0.1):
        conn = pool.getconn()
        clock.advance(seconds)
        pool.putconn(conn)
    pool.maintain(clock())
    conn = pool.getconn()  # timed
    clock.advance(9.0)
    pool.putconn(conn)
    assert pool.get_stats()["usage_ms"] == 9300
    pool.close()


def test_a_lease_that_outlasts_a_step_is_timed(server, clock):
    pool = ticking(server, clock)
    lease_all(pool, 1)
    lease_all(pool, 1)
    conn = pool.getconn()
    assert conn._entry.since is None
    pool.maintain(clock())
    clock.advance(5.0)
    pool.maintain(clock())
    pool.putconn(conn)
    assert pool.get_stats()["usage_ms"] == 5000
    assert conn._entry.since is None
    pool.close()


# -- what the paths may touch


class Untouchable:
    """A lock, or a clock, that nobody is to use."""

    def __call__(self):
        raise AssertionError("used")

    __enter__ = __exit__ = acquire = locked = __call__


def test_the_fast_path_takes_no_lock_and_reads_no_clock(server, clock):
    pool = ticking(server, clock)
    lease_all(pool, 2)
    lock, time = pool._lock, pool._clock
    pool._lock = pool._clock = Untouchable()
    for _ in range(3):
        conns = [pool.getconn(), pool.getconn()]
        for conn in conns:
            pool.putconn(conn)
    pool._lock, pool._clock = lock, time
    assert pool.get_stats()["requests_num"] == 8
    pool.close()


def test_no_socket_and_no_code_of_the_users_under_the_lock(server, clock):
    seen = []

    def note(what):
        assert not inside(), what
        seen.append(what)

    def connect(**arguments):
        note("connect")
        return server.connect(**arguments)

    pool = make_pool(
        server, clock, open=False, min_size=1, max_size=2, max_uses=2,
        configure=lambda conn: note("configure"), check=lambda conn: note("check"), reset=lambda conn: note("reset"),
    )  # fmt: skip
    pool._connector._connect = connect
    pool.open()
    for _ in range(5):
        lease_all(pool, 2)
    pool.check()
    pool.maintain(clock())
    assert set(seen) == {"connect", "configure", "check", "reset"}
    pool.close()


def test_check_replaces_what_has_served_its_time(server, clock):
    pool = make_pool(server, clock, min_size=1, max_lifetime=100)
    old = lease_all(pool, 1)[0]
    clock.advance(101)
    pool.check()
    assert old.closed and len(server.open) == 1


def waiting_in(pool, since=None, again=False):
    waiter = Waiter(None, pool._clock() if since is None else since)
    with pool._lock:
        pool._join_locked(waiter, again)
    return waiter


def test_a_return_on_the_fast_path_sees_who_waits(server, clock):
    pool = ticking(server, clock, max_size=1)
    lease_all(pool, 1)
    held = pool.getconn()
    assert held._entry.state is pool.leased
    waiter = waiting_in(pool)
    pool.putconn(held)
    assert waiter.conn is held
    pool.putconn(held)
    pool.close()


def test_one_whose_connection_failed_the_check_keeps_its_place(server, clock):
    pool = ticking(server, clock, max_size=1)
    held = pool.getconn()
    later = waiting_in(pool)
    first = waiting_in(pool, since=clock() - 1.0, again=True)
    pool.putconn(held)
    assert first.conn is held and later.conn is None
    pool.putconn(held)
    assert later.conn is held
    pool.putconn(held)
    pool.close()


def test_a_leak_that_was_handed_over_is_reported_when_it_comes_back_to_the_next_in_line(server, clock, caplog):
    pool = ticking(server, clock, max_size=1, leak_after=10)
    held = pool.getconn()
    waiting_in(pool)
    pool.putconn(held)
    clock.advance(11)
    pool.maintain(clock())
    waiting_in(pool)
    pool.putconn(held)
    assert any("came back after 11.0s" in r.getMessage() for r in caplog.records)
    pool.putconn(held)
    pool.close()


def test_a_connection_that_was_handed_over_goes_back_to_its_own_pool_only(server, clock):
    pool, other = ticking(server, clock, max_size=1), ticking(server, clock)
    held = pool.getconn()
    waiter = waiting_in(pool)
    pool.putconn(held)
    assert waiter.conn is held and held._entry.state is pool.timed
    with pytest.raises(LeaseError, match=pool.name):
        other.putconn(held)
    pool.putconn(held)
    with pytest.raises(LeaseError, match="it is idle"):
        pool.putconn(held)
    pool.close()
    other.close()


def test_two_threads_that_return_one_connection_at_once_do_not_serve_two(server, clock):
    pool = ticking(server, clock, max_size=1)
    lease_all(pool, 1)
    held = pool.getconn()
    waiters = [waiting_in(pool), waiting_in(pool)]
    hand_over = pool._hand_over

    def with_another_return_in_between(conn, entry):
        pool._hand_over = hand_over
        with pytest.raises(LeaseError, match="it is returning"):
            pool.putconn(conn)
        return hand_over(conn, entry)

    pool._hand_over = with_another_return_in_between
    pool.putconn(held)
    assert [waiter.conn for waiter in waiters] == [held, None]
    pool.putconn(held)
    pool.putconn(held)
    pool.close()


def test_a_connection_of_an_old_generation_is_not_handed_over(server, clock):
    pool = ticking(server, clock, max_size=1)
    lease_all(pool, 1)
    held = pool.getconn()
    hand_over = pool._hand_over

    def drained_meanwhile(conn, entry):
        pool.drain()
        return hand_over(conn, entry)

    pool._hand_over = drained_meanwhile
    waiter = waiting_in(pool)
    pool.putconn(held)
    assert held.closed and waiter.conn is not None and waiter.conn is not held
    pool._hand_over = hand_over
    pool.putconn(waiter.conn)
    pool.close()


def test_a_pool_made_smaller_while_one_is_being_opened_ends_at_its_new_size(server, clock):
    background = Background()
    pool = make_pool(server, clock, housekeeper=True, spawn=background, open=False, max_size=3)
    pool._watch = lambda: None
    pool.open()
    waiters = [Waiter(None, clock()) for _ in range(3)]
    for waiter in waiters:
        with pool._lock:
            pool._join_locked(waiter, again=False)
            begun = pool._begin_locked(clock())
        pool._open_all(begun)
    while sum(waiter.conn is not None for waiter in waiters) < 2:
        function, (opening,) = background.jobs.pop(0)
        following = pool._opening_succeeded(opening, *connected(pool))
        if following is not None:
            background.jobs.append((function, (following,)))
    assert len(pool._openings) == 1
    pool.resize(0, 2)
    pool.putconn(waiters[0].conn)
    assert len(pool._entries) + len(pool._openings) <= 2
    pool.close()


def test_a_return_that_crosses_a_hopeless_caller_serves_it(server, clock):
    pool = ticking(server, clock, max_size=2)
    lease_all(pool, 1)
    held = pool.getconn()
    server.down = True
    with pytest.raises(PoolUnavailable):
        pool.getconn()
    join = pool._join_locked

    def returned_just_before(waiter, again):
        pool.putconn(held)
        join(waiter, again)

    pool._join_locked = returned_just_before
    assert pool.getconn() is held
    pool._join_locked = join
    pool.putconn(held)
    pool.close()


def connected(pool):
    conn = pool._connector.open()
    return conn, pool._entry_of(conn)
