"""psycopg2.pool's three classes, over mpool's engine: change the import, and nothing else.

They have psycopg2's signatures, keys and errors. What is different: connections above `minconn` are kept when they
come back instead of being closed, a dead one is noticed before it is lent, and where all are lent
ThreadedConnectionPool waits up to `wait_timeout` seconds before it raises.
"""

from __future__ import annotations

import _thread
from typing import Any

import psycopg2.pool

from mpool.driver.psycopg import hides_arguments
from mpool.errors import LeaseError, PoolClosed, PoolTimeout
from mpool.host.books import books, errands
from mpool.pool import ConnectionPool

CONNECT_TIMEOUT = 30.0  # seconds


class PoolExhausted(PoolTimeout, psycopg2.pool.PoolError):
    """All connections are lent. Caught by `except psycopg2.pool.PoolError` too, like the two below."""


class PoolIsClosed(PoolClosed, psycopg2.pool.PoolError):
    """The pool was closed."""


class WrongReturn(LeaseError, psycopg2.pool.PoolError):
    """Not a connection that this pool has lent."""


class SimpleConnectionPool:
    """For one thread: raises at once where all connections are lent."""

    wait_timeout = 0.0

    @hides_arguments
    def __init__(self, minconn: int, maxconn: int, *args: Any, **kwargs: Any) -> None:
        """*args* and *kwargs* are psycopg2.connect's. Opens minconn connections, or raises the driver's error."""
        self.minconn = int(minconn)
        self.maxconn = int(maxconn)
        dsn = args[0] if args else kwargs.pop("dsn", None)
        names = ("connection_factory", "cursor_factory")
        kwargs.update({name: value for name, value in zip(names, args[1:], strict=False) if value is not None})
        self._lock = books  # guards _lent
        self._lent: dict[Any, Any] = {}  # key: connection
        self._pool = ConnectionPool(
            dsn or "",
            kwargs=kwargs,
            min_size=self.minconn,
            max_size=max(self.maxconn, 1),
            timeout=self.wait_timeout,
            name=type(self).__name__,
        )
        first: list[Any] = []
        try:
            while len(first) < self.minconn:
                first.append(self._pool.getconn(CONNECT_TIMEOUT))
        except PoolTimeout as error:
            self._pool.close()
            raise error.__cause__ or error from None
        finally:
            for conn in first:
                self._pool.putconn(conn)

    @property
    def closed(self) -> bool:
        return self._pool.closed

    def getconn(self, key: Any = None) -> Any:
        """A connection; with *key*, the one that this key has already, if any."""
        if key is not None:
            with errands, self._lock:
                if key in self._lent:
                    return self._lent[key]
        try:
            conn = self._pool.getconn(self._time_to_wait())
        except PoolClosed as error:
            raise PoolIsClosed(str(error)) from None
        except PoolTimeout as error:
            if error.__cause__ is not None:
                raise error.__cause__ from None  # psycopg2's pool lets the driver's error through
            raise PoolExhausted(str(error)) from None
        with errands, self._lock:
            self._lent[id(conn) if key is None else key] = conn
        return conn

    def putconn(self, conn: Any = None, key: Any = None, close: bool = False) -> None:
        """Give a connection back; with *close*, to be closed."""
        with errands, self._lock:
            if key is None:
                key = next((k for k, lent in self._lent.items() if lent is conn), None)
            if conn is None:
                conn = self._lent.get(key)
            if self._lent.pop(key, None) is None:
                raise WrongReturn(f"{self._pool.name}: trying to put a connection that is not lent")
        if close:
            conn.close()
        self._pool.putconn(conn)

    def closeall(self) -> None:
        """Close every connection, those that are lent too."""
        if self._pool.closed:
            raise PoolIsClosed(f"{self._pool.name}: the pool is closed already")
        self._pool.close()
        with errands, self._lock:
            lent = list(self._lent.values())
        for conn in lent:
            conn.close()

    def _time_to_wait(self) -> float:
        """Where a connection may still be opened, the time that takes is not a wait for others."""
        with errands, self._lock:
            return CONNECT_TIMEOUT if len(self._lent) < self.maxconn else self.wait_timeout

    def __repr__(self) -> str:
        return repr(self._pool)


class ThreadedConnectionPool(SimpleConnectionPool):
    """For many threads: waits for a connection."""

    wait_timeout = 5.0


class PersistentConnectionPool(ThreadedConnectionPool):
    """One connection for each thread, kept until that thread gives it back.

    A thread is known by threading.get_ident(): under mod_python neither threading.local nor current_thread() stays with
    one.
    """

    def getconn(self, key: Any = None) -> Any:
        return super().getconn(_thread.get_ident() if key is None else key)

    def putconn(self, conn: Any = None, key: Any = None, close: bool = False) -> None:
        """Give back *conn*, or this thread's connection."""
        super().putconn(conn, _thread.get_ident() if conn is None and key is None else key, close)
