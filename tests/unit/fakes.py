"""A driver without a server: connections with fault knobs, a clock that only moves when told, no threads."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_UNKNOWN

from mpool import ConnectionPool


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeCursor:
    def __init__(self, conn: FakeConnection) -> None:
        self._conn = conn

    def __enter__(self) -> FakeCursor:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def execute(self, sql: str) -> None:
        self._conn.statements.append(sql)
        if self._conn.dead:
            self._conn.closed = 2
            raise psycopg2.OperationalError("server closed the connection unexpectedly")


class FakeConnection:
    """What the pool uses of a psycopg2 connection. Its socket is one end of a pipe: writing makes it readable."""

    def __init__(self, server: FakeServer) -> None:
        self._entry: Any = None
        self._pooled = False
        self._server = server
        self._pid = next(server.pids)
        self._reader, self._writer = os.pipe()
        self.closed = 0
        self.info = SimpleNamespace(error_message=None)
        self.dead = False
        self.status = TRANSACTION_STATUS_IDLE
        self.rollback_fails = False
        self.statements: list[str] = []
        self.notifies: list[Any] = []
        self.parameters: dict[str, str] = {"in_hot_standby": "off", "default_transaction_read_only": "off"}
        self.autocommit = False
        self.isolation_level: int | None = None
        self.readonly: bool | None = None
        self.deferrable: bool | None = None
        self.encoding = "UTF8"
        self.cursor_factory = None
        server.open.add(self)

    def get_transaction_status(self) -> int:
        return TRANSACTION_STATUS_UNKNOWN if self.closed else self.status

    def get_backend_pid(self) -> int:
        return self._pid

    def get_parameter_status(self, name: str) -> str | None:
        return self.parameters.get(name)

    def fileno(self) -> int:
        if self.closed:
            raise psycopg2.InterfaceError("connection already closed")
        return self._reader

    def cursor(self) -> FakeCursor:
        return FakeCursor(self)

    def commit(self) -> None:
        self.status = TRANSACTION_STATUS_IDLE

    def rollback(self) -> None:
        if self.rollback_fails:
            raise psycopg2.OperationalError("server closed the connection unexpectedly")
        self.statements.append("rollback()")
        self.status = TRANSACTION_STATUS_IDLE

    def poll(self) -> int:
        if self.dead:
            self.closed = 2
            raise psycopg2.OperationalError("server closed the connection unexpectedly")
        os.read(self._reader, 100)
        return 0

    def notify(self) -> None:
        """Something to read, and nothing wrong."""
        os.write(self._writer, b"N")

    def kill(self) -> None:
        """As after pg_terminate_backend: the socket becomes readable."""
        if not self.dead and not self.closed:
            self.dead = True
            os.write(self._writer, b"E")

    def close(self) -> None:
        if self in self._server.open:
            self._server.open.discard(self)
            self.closed = 1
            self.drop()

    def drop(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class FakeServer:
    """Makes connections, or refuses."""

    def __init__(self) -> None:
        self.pids = itertools.count(100)
        self.open: set[FakeConnection] = set()
        self.down = False
        self.attempts: list[dict[str, Any]] = []
        self.most_open = 0

    def connect(self, **arguments: Any) -> FakeConnection:
        self.attempts.append(arguments)
        if self.down:
            raise psycopg2.OperationalError("connection refused")
        conn = FakeConnection(self)
        self.most_open = max(self.most_open, len(self.open))
        return conn

    def close(self) -> None:
        for conn in list(self.open):
            conn.close()


class Background:
    """Jobs that would run in threads: run when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def __call__(self, function: Callable[..., object], *args: Any) -> None:
        self.jobs.append((function, args))

    def run(self) -> None:
        while self.jobs:
            function, args = self.jobs.pop(0)
            function(*args)


def make_pool(server: FakeServer, clock: FakeClock, cls: type[ConnectionPool] = ConnectionPool, **options: Any) -> Any:
    """A pool over the fake server. Without a housekeeper nothing runs beside the test, but for a *spawn* it names."""
    options.setdefault("housekeeper", False)
    return cls("host=fake", connect=server.connect, clock=clock, **options)
