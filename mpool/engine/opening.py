"""How a pool comes by a new connection: conninfo, application_name, the user's factory and configure callback."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from mpool.config import Conninfo, Kwargs, PoolConfig, parse_conninfo
from mpool.driver import pooler
from mpool.driver.psycopg import without_traceback
from mpool.engine.entry import connection_class
from mpool.errors import PoolError
from mpool.host.apache import interpreter_name, log

APPLICATION_NAME_BYTES = 63  # the server cuts what is longer
# What TCP by itself takes hours for: a statement on a network that has gone silent fails after some 30 s, an idle
# connection there is found dead within a minute. libpq ignores these on a Unix socket.
NETWORK_PATIENCE = {
    "tcp_user_timeout": 30_000,  # ms that what was sent may go unacknowledged
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


class Opening:
    """One connection on its way; when it began tells how long a caller has waited for the server."""

    __slots__ = ("__weakref__", "generation", "started")

    def __init__(self, started: float, generation: int) -> None:
        self.started = started
        self.generation = generation


class Connector:
    """Opens connections. Its repr, its errors and its frames' local variables show no part of the conninfo."""

    def __init__(self, name: str, config: PoolConfig, connect: Callable[..., Any] = psycopg2.connect) -> None:
        self._name = name
        self._conninfo: Conninfo = config.conninfo
        self._kwargs: Kwargs | None = config.kwargs
        self._configure = config.configure
        self._connect_timeout = config.connect_timeout
        self._pooler = config.pooler
        self._reset_session = config.reset_session
        self._pooled = False  # a PgBouncer was noticed
        self._gives_options = False
        self._remarked = False
        self._connect = connect
        if config.kwargs is not None and not callable(config.kwargs):
            connection_class(config.kwargs.get("connection_factory"))  # fails here, not at the first request

    def open(self) -> Any:
        """A connection, configured and in no transaction. Raises what the driver or a callable of the user raised."""
        try:
            conn = self._connect(**self._arguments())
        except Exception as error:  # a ValueError of the driver's has its frames, too
            raise without_traceback(error) from None
        try:
            self._pooled = self._pooled or pooler.stands_before(conn, self._pooler)
            if self._pooled:
                self._note_pooler(conn)
            if self._configure is not None:
                self._configure(conn)
                status = conn.get_transaction_status()
                if status != TRANSACTION_STATUS_IDLE:
                    raise PoolError(f"{self._name}: configure left the connection in transaction status {status}")
        except BaseException:
            conn.close()
            raise
        return conn

    def _note_pooler(self, conn: Any) -> None:
        conn._pooled = True
        if self._reset_session:
            pooler.refuse_reset_session(self._name)
        if self._gives_options and not self._remarked:
            self._remarked = True
            log("warning", f"{self._name}: {pooler.OPTIONS_REMARK}")

    def _arguments(self) -> dict[str, Any]:
        conninfo = self._conninfo() if callable(self._conninfo) else self._conninfo
        kwargs = dict((self._kwargs() if callable(self._kwargs) else self._kwargs) or {})
        given = parse_conninfo(conninfo) | kwargs
        self._gives_options = bool(given.get("options") or os.environ.get("PGOPTIONS"))
        kwargs["connection_factory"] = connection_class(kwargs.get("connection_factory"))
        own = given.get("application_name") or os.environ.get("PGAPPNAME", "")
        kwargs["application_name"] = application_name(self._name, own)
        if "service" in given or "PGSERVICE" in os.environ:
            return {"dsn": conninfo, **kwargs}  # the service file may have its own, and arguments come before it
        if "connect_timeout" not in given and "PGCONNECT_TIMEOUT" not in os.environ:
            kwargs["connect_timeout"] = max(1, round(self._connect_timeout))
        for option, value in NETWORK_PATIENCE.items():
            if option not in given:
                kwargs[option] = value
        return {"dsn": conninfo, **kwargs}


def application_name(pool: str, own: str = "") -> str:
    """`mpool/PID/INTERPRETER/POOL`, and after a space the application_name that the user asked for, in 63 bytes."""
    name = f"mpool/{os.getpid()}/{interpreter_name()}/{pool}" + (f" {own}" if own else "")
    return name.encode("ascii", "replace")[:APPLICATION_NAME_BYTES].decode("ascii")
