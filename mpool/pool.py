"""ConnectionPool: psycopg_pool's interface, over psycopg2."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import psycopg2

from mpool.config import Callback, Conninfo, Kwargs, PoolConfig
from mpool.driver.psycopg import hides_arguments, one_line
from mpool.engine.entry import Entry, execute_alone
from mpool.engine.lease import Lease
from mpool.engine.stats import Counters
from mpool.engine.supply import PoolState
from mpool.engine.upkeep import Upkeep
from mpool.errors import PoolTimeout
from mpool.host.apache import default_max_size
from mpool.host.books import errands
from mpool.host.bounded import start_thread
from mpool.host.housekeeper import housekeeper

_numbers = itertools.count(1)


class ConnectionPool(Upkeep):
    """Connections to one database, shared by the threads of one interpreter.

    The names, keywords and behaviour of psycopg_pool.ConnectionPool, with these differences: idle connections are
    reused newest first; liveness costs no round trip; an outage fails callers at once, with the driver's error as the
    cause. Further options are the fields of PoolConfig. The default of max_size is 10; inside Apache the number of
    threads of a child, at most 10, and 1 under prefork.
    """

    @hides_arguments
    def __init__(
        self,
        conninfo: Conninfo = "",
        *,
        kwargs: Kwargs | None = None,
        min_size: int = 0,
        max_size: int | None = None,
        open: bool = True,
        configure: Callback | None = None,
        check: Callback | None = None,
        reset: Callback | None = None,
        name: str | None = None,
        timeout: float = 5.0,
        connect: Callable[..., Any] = psycopg2.connect,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[..., None] = start_thread,
        **options: Any,
    ) -> None:
        config = PoolConfig(
            conninfo=conninfo,
            kwargs=kwargs,
            min_size=min_size,
            max_size=max(min_size, default_max_size()) if max_size is None else max_size,
            configure=configure,
            check=check,
            reset=reset,
            timeout=timeout,
            **options,
        )
        super().__init__(name or f"pool-{next(_numbers)}", config, connect=connect, clock=clock, spawn=spawn)
        if open:
            self.open()

    # -- opening and closing

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Begin to serve; with *wait*, not before min_size connections are there. PoolTimeout if that takes too long.

        Opening an open pool does nothing; a closed one stays closed (PoolClosed).
        """
        self.serve()
        if self.config.min_size:
            self._watch()
            self._grow()
        if wait:
            self.wait(timeout)

    def serve(self) -> None:
        """The first half of ``open``: from now on a lease is possible, and no connection has been opened yet."""
        with errands, self._lock:
            if self._state is PoolState.CLOSED:
                raise self._closed_error()
            self._state = PoolState.OPEN
            self._update_returns_locked()

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until min_size connections are there, at most *timeout* seconds: then PoolTimeout.

        The server may come up meanwhile; what it said last is the error's cause.
        """
        deadline = self._clock() + timeout
        pause = threading.Event()
        while True:
            with errands, self._lock:
                if self._state is not PoolState.OPEN:
                    raise self._closed_error()
                size, error = len(self._entries), self._circuit.error
            if size >= self.config.min_size:
                return
            left = deadline - self._clock()
            if left <= 0:
                reason = f": {one_line(error)}" if error is not None else ""
                raise PoolTimeout(
                    f"{self.name}: {size} of {self.config.min_size} connections within {timeout:g}s{reason}"
                ) from error
            self._grow()
            pause.wait(min(left, 0.02))

    def close(self, timeout: float = 5.0) -> None:
        """Close idle connections, send waiters away with PoolClosed; those on lease are closed when they come back."""
        if errands.put_off(self.close):
            return
        with errands, self._lock:
            if self._state is PoolState.CLOSED:
                return
            self._state = PoolState.CLOSED
            self._returns = None
            self._mark_leased_locked()
            while self._waiting:
                self._waiting.popleft().fail(self._closed_error)
        self.hold_tick()
        self.cut_late(float("inf"))
        housekeeper.forget(self)
        self._close_idle()

    @property
    def min_size(self) -> int:
        return self.config.min_size

    @property
    def max_size(self) -> int:
        return self.config.max_size

    @property
    def timeout(self) -> float:
        return self.config.timeout

    @property
    def max_waiting(self) -> int:
        return self.config.max_waiting

    @property
    def max_lifetime(self) -> float:
        return self.config.max_lifetime

    @property
    def max_idle(self) -> float:
        return self.config.max_idle

    @property
    def reconnect_timeout(self) -> float:
        return self.config.reconnect_timeout

    @property
    def num_workers(self) -> int:
        return self.config.num_workers

    @property
    def closed(self) -> bool:
        """Not open: closed, or not opened yet."""
        return self._state is not PoolState.OPEN

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- lending

    def connection(self, timeout: float | None = None, owner: object = None) -> Lease:
        """``with pool.connection() as conn:`` commits at the end of the block, rolls back on an exception.

        Blocks inside it, ``with conn.transaction():``, are savepoints.
        """
        return Lease(self, timeout, owner)

    # -- at run time

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Other bounds from now on; what is above the new max_size is closed, on return where it is on lease."""
        with errands, self._lock:
            self.config = self.config.changed(
                min_size=min_size, max_size=max(min_size, self.config.max_size) if max_size is None else max_size
            )
            self._mark_leased_locked()
        while len(self._entries) + len(self._openings) > self.config.max_size:
            try:
                conn = self._idle.popleft()
            except IndexError:
                break
            self._retire(conn._entry, conn, grow=False)
        self._grow()

    def check(self) -> None:
        """Ask every idle connection for an answer; the dead and the old are replaced, up to min_size."""
        if errands.put_off(self.check):
            return
        for conn in self._idle.copy():
            if not self._take_idle(conn):
                continue
            entry: Entry = conn._entry
            if entry.generation != self._generation or self._clock() >= entry.expires:
                self._retire(entry, conn, grow=False)
                continue
            if not self._answers(conn, entry, self.config.connect_timeout):
                self._found_dead(conn, entry)
                continue
            entry.verified = self._clock()
            with errands, self._lock:
                woken = self._place_locked(conn, entry, entry.verified)
            if woken is not None:
                woken.gate.release()
        self._grow()

    @staticmethod
    def check_connection(conn: Any) -> None:
        """For ``check=``: one round trip. Raises the driver's error if there is no answer."""
        execute_alone(conn)

    # -- figures

    def get_stats(self) -> dict[str, int]:
        """The figures of psycopg_pool, and leased, idle, opening, leases_dropped, leaks_reported."""
        with errands, self._lock:
            stats = self._stats_locked()
        return stats

    def pop_stats(self) -> dict[str, int]:
        """get_stats(), and the counters begin again at zero."""
        with errands, self._lock:
            stats = self._stats_locked()
            self._uses_gone -= self._leases_locked()
            self._counters = Counters()
            return stats

    def _leases_locked(self) -> int:
        return self._uses_gone + sum(entry.uses for entry in self._entries)

    def _stats_locked(self) -> dict[str, int]:
        leases = self._leases_locked()
        counted = dict(vars(self._counters))
        counted["requests_num"] = leases + counted["requests_errors"]
        counted["requests_wait_ms"] = round(counted["requests_wait_ms"])
        counted["usage_ms"] = round(counted["usage_ms"])
        return {
            "pool_min": self.config.min_size,
            "pool_max": self.config.max_size,
            "pool_size": len(self._entries),
            "pool_available": len(self._idle),
            "requests_waiting": len(self._waiting),
            "leased": len(self._leased_locked()),
            "idle": len(self._idle),
            "opening": len(self._openings),
            **counted,
        }

    def __repr__(self) -> str:
        with errands, self._lock:
            return f"<{type(self).__name__} {self.name!r} {self._state.value}: {self._figures()}>"
