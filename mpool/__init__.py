"""mpool: connection pools for psycopg2, inside mod_python and out of it.

Import everything from here. The package lives as long as the process and is never reloaded.
"""

from __future__ import annotations

from collections.abc import Callable

# The driver first: it says what is wrong where psycopg2 cannot be imported.
from mpool.driver import psycopg as driver  # isort: skip
from mpool.config import PoolConfig
from mpool.driver.transactions import end_transaction as end_transaction
from mpool.errors import (
    CommitUnknown,
    LeaseError,
    PoolClosed,
    PoolConflict,
    PoolError,
    PoolTimeout,
    PoolUnavailable,
    TooManyRequests,
)
from mpool.host.apache import find_request_by, interpreter_name, log, on_child_exit
from mpool.host.housekeeper import housekeeper
from mpool.host.stack import note_stack
from mpool.null import NullConnectionPool
from mpool.pool import ConnectionPool
from mpool.recognise import describe, is_connection, is_cursor, is_pool
from mpool.registry import (
    close_pools,
    connection,
    get_connection,
    get_pool,
    init_pool,
    is_registered,
    pools,
    release,
)


def run_later(delay: float, callback: Callable[[], object]) -> None:
    """Call *callback* once, *delay* seconds from now, in this interpreter's housekeeper thread; errors are logged."""
    housekeeper.run_later(delay, callback)


def run_soon(callback: Callable[[], object]) -> None:
    """Call *callback* once, soon, in this interpreter's housekeeper thread; errors are logged."""
    housekeeper.run_later(0.0, callback)


driver.complete_errors()

__all__ = [
    "CommitUnknown",
    "ConnectionPool",
    "LeaseError",
    "NullConnectionPool",
    "PoolClosed",
    "PoolConfig",
    "PoolConflict",
    "PoolError",
    "PoolTimeout",
    "PoolUnavailable",
    "TooManyRequests",
    "close_pools",
    "connection",
    "describe",
    "find_request_by",
    "get_connection",
    "get_pool",
    "init_pool",
    "interpreter_name",
    "is_connection",
    "is_cursor",
    "is_pool",
    "is_registered",
    "log",
    "note_stack",
    "on_child_exit",
    "pools",
    "release",
    "run_later",
    "run_soon",
]
