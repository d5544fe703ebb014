"""The drop-ins for psycopg2.pool: run beside the originals where both must behave alike."""

from __future__ import annotations

import threading

import psycopg2
import psycopg2.extras
import psycopg2.pool
import pytest
from postgres.helpers import DEADLINE, backend, in_threads, kill, query, wait_for

from mpool import compat, is_pool

BOTH = [
    psycopg2.pool.SimpleConnectionPool,
    psycopg2.pool.ThreadedConnectionPool,
    compat.SimpleConnectionPool,
    compat.ThreadedConnectionPool,
]


@pytest.fixture
def make(postgres):
    made = []

    def make(cls, minconn, maxconn, *args, **kwargs):
        pool = cls(minconn, maxconn, *(args if args or kwargs else (postgres.conninfo,)), **kwargs)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        if not pool.closed:
            pool.closeall()


@pytest.mark.parametrize("cls", BOTH)
def test_the_life_of_a_pool(make, cls):
    pool = make(cls, 1, 2)
    assert not pool.closed and (pool.minconn, pool.maxconn) == (1, 2)
    one, two = pool.getconn(), pool.getconn()
    if hasattr(pool, "wait_timeout"):
        pool.wait_timeout = 0.05
    with pytest.raises(psycopg2.pool.PoolError):
        pool.getconn()
    pool.putconn(one)
    assert backend(pool.getconn()) == backend(one)
    pool.putconn(two, close=True)
    assert two.closed
    pool.closeall()
    assert pool.closed and one.closed
    with pytest.raises(psycopg2.pool.PoolError):
        pool.getconn()
    with pytest.raises(psycopg2.pool.PoolError):
        pool.closeall()


@pytest.mark.parametrize("cls", BOTH)
def test_a_key_has_one_connection(make, cls):
    pool = make(cls, 1, 3)
    conn = pool.getconn("key")
    assert pool.getconn("key") is conn
    other = pool.getconn("other")
    assert other is not conn
    pool.putconn(conn, key="key")
    pool.putconn(other)
    assert pool.getconn("key") is not None


@pytest.mark.parametrize("cls", BOTH)
def test_wrong_returns(make, cls, postgres):
    pool = make(cls, 1, 2)
    conn = pool.getconn()
    pool.putconn(conn)
    with pytest.raises(psycopg2.pool.PoolError):
        pool.putconn(conn)
    foreign = psycopg2.connect(postgres.conninfo)
    with pytest.raises(psycopg2.pool.PoolError):
        pool.putconn(foreign)
    foreign.close()


@pytest.mark.parametrize("cls", BOTH)
def test_returned_in_a_transaction(make, cls):
    pool = make(cls, 1, 1)
    conn = pool.getconn()
    query(conn, "SELECT 1")
    pool.putconn(conn)
    conn = pool.getconn()
    assert conn.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE


@pytest.mark.parametrize("cls", BOTH)
def test_the_constructor_raises_the_drivers_error(cls):
    with pytest.raises(psycopg2.OperationalError, match="No such file"):
        cls(1, 2, "host=/nonexistent")
    assert not cls(0, 2, "host=/nonexistent").closed


@pytest.mark.parametrize("cls", BOTH)
def test_keyword_arguments_reach_the_driver(make, cls, postgres):
    pool = make(cls, 1, 2, dsn=postgres.conninfo, cursor_factory=psycopg2.extras.DictCursor)
    assert pool.getconn().cursor_factory is psycopg2.extras.DictCursor


def test_what_exceeds_minconn_is_kept(make, postgres):
    pool = make(compat.ThreadedConnectionPool, 1, 4)
    conns = [pool.getconn() for _ in range(4)]
    pids = {backend(conn) for conn in conns}
    for conn in conns:
        pool.putconn(conn)
    assert {backend(pool.getconn()) for _ in range(4)} == pids


def test_the_threaded_pool_waits(make):
    pool = make(compat.ThreadedConnectionPool, 1, 2)

    def use(number):
        conn = pool.getconn()
        try:
            return query(conn, "SELECT pg_sleep(0.01)") is not None
        finally:
            pool.putconn(conn)

    assert in_threads(10, use) == [True] * 10


def test_a_dead_connection_is_noticed(make, postgres):
    pool = make(compat.SimpleConnectionPool, 1, 2)
    pool._pool.hold_tick()
    conn = pool.getconn()
    pid = backend(conn)
    pool.putconn(conn)
    kill(postgres, pid)
    wait_for(lambda: not is_lent(pool, pid))


def is_lent(pool, pid):
    try:
        conn = pool.getconn()
    except psycopg2.Error:
        return True
    try:
        return conn.get_backend_pid() == pid
    finally:
        pool.putconn(conn)


def test_a_thread_keeps_its_connection_until_it_gives_it_back(make):
    pool = make(compat.PersistentConnectionPool, 1, 4)
    mine = pool.getconn()
    assert pool.getconn() is mine
    theirs = []
    thread = threading.Thread(target=lambda: theirs.append(pool.getconn()))
    thread.start()
    thread.join(DEADLINE)
    assert theirs[0] is not mine
    pool.putconn()
    with pytest.raises(psycopg2.pool.PoolError):
        pool.putconn(mine)
    assert pool.getconn() is not None


def test_all_are_recognised_as_pools(make):
    assert all(is_pool(make(cls, 0, 1)) for cls in [*BOTH, compat.PersistentConnectionPool])
