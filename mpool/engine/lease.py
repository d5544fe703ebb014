"""The context manager that connection() returns."""

from __future__ import annotations

import _thread
from types import TracebackType
from typing import Any, Protocol

import psycopg2

from mpool.driver.transactions import commit
from mpool.errors import PoolError


class Pool(Protocol):
    """What a lease needs of its pool."""

    name: str

    def getconn(self, timeout: float | None = None, owner: object = None) -> Any: ...
    def putconn(self, conn: Any) -> None: ...
    def put_failed(self, conn: Any) -> None: ...
    def note_error(self, conn: Any, error: BaseException) -> None: ...


class Lease:
    """One lease for one block: commit on success, roll back on an exception, and back it goes. To be used once."""

    __slots__ = ("_conn", "_owner", "_pool", "_timeout", "_uses")

    def __init__(self, pool: Pool, timeout: float | None = None, owner: object = None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._owner = _thread.get_ident() if owner is None else owner
        self._conn: Any = None

    def __enter__(self) -> Any:
        if self._conn is not None:
            raise PoolError(f"{self._pool.name}: this lease is in use already; call connection() for another")
        self._conn = self._pool.getconn(self._timeout, self._owner)
        self._uses = self._conn._entry.uses
        return self._conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        conn, self._conn = self._conn, None
        pool = self._pool
        entry = conn._entry
        if entry.uses != self._uses or not entry.is_leased():
            # Given back inside the block already, and perhaps somebody else's by now.
            if error is None and entry.undone == self._uses:
                raise PoolError(f"{pool.name}: the block gave its connection back with work that was not committed")
            return
        if error is not None:
            pool.note_error(conn, error)
            pool.put_failed(conn)
            return
        failed = True
        try:
            self._commit(conn)
            failed = False
        finally:
            (pool.put_failed if failed else pool.putconn)(conn)

    def _commit(self, conn: Any) -> None:
        """Raises where what the block did cannot be stored: no block ends well that has lost its work."""
        try:
            commit(conn)
        except psycopg2.Error as error:
            self._pool.note_error(conn, error)
            raise
