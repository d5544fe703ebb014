"""One server connection: the class that callers hold, and the entry that the pool keeps of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import sys
import weakref
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, Protocol

import psycopg2
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
)
from psycopg2.extensions import connection as DriverConnection

from mpool.config import PoolConfig
from mpool.driver import pooler
from mpool.driver.psycopg import has_hung_up, reads_read_only
from mpool.driver.transactions import execute, rollback

_savepoints = itertools.count(1)
UNSTAMPED = object()  # a tick that is no pool's
MAX_POLLS = 100  # readable and no end in sight: not a connection to lend


class EntryState(Enum):
    """Where a connection is, besides on an unmarked lease. Only the pool moves it, and mark()."""

    IDLE = "idle"
    MARKED = "leased, to be looked at on its return"
    RETURNING = "returning"
    RETIRED = "retired"
    INHERITED = "inherited over a fork"  # the parent's: its socket is not ours to touch


IDLE = EntryState.IDLE
MARKED = EntryState.MARKED
RETURNING = EntryState.RETURNING


class Leased:
    """State of a lease whose return needs no look. Each pool has its own: who compares with it knows the pool, too."""

    value = "leased"


class _Lonely:
    """Has a `life` that nobody else refers to: what is counted here is what `Entry.is_gone` counts for a freed one."""

    life = object()

    def count(self) -> int:
        return sys.getrefcount(self.life)


_ALONE = _Lonely().count()


class Owner(Protocol):
    """The pool, as far as its connections know it."""

    name: str
    config: PoolConfig
    leased: Leased
    timed: Leased

    def putconn(self, conn: Any) -> None: ...
    def note_dropped(self, entry: Entry) -> None: ...


class Entry:
    """What the pool knows of one connection. Holds it weakly: a lease that is dropped must be noticed."""

    __slots__ = (
        "created",
        "cut_at",
        "expires",
        "generation",
        "life",
        "noted_at",
        "noted_uses",
        "owner",
        "pid",
        "poller",
        "pool",
        "read_only",
        "ref",
        "reported",
        "session",
        "since",
        "stack",
        "state",
        "tick",
        "timed_at",
        "timed_uses",
        "touched",
        "undone",
        "uses",
        "verified",
    )

    def __init__(self, pool: Owner, conn: Any, *, now: float, expires: float, generation: int) -> None:
        self.pool = pool
        self.state: EntryState | Leased = EntryState.RETURNING
        self.generation = generation
        self.created = self.verified = now
        self.noted_at = now  # when noted_uses was seen first: start of the idle time, or of the lease
        self.expires = expires
        self.tick: object = UNSTAMPED  # the pool's tick when it was last found alive
        self.uses = 0
        self.noted_uses = 0  # uses at the housekeeper's last look
        self.since: float | None = None  # start of the lease, where it is known
        self.timed_uses = 0  # uses up to the last lease that was timed
        self.timed_at = now  # and its end
        self.owner: object = None
        self.stack: list[str] | None = None  # of the checkout
        self.cut_at: float | None = None  # when the housekeeper ends what the pool asks the server meanwhile
        self.reported = 0  # uses of the lease that was reported as a leak
        self.touched = False  # a setter was used
        self.undone = 0  # uses of the last lease that came back with work, which was rolled back
        self.pid: int = conn.get_backend_pid()
        self.session = _session_of(conn)
        self.read_only = reads_read_only(conn)
        self.poller = select.poll()
        self.poller.register(conn.fileno(), select.POLLIN)
        self.ref = _Ref(conn, self)
        self.life = conn._life = object()

    def __repr__(self) -> str:
        return f"<Entry backend={self.pid} {self.state.value} uses={self.uses}>"

    def is_gone(self) -> bool:
        """Has the connection been freed? The weak reference is cleared before finalizers run that may keep it."""
        return sys.getrefcount(self.life) == _ALONE

    def is_leased(self) -> bool:
        return self.state is MARKED or self.state is self.pool.leased or self.state is self.pool.timed

    def mark(self) -> None:
        """Have it looked at when it comes back, if it is on lease."""
        if self.state is self.pool.leased or self.state is self.pool.timed:
            self.state = MARKED

    def is_alive(self, conn: Any) -> bool:
        """Without a round trip: a server that is gone, or has something to say about it, makes the socket readable.

        Reads what is there until the socket is quiet; a NOTIFY left over from an earlier lease ends here too.
        """
        if not self.poller.poll(0):
            return not conn.closed
        try:
            for _ in range(MAX_POLLS):
                conn.poll()
                if not self.poller.poll(0):
                    del conn.notifies[:]
                    return not conn.closed
        except psycopg2.Error:
            pass
        return False

    def cut_off(self, conn: Any) -> None:
        """End the session's socket under a statement that does not end; the thread that waits for it gets an error."""
        with contextlib.suppress(OSError, psycopg2.Error), socket.socket(fileno=os.dup(conn.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    def turned_read_only(self, conn: Any) -> bool:
        """It could write when it was opened, and cannot now: the primary is elsewhere.

        Nothing is known of one whose holder set readonly: under autocommit the driver makes that a session default.
        """
        return not self.read_only and not conn.readonly and reads_read_only(conn)

    def end_transaction(self, conn: Any) -> bool:
        """Roll back what is open; False if the connection cannot be kept. Raises psycopg2.Error where that fails."""
        status = conn.get_transaction_status()
        if status in (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR):
            rollback(conn)
            status = conn.get_transaction_status()
        return bool(status == TRANSACTION_STATUS_IDLE)

    def restore_session(self, conn: Any) -> None:
        """Put back what the connection's setters changed. Raises psycopg2.Error where that fails."""
        isolation_level, readonly, deferrable, autocommit, encoding, cursor_factory = self.session
        # autocommit last: while it is on, the driver sends the others to the server as session defaults.
        if conn.isolation_level != isolation_level:
            conn.isolation_level = isolation_level
        if conn.readonly != readonly:
            conn.readonly = readonly
        if conn.deferrable != deferrable:
            conn.deferrable = deferrable
        if conn.autocommit != autocommit:
            conn.autocommit = autocommit
        if conn.encoding != encoding:
            conn.set_client_encoding(encoding)
        conn.cursor_factory = cursor_factory
        self.touched = False


class _Ref(weakref.ref[Any]):
    """A weak reference that knows its entry, for the finalizer."""

    __slots__ = ("entry",)

    def __new__(cls, conn: Any, entry: Entry) -> _Ref:
        return super().__new__(cls, conn, _note_dropped)

    def __init__(self, conn: Any, entry: Entry) -> None:
        self.entry = entry


def _note_dropped(ref: weakref.ref[Any]) -> None:
    # May run anywhere, inside a region of the pool that holds its lock too: note it, and leave the work to others.
    assert isinstance(ref, _Ref)
    ref.entry.pool.note_dropped(ref.entry)


def _session_of(conn: Any) -> tuple[Any, ...]:
    return conn.isolation_level, conn.readonly, conn.deferrable, conn.autocommit, conn.encoding, conn.cursor_factory


def all_hung_up(conns: Iterable[Any]) -> bool:
    """True if every one of these connections has lost its server. Looks at the sockets, and reads nothing of them."""
    return all(conn is None or conn.closed or has_hung_up(conn) for conn in conns)


def execute_alone(conn: Any, sql: str = "SELECT 1") -> None:
    """Run *sql* in no transaction block. Raises psycopg2.Error."""
    autocommit = conn.autocommit
    conn.autocommit = True
    try:
        execute(conn, sql)
    finally:
        if not conn.closed and conn.autocommit != autocommit:
            conn.autocommit = autocommit


SENT_UNDER_AUTOCOMMIT = ("isolation_level", "readonly", "deferrable")


def _noting(name: str) -> property:
    """The driver's attribute *name*, with a note to the pool when it is set."""

    def get(self: PoolConnection) -> Any:
        return getattr(super(PoolConnection, self), name)

    def put(self: PoolConnection, value: Any) -> None:
        if name in SENT_UNDER_AUTOCOMMIT:
            self._keep_to_itself(self.autocommit, value)
        self._note()
        # super() finds the next class's descriptor for reading only.
        for cls in type(self).__mro__[type(self).__mro__.index(PoolConnection) + 1 :]:
            if name in cls.__dict__:
                cls.__dict__[name].__set__(self, value)
                return

    return property(get, put)


class PoolConnection(DriverConnection):
    """A psycopg2 connection that a pool made: it notes its setters, and nests transactions by savepoint."""

    __slots__ = ("_entry", "_life", "_pooled")
    _entry: Entry | None
    _life: object  # its entry has the only other reference
    _pooled: bool  # by a PgBouncer in transaction mode

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._entry = None  # first: a factory of the user's may use the setters in its own __init__
        self._pooled = False
        super().__init__(*args, **kwargs)

    autocommit = _noting("autocommit")
    isolation_level = _noting("isolation_level")
    readonly = _noting("readonly")
    deferrable = _noting("deferrable")
    cursor_factory = _noting("cursor_factory")

    def set_session(
        self, isolation_level: Any = None, readonly: Any = None, deferrable: Any = None, autocommit: Any = None
    ) -> None:
        ends_up = self.autocommit if autocommit is None else bool(autocommit)
        self._keep_to_itself(ends_up, isolation_level, readonly, deferrable)
        self._note()
        super().set_session(isolation_level, readonly, deferrable, autocommit)

    def set_isolation_level(self, level: int | None) -> None:
        # 0 is autocommit, and the driver sends what it has.
        self._keep_to_itself(level == 0, self.isolation_level, self.readonly, self.deferrable)
        self._note()
        super().set_isolation_level(level)

    def set_client_encoding(self, encoding: str) -> None:
        self._note()
        super().set_client_encoding(encoding)

    def reset(self) -> None:
        self._note()
        super().reset()

    def close(self) -> None:
        """Close it; its slot is free once it is given back. With the pool's ``close_returns`` this gives it back."""
        entry = self._entry
        if entry is not None:
            if entry.state is EntryState.INHERITED:
                return  # the parent's session would end
            if entry.pool.config.close_returns and entry.is_leased():
                entry.pool.putconn(self)
                return
        super().close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[PoolConnection]:
        """Commit at the end of the block, roll back on an exception; inside a transaction, by savepoint.

        The outermost block begins the transaction if none is open; where one is open already, the block becomes a
        savepoint of it, and a failure undoes the block alone.
        """
        status = self.get_transaction_status()
        if status == TRANSACTION_STATUS_INTRANS:
            save, keep, undo = (
                "SAVEPOINT {}",
                "RELEASE SAVEPOINT {}",
                "ROLLBACK TO SAVEPOINT {0}; RELEASE SAVEPOINT {0}",
            )
        elif status == TRANSACTION_STATUS_IDLE:
            # Under autocommit the driver's commit() does nothing, so the block speaks SQL there.
            save, keep, undo = ("BEGIN", "COMMIT", "ROLLBACK") if self.autocommit else ("", "", "")
        else:
            raise psycopg2.ProgrammingError("a transaction block cannot begin: the connection is failed or busy")
        name = f"mpool_{next(_savepoints)}"
        if save:
            execute(self, save.format(name))
        try:
            yield self
        except BaseException:
            if not self.closed:
                execute(self, undo.format(name)) if undo else self.rollback()
            raise
        execute(self, keep.format(name)) if keep else self.commit()

    def _keep_to_itself(self, autocommit: bool, *values: Any) -> None:
        """Refuse what the driver would send as session defaults, where the session is others' too."""
        if self._pooled and autocommit and any(v is not None and str(v).upper() != "DEFAULT" for v in values):
            pooler.refuse_session_defaults()

    def _note(self) -> None:
        entry = self._entry
        if entry is not None:
            entry.touched = True
            entry.mark()


def connection_class(base: type[Any] | None) -> type[Any]:
    """The class for a pool's connections: PoolConnection, over the user's own connection_factory if there is one."""
    if base is None or base is DriverConnection:
        return PoolConnection
    if not (isinstance(base, type) and issubclass(base, DriverConnection)):
        raise TypeError("connection_factory must be a subclass of psycopg2.extensions.connection")
    if issubclass(base, PoolConnection):
        return base
    return type(base.__name__, (PoolConnection, base), {"__slots__": ()})
