"""What is a connection, a cursor, a pool? For code that carries objects over a reload and knows no driver."""

from __future__ import annotations

from typing import Any

import psycopg2.extensions
import psycopg2.pool

from mpool.compat import SimpleConnectionPool
from mpool.driver.psycopg import connection_info
from mpool.pool import ConnectionPool

POOLS = (ConnectionPool, SimpleConnectionPool, psycopg2.pool.AbstractConnectionPool)

# Only the object's type is looked at: a foreign object's own __class__ or __getattr__ may do anything.


def is_connection(obj: object) -> bool:
    """A psycopg2 connection, leased from a pool or not."""
    return issubclass(type(obj), psycopg2.extensions.connection)


def is_cursor(obj: object) -> bool:
    """A psycopg2 cursor, those of psycopg2.extras included."""
    return issubclass(type(obj), psycopg2.extensions.cursor)


def is_pool(obj: object) -> bool:
    """A pool of mpool's (mpool.compat's too) or of psycopg2.pool's."""
    return issubclass(type(obj), POOLS)


def describe(obj: Any) -> str:
    """A connection, cursor or pool in one line for the log: no password, no conninfo. Does not raise."""
    try:
        if is_connection(obj):
            return connection_info(obj)
        if is_cursor(obj):
            return f"cursor of {connection_info(obj.connection)}"
        if issubclass(type(obj), ConnectionPool):
            return f"pool {obj!r}"
        if is_pool(obj):
            state = "closed" if obj.closed else "open"
            return f"pool {type(obj).__name__} ({state}, at most {obj.maxconn} connections)"
    except Exception as error:
        return f"{type(obj).__name__} that cannot be described ({type(error).__name__})"
    return f"object of type {type(obj).__name__}"
