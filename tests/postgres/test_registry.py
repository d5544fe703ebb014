"""The pools by name: one per name, whatever the number of simultaneous first requests."""

from __future__ import annotations

import sys
import traceback

import psycopg2
import psycopg2.extras
import pytest
from postgres.helpers import backend, in_threads, query
from servers.base import wait_until

import mpool
from mpool import ConnectionPool, LeaseError, NullConnectionPool, PoolConflict, registry


class Server:
    is_virtual = True
    port = 80
    defn_name = None

    def __init__(self, name: str) -> None:
        self.server_hostname = name


class Request:
    """What the registry sees of a mod_python request."""

    main = prev = None
    method, uri = "GET", "/accounts"

    def __init__(self, host: str = "a.test", **options: object) -> None:
        self.server = Server(host)
        self._options = {key.replace("__", "."): str(value) for key, value in options.items()}

    def get_options(self) -> dict[str, str]:
        return self._options


@pytest.fixture(autouse=True)
def _own_pools(postgres, monkeypatch):
    for name, value in postgres.env.items():
        monkeypatch.setenv(name, value)
    yield
    mpool.close_pools()


def test_simultaneous_first_requests_make_one_pool():
    pools = in_threads(24, lambda number: mpool.get_pool())
    assert len(set(map(id, pools))) == 1
    assert mpool.pools() == [pools[0]]


def test_a_pool_that_takes_its_time_is_made_once(monkeypatch):
    made = []

    def asking() -> int:
        """How many threads ask for a pool that they have not been given yet."""
        frames = [frame for first in sys._current_frames().values() for frame, _ in traceback.walk_stack(first)]
        return sum(frame.f_code.co_name == "_find_or_make" for frame in frames)

    def make(**options):
        made.append(1)
        wait_until(lambda: asking() == 6, what="all the others ask")
        return ConnectionPool(**options)

    monkeypatch.setitem(registry.POOL_CLASSES, "keep", make)
    pools = in_threads(6, lambda number: mpool.get_pool())
    assert len(set(map(id, pools))) == 1 and len(made) == 1


def test_the_functions_of_the_front():
    conn = mpool.get_connection(timeout=5)
    assert query(conn, "SELECT 1") == 1
    mpool.release(conn)
    with pytest.raises(LeaseError):
        mpool.release(conn)
    with pytest.raises(LeaseError):
        mpool.release(object())
    with mpool.connection() as conn:
        pid = backend(conn)
    with mpool.connection() as conn:
        assert backend(conn) == pid
    pool = mpool.get_pool()
    mpool.close_pools()
    assert pool.closed
    assert mpool.get_pool() is not pool


def test_init_pool_is_for_once(postgres):
    pool = mpool.init_pool(postgres.conninfo, name="reports", max_size=3)
    assert pool is mpool.get_pool("reports") and pool.config.max_size == 3
    with pytest.raises(PoolConflict, match="reports"):
        mpool.init_pool(postgres.conninfo, name="reports")


def test_options_from_the_environment(monkeypatch):
    monkeypatch.setenv("MPOOL_MAX_SIZE", "8")
    monkeypatch.setenv("MPOOL_REPORTS_MAX_SIZE", "2")
    monkeypatch.setenv("MPOOL_TIMEOUT", "1.5")
    assert mpool.get_pool().config.max_size == 8
    assert mpool.get_pool("reports").config.max_size == 2
    assert mpool.get_pool("reports").config.timeout == 1.5


def test_without_any_option_libpq_finds_the_server_by_itself(monkeypatch):
    monkeypatch.delenv("MPOOL_CONNINFO")
    with mpool.connection() as conn:
        assert query(conn, "SELECT current_user") == "site"


def test_a_pool_is_made_from_the_options_of_the_first_request():
    req = Request(mpool__max_size=4, mpool__reports__max_size=2, mpool__leak_stacks="On", other__thing="x")
    pool = mpool.get_pool(req=req)
    assert (pool.config.max_size, pool.config.leak_stacks) == (4, True)
    assert mpool.get_pool(req=Request("b.test", mpool__max_size=4, mpool__leak_stacks="on")) is pool
    assert mpool.get_pool("reports", req=req).config.max_size == 2
    assert mpool.get_pool() is pool
    with mpool.connection(req=req) as conn:
        assert query(conn, "SELECT 1") == 1


@pytest.mark.parametrize("options", [{}, {"mpool__max_size": 4}, {"mpool__conninfo": "dbname=a"}])
def test_a_pool_made_by_hand_is_its_makers_and_of_those_configured_alike(postgres, monkeypatch, options):
    monkeypatch.setattr("mpool.host.apache._request_source", lambda: Request("a.test", **options))
    pool = mpool.init_pool(postgres.conninfo)
    assert mpool.get_pool() is pool and mpool.get_pool(req=Request("twin.test", **options)) is pool
    for others in ({"mpool__conninfo": "dbname=b"}, {"mpool__max_size": 9}):
        with pytest.raises(PoolConflict, match=r"b\.test"):
            mpool.get_pool(req=Request("b.test", **others))


def test_two_sites_with_other_values_for_one_name_are_refused(postgres):
    secret = postgres.conninfo + " password=secret1"
    mpool.get_pool(req=Request("a.test", mpool__conninfo=secret, mpool__max_size=4))
    other = Request("b.test", mpool__conninfo=secret.replace("secret1", "secret2"), mpool__max_size=5)
    with pytest.raises(PoolConflict) as caught:
        mpool.get_connection(req=other)
    text = str(caught.value)
    assert "mpool.conninfo" in text and "mpool.max_size" in text
    assert "a.test" in text and "b.test" in text and "secret" not in text
    with pytest.raises(PoolConflict), mpool.connection(req=Request("c.test")):
        pass


def test_a_nested_lease_of_one_request_is_named_over_its_subrequests():
    req = Request(mpool__max_size=1)
    inner = Request(mpool__max_size=1)
    inner.main = req
    with (
        mpool.connection(req=req),
        pytest.raises(mpool.PoolTimeout, match=r"nested checkout: the same request \(GET /accounts"),
    ):
        mpool.get_connection(timeout=0.05, req=inner)


def test_a_mistyped_option_is_named():
    with pytest.raises(ValueError, match=r"mpool\.max_sise"):
        mpool.get_pool(req=Request(mpool__max_sise=3))
    with pytest.raises(ValueError, match=r"mpool\.max_size"):
        mpool.get_pool(req=Request(mpool__max_size="many"))
    with pytest.raises(ValueError, match="pool"):
        mpool.get_pool(req=Request(mpool__pool="nil"))


def test_a_null_pool_by_option():
    assert isinstance(mpool.get_pool(req=Request(mpool__pool="null")), NullConnectionPool)


def test_what_is_what(postgres):
    pool = mpool.get_pool()
    plain = psycopg2.connect(postgres.conninfo, application_name="plain")
    with pool.connection() as conn:
        for connection in (conn, plain):
            assert mpool.is_connection(connection) and not mpool.is_cursor(connection)
            cursor = connection.cursor(cursor_factory=psycopg2.extras.DictCursor)
            assert mpool.is_cursor(cursor) and not mpool.is_connection(cursor)
            assert str(connection.get_backend_pid()) in mpool.describe(cursor)
        assert mpool.is_pool(pool) and not mpool.is_pool(conn)
        assert mpool.describe(plain) == f"connection to backend {plain.get_backend_pid()} (application_name 'plain')"
    plain.close()
    assert mpool.describe(plain) == "closed connection"
    assert "default" in mpool.describe(pool)

    class Liar:
        @property
        def __class__(self):
            raise AssertionError("asked")

        def __getattr__(self, name):
            raise AssertionError("asked")

    for ask in (mpool.is_connection, mpool.is_cursor, mpool.is_pool):
        assert ask(Liar()) is False and ask(psycopg2.extensions.connection) is False
    assert "Liar" in mpool.describe(Liar())
