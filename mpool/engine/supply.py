"""Where a pool's connections come from and where they go: growth, hand-over to waiters, loss, outage.

What is counted is looked at: the size is the number of entries, nothing else keeps it. A connection is in exactly one
place: in `_idle`, with a caller, or on its way between the two in somebody's local variable.
"""

from __future__ import annotations

import random
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_ACTIVE

from mpool.config import PoolConfig
from mpool.driver.psycopg import close_quietly, one_line
from mpool.engine.circuit import Circuit
from mpool.engine.entry import IDLE, Entry, EntryState, Leased, all_hung_up
from mpool.engine.opening import Connector, Opening
from mpool.engine.stats import Counters
from mpool.engine.waiting import Waiter
from mpool.errors import PoolClosed, PoolUnavailable
from mpool.host.apache import log
from mpool.host.books import books, errands
from mpool.host.bounded import start_thread
from mpool.host.forking import at_fork
from mpool.host.housekeeper import housekeeper

NEVER = object()  # a tick that no entry carries
GENERATION_PAUSE = 1.0  # seconds between two losses of a whole generation
LIFETIME_JITTER = 0.05

pools_of_process: weakref.WeakSet[Supply] = weakref.WeakSet()


class PoolState(Enum):
    NEW = "not open yet"
    OPEN = "open"
    CLOSED = "closed"


class Supply:
    """The lower half of a pool. See lending.py for what a tick is."""

    keeps_idle = True  # a connection that comes back may be lent again

    def __init__(
        self,
        name: str,
        config: PoolConfig,
        *,
        connect: Callable[..., Any] = psycopg2.connect,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[..., None] = start_thread,
    ) -> None:
        self.name = name
        self.config = config
        self._connector = Connector(name, config, connect)
        self._clock = clock
        # Without a housekeeper there are no threads at all: what would go to one is done by the caller.
        self._spawn = spawn if config.housekeeper else _run_here
        self._start_empty()
        self._state = PoolState.NEW
        self._update_returns_locked()
        pools_of_process.add(self)

    def _start_empty(self) -> None:
        # Guards what follows, but not _idle and the state of a leased entry.
        self._lock = books
        self._entries: set[Entry] = set()  # every live connection's
        self._openings: weakref.WeakSet[Opening] = weakref.WeakSet()  # one whose opener was interrupted is forgotten
        self._waiting: deque[Waiter] = deque()  # first come, first served
        self._circuit = Circuit()
        self._counters = Counters()
        self._generation = 0
        self._generation_dropped = float("-inf")
        self._uses_gone = 0  # leases of connections that are no more, less those that pop_stats() has told of
        self._idle: deque[Any] = deque()  # newest last; the cold end can reach max_idle
        self._dropped: deque[Entry] = deque()  # noted by finalizers: garbage-collected, unless one of those returned it
        self.leased = Leased()  # on the fast path: nobody knows since when
        self.timed = Leased()  # handed over
        # What the two paths make of a connection, see lending.py: one of these, or MARKED.
        self._lends: EntryState | Leased = self.leased
        self._hands: EntryState | Leased = self.timed
        # The state of those that may become idle without a look at who waits; None: somebody does, or the pool is shut.
        self._returns: Leased | None = self.leased
        self._tick: object = NEVER
        self._distrusted_at = float("-inf")
        self._stamp: object = None  # what a verified entry is stamped with: the tick, or nothing
        self._warned = False

    # -- looking

    def _leased_locked(self) -> list[Entry]:
        return [entry for entry in self._entries if entry.is_leased()]

    def _figures(self) -> str:
        return (
            f"leased={len(self._leased_locked())}, idle={len(self._idle)}, opening={len(self._openings)}, "
            f"waiting={len(self._waiting)}, max_size={self.config.max_size}"
        )

    # -- growth

    def _wanted_locked(self, now: float) -> int:
        """How many connections to begin opening now.

        For waiters one at a time: most of them are served by what comes back meanwhile, and a spike opens no more
        connections than it needs. To min_size, num_workers at a time. While the circuit is open one, as a probe.
        """
        if self._state is not PoolState.OPEN or not self._may_try_locked(now):
            return 0
        opening = len(self._openings)
        if opening and self._circuit.is_open:
            return 0
        size = len(self._entries) + opening
        fill = min(self.config.min_size - size, self.config.num_workers - opening)
        demand = 1 if self._waiting and not opening and size < self.config.max_size else 0
        wanted = max(fill, demand, 0)
        return min(wanted, 1) if self._circuit.is_open else wanted

    def _may_try_locked(self, now: float) -> bool:
        if self._circuit.allows(now):
            return True
        return bool(self._waiting) and not self._openings and self._circuit.take_owed_try()

    def _begin_locked(self, now: float) -> list[Opening]:
        begun = [Opening(now, self._generation) for _ in range(self._wanted_locked(now))]
        self._openings.update(begun)
        return begun

    def _grow(self) -> None:
        """Open what is wanted, in the background."""
        with errands, self._lock:
            begun = self._begin_locked(self._clock())
        self._open_all(begun)

    def _open_all(self, begun: Iterable[Opening]) -> None:
        left = list(begun)
        try:
            while left:
                self._watch()
                self._spawn(self._open_connections, left[0])
                del left[0]
        except BaseException:
            self._openings.difference_update(left)  # interrupted: who kept the error would keep them, too
            raise

    def _open_connections(self, opening: Opening | None) -> None:
        """Open one connection after another, for as long as they are wanted."""
        while opening is not None:
            try:
                conn = self._connector.open()
                entry = self._entry_of(conn)
            except BaseException as error:
                if not isinstance(error, Exception) and not self.config.housekeeper:
                    self._openings.discard(opening)
                    raise  # an interrupt of the caller, who opens for himself
                opening = self._opening_failed(opening, error)
            else:
                try:
                    opening = self._opening_succeeded(opening, conn, entry)
                except BaseException:
                    if entry.state is EntryState.RETURNING:  # interrupted before it was anybody's
                        self._retire(entry, conn, grow=False)
                    raise

    def _entry_of(self, conn: Any) -> Entry:
        now = self._clock()
        expires = now + self.config.max_lifetime * (1.0 - LIFETIME_JITTER * random.random())
        entry = Entry(self, conn, now=now, expires=expires, generation=self._generation)
        conn._entry = entry
        return entry

    def _opening_succeeded(self, opening: Opening, conn: Any, entry: Entry) -> Opening | None:
        with errands, self._lock:
            now = self._clock()
            self._note_opening_locked(opening, now)
            # Begun before a drain(): it may have come by with old credentials, or to an old server.
            stale = opening.generation != self._generation
            kept = not stale and self._state is PoolState.OPEN and len(self._entries) < self.config.max_size
            recovered = self._circuit.is_open
            woken = None
            self._circuit.succeeded()
            if kept:
                self._entries.add(entry)
                woken = self._place_locked(conn, entry, now)
            begun = self._begin_locked(now)
        if woken is not None:
            woken.gate.release()
        if not kept:
            entry.state = EntryState.RETIRED
            conn.close()
        if recovered:
            log("notice", f"{self.name}: the server takes connections again")
        self._open_all(begun[1:])
        return begun[0] if begun else None

    def _opening_failed(self, opening: Opening, error: BaseException) -> Opening | None:
        hung_up = bool(self._waiting) and self._all_hung_up()
        with errands, self._lock:
            now = self._clock()
            self._note_opening_locked(opening, now)
            self._counters.connections_errors += 1
            first = not self._circuit.is_open
            self._circuit.failed(now, error)
            self._fail_waiters_locked(now, hung_up)
        if first:
            log("err", f"{self.name}: connecting failed: {one_line(error)}")
        return None

    def _note_opening_locked(self, opening: Opening, now: float) -> None:
        self._openings.discard(opening)
        self._counters.connections_num += 1
        self._counters.connections_ms += round(1000.0 * (now - opening.started))

    def _all_hung_up(self) -> bool:
        """Has every connection lost its server? Looks at sockets: never under the lock."""
        with errands, self._lock:
            entries = list(self._entries)
        return all_hung_up(entry.ref() for entry in entries)

    def _is_hopeless_locked(self, hung_up: bool) -> bool:
        """Connecting fails, and no connection can be expected back: waiting has no sense.

        One that is out on lease proves nothing where no server answers: its own may be as gone, and its holder not have
        noticed yet. Where a server answers and refuses, its connections do come back, but for those it has hung up.
        """
        circuit = self._circuit
        return circuit.is_open and (circuit.unanswered or hung_up)

    def _fail_waiters_locked(self, now: float, hung_up: bool) -> None:
        if not self._waiting or not self._is_hopeless_locked(hung_up):
            return
        while self._waiting:
            self._waiting.popleft().fail(self._unavailable_locked(now))
            self._counters.requests_errors += 1
        self._update_returns_locked()

    def _unavailable_locked(self, now: float) -> Callable[[], PoolUnavailable]:
        cause, state, figures = self._circuit.error, self._circuit.describe(now), self._figures()

        def unavailable() -> PoolUnavailable:
            error = PoolUnavailable(f"{self.name}: no connection to the server: {one_line(cause)} ({state}; {figures})")
            error.__cause__ = cause
            return error

        return unavailable

    # -- hand-over

    def _place_locked(self, conn: Any, entry: Entry, now: float) -> Waiter | None:
        """A clean connection goes to the first waiter, whose gate is to be opened, or to the idle ones.

        Opened after the lock: a thread that wakes up while it is held would only queue up for it.
        """
        if self._waiting:
            waiter = self._waiting.popleft()
            waiter.conn = conn
            entry.state = self._hands
            entry.uses += 1
            entry.owner = waiter.owner
            entry.since = now
            self._counters.requests_wait_ms += 1000.0 * (now - waiter.since)
            if not self._waiting:
                self._update_returns_locked()
            return waiter
        entry.state = IDLE
        self._idle.append(conn)
        self._update_returns_locked()
        return None

    def _serve_locked(self) -> list[Waiter]:
        """Give idle connections to waiters: a return and the queueing may have crossed."""
        served = []
        while self._waiting and self._idle:
            try:
                conn = self._idle.pop()
            except IndexError:
                break
            waiter = self._place_locked(conn, conn._entry, self._clock())
            if waiter is not None:
                served.append(waiter)
        return served

    def _update_returns_locked(self) -> None:
        self._returns = None if self._waiting or self._state is not PoolState.OPEN else self.leased

    # -- loss

    def _retire(self, entry: Entry, conn: Any, *, grow: bool = True) -> None:
        """Let a connection go: its socket first, its slot after, so that the server never sees one too many."""
        entry.state = EntryState.RETIRED
        try:
            if conn is not None:
                if conn.get_transaction_status() == TRANSACTION_STATUS_ACTIVE:
                    entry.cut_off(conn)  # another thread's statement may still run: close() would wait for its end
                close_quietly(conn)
        finally:
            with errands, self._lock:
                self._forget_locked(entry)
        if grow:
            self._after_loss()

    def _forget_locked(self, entry: Entry) -> None:
        if entry in self._entries:
            self._entries.discard(entry)
            self._uses_gone += entry.uses
        entry.state = EntryState.RETIRED

    def _after_loss(self) -> None:
        """Open a replacement where one is wanted; where none can be had, tell those who wait."""
        hung_up = self._circuit.is_open and bool(self._waiting) and self._all_hung_up()
        with errands, self._lock:
            now = self._clock()
            begun = self._begin_locked(now)
            if not self._openings:
                self._fail_waiters_locked(now, hung_up)
        self._open_all(begun)

    def _take_idle(self, conn: Any) -> bool:
        """Take one connection out of the idle ones; False if somebody else has it by now."""
        try:
            self._idle.remove(conn)
        except (ValueError, IndexError):
            return False
        return True

    def _distrust(self) -> None:
        """Every connection is to be looked at before it is lent again."""
        self._distrusted_at = self._clock()
        if self._stamp is not None:
            self._new_tick()

    def _new_tick(self) -> None:
        """From now on a connection is lent unchecked if it is found alive from now on."""
        stamp = object()
        self._tick = stamp if self.config.check_bypass else NEVER
        self._stamp = stamp

    def _lose_generation(self, entry: Entry, why: str) -> None:
        """A server went away under *entry*: drain what was opened along with it, at most once in a while."""
        self._distrust()
        with errands, self._lock:
            now = self._clock()
            if entry.generation != self._generation or now - self._generation_dropped < GENERATION_PAUSE:
                return
            self._generation_dropped = now
        log("warning", f"{self.name}: backend {entry.pid}: {why}; its whole generation is replaced")
        self.drain()

    def drain(self) -> None:
        """Replace every connection: the idle ones now, those on lease when they come back."""
        if errands.put_off(self.drain):
            return
        with errands, self._lock:
            self._generation += 1
            self._mark_leased_locked()
        self._distrust()
        self._close_idle()
        self._after_loss()

    def _close_idle(self) -> None:
        while self._idle:
            try:
                conn = self._idle.pop()
            except IndexError:
                return  # a checkout, which takes no lock, was quicker
            self._retire(conn._entry, conn, grow=False)

    def _mark_leased_locked(self) -> None:
        """Have every connection that is on lease looked at when it comes back."""
        for entry in self._entries:
            entry.mark()

    # -- garbage-collected leases

    def note_dropped(self, entry: Entry) -> None:
        """Called by a finalizer, wherever it may run: only note.

        Whatever state it was in: an interrupt can come between two steps of a lease or a return.
        """
        if entry in self._entries:
            self._dropped.append(entry)
            housekeeper.wake()

    # -- the housekeeper

    def _watch(self) -> None:
        if self.config.housekeeper:
            housekeeper.watch(self)

    def maintain(self, now: float) -> float:
        """One step of upkeep; the seconds until the next. See upkeep.py."""
        raise NotImplementedError

    def putconn(self, conn: Any) -> None:
        """Give a leased connection back. See returning.py."""
        raise NotImplementedError

    def after_fork_in_child(self) -> None:
        """Begin anew, empty. The parent's sockets are left alone: closing one would end the parent's session."""
        for entry in self._entries:
            entry.state = EntryState.INHERITED
        inherited.append(list(self._idle))
        state = self._state
        self._start_empty()
        self._state = state
        self._update_returns_locked()

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(f"{self.name}: the pool is {self._state.value}")


inherited: list[list[Any]] = []  # connections of the parent process, never to be touched here


def after_fork_in_child() -> None:
    for pool in list(pools_of_process):
        pool.after_fork_in_child()


def _run_here(function: Callable[..., object], *args: Any) -> None:
    function(*args)


at_fork(after_fork_in_child)
