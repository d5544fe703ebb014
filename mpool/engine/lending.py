"""The lease: a connection that is idle, or that somebody hands over, found fit to be lent.

The fast path takes no lock and reads no clock. It leans on the interpreter lock: another thread can run only after a
call or a jump back. So `deque.pop` and `deque.append` are atomic, and so is a look at an entry's state followed by its
change and one call, the append.

A *tick* is a token that the housekeeper replaces every `check_bypass` seconds. An entry found alive is stamped with
the tick of that moment, and as long as the stamp is the pool's tick it is lent again unchecked. Whoever learns that a
server may be gone replaces the tick, and every connection is looked at before it is lent again. With `check_bypass=0`
the stamp is good for the rest (generation, lifetime) and the socket is polled every time. Without a housekeeper there
are no stamps, and every checkout reads the clock instead.
"""

from __future__ import annotations

import threading
import traceback
from typing import Any, NoReturn

from mpool.driver.psycopg import one_line
from mpool.engine import leaks
from mpool.engine.entry import MARKED, UNSTAMPED, Entry, execute_alone
from mpool.engine.opening import Opening
from mpool.engine.returning import Returning
from mpool.engine.supply import PoolState
from mpool.engine.waiting import Waiter
from mpool.errors import PoolTimeout, TooManyRequests
from mpool.host.apache import log
from mpool.host.books import errands, inside
from mpool.host.bounded import bounded

LONGEST_WAIT = 1.0  # seconds in one piece
NAP = 0.1  # and where there is no housekeeper, and the callers themselves look for what is late or lost
CHECK_PAUSE = 0.01  # seconds before a connection is tried again after a failed check callback; doubles


class Lending(Returning):
    def _start_empty(self) -> None:
        super()._start_empty()
        config = self.config
        self._stacks = config.leak_stacks
        self._nap = LONGEST_WAIT if config.housekeeper else NAP
        looked_at = config.reset or config.reset_session or config.max_uses or not self.keeps_idle
        if looked_at or not config.housekeeper:
            self._lends = self._hands = MARKED

    def getconn(self, timeout: float | None = None, owner: object = None) -> Any:
        """Lease a connection, waiting up to *timeout* seconds (the pool's, if None) behind those who came before.

        Give it back with putconn(). *owner* says who leases, for reports and to find a nested lease: a small object
        that has a readable str() and is equal for the same request; the pool keeps it until the next lease.
        Raises PoolTimeout, PoolUnavailable, TooManyRequests or PoolClosed.
        """
        try:
            conn = self._idle.pop()
        except IndexError:
            return self._lease(None, timeout, owner)
        entry = conn._entry
        if entry.tick is not self._tick and (entry.tick is not self._stamp or entry.poller.poll(0)):
            return self._lease(conn, timeout, owner)
        entry.state = self._lends
        entry.uses += 1
        entry.owner = owner
        return conn

    def _lease(self, conn: Any, timeout: float | None, owner: object) -> Any:
        """Take connections until one passes: *conn*, already taken out of the idle ones, first."""
        if inside():
            self._refuse_inside(conn)
        started = self._clock()
        deadline = started + (self.config.timeout if timeout is None else timeout)
        pause = CHECK_PAUSE
        again = handed = False
        while True:
            if conn is None:
                conn, handed = self._take_or_wait(owner, started, deadline, again)
            entry: Entry = conn._entry
            if handed and (entry.tick is self._tick or (entry.tick is self._stamp and not entry.poller.poll(0))):
                return conn
            try:
                good = self._passes(conn, entry, deadline)
            except BaseException:
                self._retire(entry, conn)
                raise
            if good:
                break
            conn, again = None, True
            if entry.uses == handed:  # never lent before
                # A check that fails even what was just opened must not become a busy loop of connects.
                threading.Event().wait(min(pause, max(0.0, deadline - self._clock())))
                pause *= 2.0
        if not handed:
            entry.uses += 1
            entry.owner = owner
            entry.since = self._clock()
        if self._stacks:
            entry.stack = traceback.format_stack(limit=20)[:-1]
        # Its duration is known, so its return is looked at.
        entry.state = MARKED
        return conn

    def _refuse_inside(self, conn: Any) -> NoReturn:
        """A finalizer or signal handler that came in between cannot wait: its own thread would have to go on first."""
        if conn is not None:
            self._idle.append(conn)
        raise PoolTimeout(f"{self.name}: no connection for a finalizer or signal handler inside the pool's own code")

    def _take_or_wait(self, owner: object, started: float, deadline: float, again: bool) -> tuple[Any, bool]:
        """An idle connection, or one that was handed over: then True."""
        if self._dropped:
            self._free_dropped()
        waiter = Waiter(owner, started)
        hung_up = self._circuit.error is not None and self._all_hung_up()
        try:
            with errands, self._lock:
                if not self._waiting:
                    if self._state is not PoolState.OPEN:
                        raise self._closed_error()
                    try:
                        return self._idle.pop(), False
                    except IndexError:
                        pass
                self._join_locked(waiter, again)
                # Returned just before? From here on every return sees the queue.
                woken = self._serve_locked() if self._idle else ()
                begun = self._begin_locked(self._clock()) if len(self._entries) < self.config.max_size else ()
                if self._circuit.error is not None and not begun and self._is_hopeless_locked(hung_up):
                    self._send_away_locked(waiter)
            for served in woken:
                served.gate.release()
            if begun:
                self._open_all(begun)
            if not waiter.gate.acquire(True, max(0.0, min(deadline - self._clock(), self._nap))):
                self._wait_on(waiter, deadline)
        except BaseException:
            self._withdraw(waiter)
            raise
        if waiter.error is not None:
            raise waiter.error()
        return waiter.conn, True

    def _send_away_locked(self, waiter: Waiter) -> None:
        if self._leave_locked(waiter):  # else it has been served just now
            self._counters.requests_errors += 1
            waiter.fail(self._unavailable_locked(self._clock()))

    def _join_locked(self, waiter: Waiter, again: bool) -> None:
        """Queue up, ahead of those who came later: one whose connection failed the check keeps its place."""
        if not again and self.config.max_waiting and len(self._waiting) >= self.config.max_waiting:
            self._counters.requests_errors += 1
            raise TooManyRequests(
                f"{self.name}: {len(self._waiting)} callers are waiting already "
                f"(max_waiting={self.config.max_waiting}; {self._figures()})"
            )
        if again and self._waiting and waiter.since < self._waiting[0].since:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        self._counters.requests_queued += 1
        self._returns = None

    def _wait_on(self, waiter: Waiter, deadline: float) -> None:
        """After a sleep without a decision: see to the pool, and sleep again until *deadline*."""
        while waiter.conn is None and waiter.error is None:  # whoever decided may have been interrupted at the gate
            self._free_dropped()
            self.cut_late(self._clock())
            left = deadline - self._clock()
            if left > 0:
                if self._clock() - waiter.since >= LONGEST_WAIT:
                    leaks.look_in_garbage(self._clock())
                waiter.gate.acquire(True, min(left, self._nap))
                continue
            with errands, self._lock:
                if not self._leave_locked(waiter):
                    return  # decided in the last moment: take it
                self._counters.requests_errors += 1
                self._counters.requests_wait_ms += 1000.0 * (self._clock() - waiter.since)
                figures, leased, openings = self._figures(), self._leased_locked(), list(self._openings)
            raise self._timeout(waiter, figures, leased, openings)

    def _timeout(self, waiter: Waiter, figures: str, leased: list[Entry], openings: list[Opening]) -> PoolTimeout:
        """The error of a wait that has ended so; looks at other threads, and asks owners for their names."""
        now = self._clock()
        text = f"{self.name}: no connection within {now - waiter.since:.2f}s ({figures})"
        text += leaks.nested(leased, waiter.owner)
        text += leaks.oldest(leased, now)
        if openings:
            age = now - min(opening.started for opening in openings)
            text += f"; the server has not answered a connect for {age:.1f}s"
        cause = self._circuit.error
        error = PoolTimeout(text if cause is None else f"{text}; connecting fails: {one_line(cause)}")
        error.__cause__ = cause
        return error

    def _leave_locked(self, waiter: Waiter) -> bool:
        """Leave the queue; False if an answer came first, and has to be taken."""
        try:
            self._waiting.remove(waiter)
        except ValueError:
            return False
        self._update_returns_locked()
        return True

    def _withdraw(self, waiter: Waiter) -> None:
        """The waiting thread was interrupted: what it may have been given goes on to the next."""
        with errands, self._lock:
            self._leave_locked(waiter)
        if waiter.conn is not None:
            self.putconn(waiter.conn)

    # -- is it fit to be lent?

    def _passes(self, conn: Any, entry: Entry, deadline: float) -> bool:
        """Look at a connection that is nobody's; False: it is retired."""
        now = self._clock()
        tick = self._stamp
        config = self.config
        if entry.generation != self._generation or now >= entry.expires:
            self._retire(entry, conn)
            return False
        silence = now - entry.verified
        if tick is not None or silence >= config.check_bypass or entry.verified <= self._distrusted_at:
            if not entry.is_alive(conn):
                return self._found_dead(conn, entry)
            if silence >= config.check_after and not self._answers(conn, entry, deadline - now):
                return self._found_dead(conn, entry)
            if entry.turned_read_only(conn):
                self._retire(entry, conn)
                self._lose_generation(entry, "the server became read-only")
                return False
        if config.check is not None and not self._check_callback(conn, entry, deadline):
            return False
        entry.verified = now
        entry.tick = UNSTAMPED if tick is None else tick
        return True

    def _answers(self, conn: Any, entry: Entry, timeout: float) -> bool:
        """Ask the server for an answer."""
        if bounded(lambda: execute_alone(conn), timeout):
            return True
        entry.cut_off(conn)  # it may be under way still, and closing would wait for it
        return False

    def _found_dead(self, conn: Any, entry: Entry) -> bool:
        with errands, self._lock:
            self._counters.connections_lost += 1
        self._distrust()
        self._retire(entry, conn)
        return False

    def _check_callback(self, conn: Any, entry: Entry, deadline: float) -> bool:
        assert self.config.check is not None
        try:
            with self._asking(entry, deadline):
                self.config.check(conn)
                if entry.end_transaction(conn):
                    return True
        except Exception as error:
            log("info", f"{self.name}: backend {entry.pid} failed the check: {one_line(error)}")
        return self._found_dead(conn, entry)
