"""The pools of this interpreter in this process, by name.

Exactly one pool per name, interpreter and process: an interpreter has its own copy of this module, and the child of a
fork starts with none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mpool.config import options_from_environment, options_from_pythonoption
from mpool.driver.psycopg import hides_arguments, main_interpreter_imported_first
from mpool.engine.entry import Entry
from mpool.engine.lease import Lease
from mpool.errors import LeaseError, PoolConflict
from mpool.host import apache
from mpool.host.books import books, errands
from mpool.host.forking import at_fork
from mpool.host.housekeeper import housekeeper
from mpool.host.stack import note_stack
from mpool.null import NullConnectionPool
from mpool.pool import ConnectionPool

POOL_CLASSES: dict[str, type[ConnectionPool]] = {"keep": ConnectionPool, "null": NullConnectionPool}


class Registered:
    """A pool, and where its options came from."""

    def __init__(
        self,
        pool: ConnectionPool,
        options: Mapping[str, Any],
        configured: Mapping[str, Any],
        scope: str,
        opens: bool,
    ) -> None:
        self.pool = pool
        self.options = options  # what it was made with: by init_pool() also what that was given
        self.configured = configured  # what the configuration said to whoever made it
        self.scope = scope
        self.opens = opens
        self._agreed: list[dict[str, str]] = []  # tables of PythonOption entries that say what *options* say

    def agrees(self, table: Mapping[str, str]) -> bool:
        """Has *table*, as it is, been found to say the same? Reading its options anew at each request would cost."""
        return table in self._agreed

    def is_what(self, options: Mapping[str, Any]) -> bool:
        """Is it the pool that a site with these *options* asks for? One made by hand is its maker's, and of those who
        are configured as its maker is, or as it was made."""
        return options in (self.configured, self.options)

    def note_agreement(self, table: dict[str, str]) -> None:
        if table not in self._agreed:
            self._agreed = [*self._agreed[-7:], table]


class Registry:
    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Forget every pool: for the child of a fork."""
        self._lock = books  # guards _pools; making a pool opens no connection
        self._pools: dict[str, Registered] = {}
        self._takes_care_of_exit = False

    @hides_arguments
    def init_pool(self, conninfo: Any = None, *, name: str = "default", **options: Any) -> ConnectionPool:
        """Make the pool *name* with these options over those of the configuration. PoolConflict if there is one."""
        req = apache.current_request()
        configured = _configured(name, req)
        given = configured | options if conninfo is None else {**configured, "conninfo": conninfo, **options}
        with errands, self._lock:
            there = self._pools.get(name)
            if there is not None and not there.pool.closed:
                raise PoolConflict(f"{name}: this interpreter has a pool of that name already, made for {there.scope}")
            there = self._make_locked(name, given, configured, f"{apache.scope(req)}, by init_pool()")
        return self._opened(there)

    def get_pool(self, name: str = "default", req: Any = None) -> ConnectionPool:
        """The pool *name*, made at the first call from the options that hold for *req*.

        Without *req*, for the request that the calling thread serves, and outside of any for the main server.
        PoolConflict if it was made with other options.
        """
        note_stack()
        if req is None:
            req = apache.current_request()
        there = self._pools.get(name)
        if there is not None and not there.pool.closed and (req is None or there.agrees(req.get_options())):
            return there.pool
        return self._find_or_make(name, req)

    @hides_arguments
    def _find_or_make(self, name: str, req: Any) -> ConnectionPool:
        options = _configured(name, req)
        with errands, self._lock:
            there = self._pools.get(name)
            if there is not None and not there.pool.closed:
                if not there.is_what(options):
                    raise _conflict(name, there, options, apache.scope(req))
                if req is not None:
                    there.note_agreement(apache.options(req))
                return there.pool
            there = self._make_locked(name, options, options, apache.scope(req))
        return self._opened(there)

    def _opened(self, made: Registered) -> ConnectionPool:
        """The pool, whose first connections are opened now: never under the lock."""
        if made.opens:
            made.pool.open()
        if not self._takes_care_of_exit:
            self._takes_care_of_exit = True
            apache.at_the_very_end(self._end)
            self._warn_of_import_order()
        return made.pool

    def close_pools(self) -> None:
        """Close every pool; a later get_pool() makes it anew."""
        with errands, self._lock:
            pools = [registered.pool for registered in self._pools.values()]
            self._pools.clear()
        for pool in pools:
            pool.close()

    def _end(self) -> None:
        self.close_pools()
        housekeeper.stop()

    def pools(self) -> list[ConnectionPool]:
        """Those that there are now; none is made."""
        return [registered.pool for registered in list(self._pools.values())]

    def _make_locked(
        self, name: str, options: Mapping[str, Any], configured: Mapping[str, Any], scope: str
    ) -> Registered:
        given = dict(options)
        kind, opens = str(given.pop("pool", "keep")).lower(), given.pop("open", True)
        if kind not in POOL_CLASSES:
            raise ValueError(f"pool {name!r}: option pool must be one of {', '.join(POOL_CLASSES)}, not {kind!r}")
        pool = POOL_CLASSES[kind](name=name, open=False, **given)
        if opens:
            pool.serve()  # another thread may find it from here on
        made = self._pools[name] = Registered(pool, options, configured, scope, opens)
        return made

    def _warn_of_import_order(self) -> None:
        if not main_interpreter_imported_first(apache.interpreter_name()):
            apache.log(
                "warning",
                "psycopg2 was imported in this interpreter before main_interpreter had it: other interpreters may not "
                "be able to use it; put 'PythonImport psycopg2 main_interpreter' into the server configuration",
            )


def _configured(name: str, req: Any = None) -> dict[str, Any]:
    """The options that the configuration gives the pool *name*: the environment's, and PythonOption over them."""
    return options_from_environment(os.environ, name) | options_from_pythonoption(apache.options(req), name)


def _conflict(name: str, there: Registered, options: Mapping[str, Any], scope: str) -> PoolConflict:
    keys = {*there.options, *options}
    differ = sorted(f"mpool.{key}" for key in keys if there.options.get(key) != options.get(key))
    return PoolConflict(
        f"pool {name!r}: {', '.join(differ)} of {scope} is not what this interpreter's pool was made with, for "
        f"{there.scope}; give one of them another pool name (mpool.NAME.{differ[0].partition('.')[2]}) or its own "
        "PythonInterpreter"
    )


registry = Registry()
at_fork(registry.start_anew)

init_pool = registry.init_pool
get_pool = registry.get_pool
close_pools = registry.close_pools
pools = registry.pools


def get_connection(name: str = "default", timeout: float | None = None, req: Any = None, owner: object = None) -> Any:
    """Lease a connection of the pool *name*; the pool is made if there is none yet. Give it back with release()."""
    return registry.get_pool(name, req).getconn(timeout, owner or apache.request_name(req))


def is_registered(obj: object) -> bool:
    """Is *obj* one of the pools that get_pool() gives: everybody's, and not its holder's to close?"""
    return any(pool is obj for pool in registry.pools())


def release(conn: Any) -> None:
    """Give a leased connection back to whichever pool it came from. LeaseError if it came from none."""
    entry = getattr(conn, "_entry", None)
    if not isinstance(entry, Entry):
        raise LeaseError("this connection was not leased from a pool")
    entry.pool.putconn(conn)


def connection(name: str = "default", timeout: float | None = None, req: Any = None, owner: object = None) -> Lease:
    """``with connection() as conn:`` commits at the end of the block, rolls back on an exception."""
    return registry.get_pool(name, req).connection(timeout, owner or apache.request_name(req))
