"""The pools that are measured, each behind the same two functions."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import psycopg2
import psycopg2.pool

import mpool


class AutocommitConnection(psycopg2.extensions.connection):
    """No transaction around a SELECT: what is measured is the pool, not BEGIN and ROLLBACK."""

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.autocommit = True


def connect(conninfo: str) -> Any:
    return psycopg2.connect(conninfo, connection_factory=AutocommitConnection)


def select_1(conn: Any) -> None:
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()


class Peer:
    """One pool of *size* connections: acquire() waits for a connection, release(conn) gives it back."""

    name = ""
    base = False  # a floor, no pool
    acquire: Callable[[], Any]
    release: Callable[[Any], Any]

    def __init__(self, conninfo: str, size: int) -> None:
        self.conninfo = conninfo
        self.size = size
        self.open()

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def give_up(self, conn: Any) -> None:
        """Give a broken connection back."""
        self.release(conn)

    def warm(self) -> None:
        """Have every connection opened and used."""
        conns = [self.acquire() for _ in range(self.size)]
        for conn in conns:
            select_1(conn)
        for conn in conns:
            self.release(conn)


def insisting(take: Callable[[], Any], empty: type[Exception]) -> Callable[[], Any]:
    """For those that raise when empty: try again."""

    def acquire() -> Any:
        while True:
            try:
                return take()
            except empty:
                time.sleep(0)

    return acquire


class BareDeque(Peer):
    name = "floor: bare deque, no checks"
    base = True

    def open(self) -> None:
        self._all = [connect(self.conninfo) for _ in range(self.size)]
        self._idle = deque(self._all)
        self.acquire = self._idle.pop
        self.release = self._idle.append
        self.wait = insisting(self._idle.pop, IndexError)

    def close(self) -> None:
        for conn in self._all:
            conn.close()


class HandOff(Peer):
    name = "floor: strict first-come hand-off"
    base = True

    def open(self) -> None:
        self._all = [connect(self.conninfo) for _ in range(self.size)]
        self._idle = list(self._all)
        self._waiting: deque[tuple[Any, list[Any]]] = deque()
        self._lock = threading.Lock()
        self.acquire = self._acquire
        self.release = self._release

    def _acquire(self) -> Any:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            gate, box = threading.Lock(), []
            gate.acquire()
            self._waiting.append((gate, box))
        gate.acquire()
        return box[0]

    def _release(self, conn: Any) -> None:
        with self._lock:
            if not self._waiting:
                self._idle.append(conn)
                return
            gate, box = self._waiting.popleft()
            box.append(conn)
        gate.release()

    def close(self) -> None:
        for conn in self._all:
            conn.close()


class Mpool(Peer):
    name = "mpool"
    bypass = 0.5

    def open(self) -> None:
        self._pool = mpool.ConnectionPool(
            self.conninfo,
            kwargs={"connection_factory": AutocommitConnection},
            max_size=self.size,
            timeout=60,
            check_bypass=self.bypass,
        )
        self.acquire = self._pool.getconn
        self.release = self._pool.putconn

    def close(self) -> None:
        self._pool.close()


class MpoolChecked(Mpool):
    name = "mpool check_bypass=0"
    bypass = 0.0


class Psycopg2Pool(Peer):
    name = "psycopg2.pool.ThreadedConnectionPool"

    def open(self) -> None:
        self._pool = psycopg2.pool.ThreadedConnectionPool(
            self.size, self.size, self.conninfo, connection_factory=AutocommitConnection
        )
        self.acquire = self._pool.getconn
        self.release = self._pool.putconn
        self.wait = insisting(self._pool.getconn, psycopg2.pool.PoolError)

    def give_up(self, conn: Any) -> None:
        self._pool.putconn(conn, close=True)

    def close(self) -> None:
        self._pool.closeall()


class PsycopgPool(Peer):
    name = "psycopg_pool"
    checked = False

    def open(self) -> None:
        import psycopg
        import psycopg_pool

        self._pool = psycopg_pool.ConnectionPool(
            self.conninfo,
            kwargs={"autocommit": True},
            min_size=self.size,
            max_size=self.size,
            timeout=60,
            open=True,
            check=psycopg_pool.ConnectionPool.check_connection if self.checked else None,
        )
        self._pool.wait(60)
        self.driver = psycopg.pq.__impl__  # "python" or "c": its speed is part of the figures
        self.acquire = self._pool.getconn
        self.release = self._pool.putconn

    def close(self) -> None:
        self._pool.close()


class PsycopgPoolChecked(PsycopgPool):
    name = "psycopg_pool with check"
    checked = True


class SQLAlchemyPool(Peer):
    name = "SQLAlchemy QueuePool"
    pre_ping = False

    def open(self) -> None:
        import sqlalchemy

        self._engine = sqlalchemy.create_engine(
            "postgresql+psycopg2://",
            creator=lambda: connect(self.conninfo),
            pool_size=self.size,
            max_overflow=0,
            pool_timeout=60,
            pool_pre_ping=self.pre_ping,
        )
        self._engine.connect().close()  # the dialect's own first queries
        self.acquire = self._engine.pool.connect
        self.release = lambda conn: conn.close()

    def give_up(self, conn: Any) -> None:
        conn.invalidate()

    def close(self) -> None:
        self._engine.dispose()


class SQLAlchemyPrePing(SQLAlchemyPool):
    name = "SQLAlchemy QueuePool pre_ping"
    pre_ping = True


class DBUtilsPool(Peer):
    name = "DBUtils PooledDB ping=0"
    ping: Any = 0

    def open(self) -> None:
        from dbutils.pooled_db import PooledDB

        def creator() -> Any:
            return connect(self.conninfo)

        creator.dbapi = psycopg2  # type: ignore[attr-defined]
        self._pool = PooledDB(
            creator,
            mincached=self.size,
            maxcached=self.size,
            maxconnections=self.size,
            blocking=True,
            ping=self.ping,
        )
        self.acquire = self._pool.connection
        self.release = lambda conn: conn.close()

    def close(self) -> None:
        self._pool.close()


class DBUtilsPing(DBUtilsPool):
    name = "DBUtils PooledDB ping='SELECT 1'"
    ping = "SELECT 1"


PEERS: list[type[Peer]] = [
    BareDeque,
    HandOff,
    Mpool,
    MpoolChecked,
    Psycopg2Pool,
    PsycopgPool,
    PsycopgPoolChecked,
    SQLAlchemyPool,
    SQLAlchemyPrePing,
    DBUtilsPool,
    DBUtilsPing,
]
