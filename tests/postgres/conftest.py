"""Fixtures for pools on a real server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from postgres.proxy import Proxy
from servers.postgres import PostgresServer

from mpool import ConnectionPool

_numbers = itertools.count(1)


@pytest.fixture
def make_pool(postgres: PostgresServer) -> Iterator[Callable[..., Any]]:
    """`make_pool(max_size=2)`: a pool on the session's server, closed at the end; `cls`, `conninfo` may be given."""
    made: list[ConnectionPool] = []

    def make(conninfo: Any = None, cls: Callable[..., Any] = ConnectionPool, **options: Any) -> Any:
        options.setdefault("name", f"test{next(_numbers)}")
        pool = cls(postgres.conninfo if conninfo is None else conninfo, **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close()


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    """A proxy before the session's server; `proxy_conninfo(proxy)` reaches it."""
    with Proxy(f"{postgres.socket_dir}/.s.PGSQL.{postgres.port}") as proxy:
        yield proxy
