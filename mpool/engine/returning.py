"""The way back: a connection that comes off its lease is made as good as new, and given on; or it is closed.

See lending.py for what the fast path leans on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg2
from psycopg2.extensions import STATUS_READY, TRANSACTION_STATUS_ACTIVE, TRANSACTION_STATUS_IDLE

from mpool.driver import pooler
from mpool.driver.psycopg import Verdict, is_broken, last_words, one_line, verdict, was_idle_too_long
from mpool.engine import leaks
from mpool.engine.entry import IDLE, MARKED, RETURNING, Entry, EntryState, execute_alone
from mpool.engine.supply import PoolState, Supply
from mpool.errors import LeaseError, PoolError
from mpool.host.apache import log
from mpool.host.books import errands, inside


class Returning(Supply):
    def putconn(self, conn: Any) -> None:
        """Give a leased connection back; an open transaction is rolled back. LeaseError if it is not on lease here."""
        try:
            if not conn.get_transaction_status():  # TRANSACTION_STATUS_IDLE is 0
                entry = conn._entry
                # From here to the append no other thread runs: nobody queues up, or returns it too, in between.
                if entry.state is self._returns:
                    entry.state = IDLE
                    self._idle.append(conn)
                    return
                if (entry.state is self.timed or entry.state is self.leased) and not inside():
                    entry.state = RETURNING
                    if self._hand_over(conn, entry):
                        return
        except AttributeError:
            pass
        self._take_back(conn)

    def _hand_over(self, conn: Any, entry: Entry) -> bool:
        """Give a connection that needs no look to the first waiter; False if there is none, or it does need one."""
        try:
            with errands, self._lock:
                size = len(self._entries) + len(self._openings)
                if not self._waiting or entry.generation != self._generation or size > self.config.max_size:
                    entry.state = MARKED
                    return False
                now = self._clock()
                if entry.since is not None:
                    self._count_usage_locked(entry, now, entry.since)
                woken = self._place_locked(conn, entry, now)
        except BaseException:
            if entry.state is RETURNING:
                entry.state = MARKED  # interrupted: it is its holder's still
            raise
        if woken is not None:
            woken.gate.release()
        return True

    def _count_usage_locked(self, entry: Entry, now: float, since: float) -> None:
        held = now - since
        untimed = entry.uses - entry.timed_uses - 1
        if untimed:
            held += min(held * untimed, max(0.0, since - entry.timed_at))
        self._counters.usage_ms += 1000.0 * held
        entry.timed_uses, entry.timed_at = entry.uses, now
        entry.since = None

    def put_failed(self, conn: Any) -> None:
        """Give back a connection whose block has failed: that its transaction is rolled back needs no warning."""
        self._take_back(conn, warns=False)

    def _take_back(self, conn: Any, *, warns: bool = True) -> None:
        entry = self._claim(conn)
        if entry is not None and not errands.put_off(lambda: self._go_back(conn, entry, warns)):
            self._go_back(conn, entry, warns)

    def _go_back(self, conn: Any, entry: Entry, warns: bool) -> None:
        """The way back of a connection that is claimed: to a waiter, among the idle ones, or to its end."""
        try:
            self._look_and_place(conn, entry, warns)
        except BaseException:
            # An interrupt, in the middle of a ROLLBACK perhaps: nobody knows what state it is in.
            if entry.state is RETURNING:
                self._retire(entry, conn)
            raise

    def _look_and_place(self, conn: Any, entry: Entry, warns: bool) -> None:
        now = self._clock()
        if entry.reported == entry.uses and entry.since is not None:
            leaks.report_return(self.name, entry, now - entry.since)
        entry.stack = entry.owner = None
        entry.noted_at = now
        try:
            # A closed pool closes it, which ends its transaction too.
            kept = self._state is not PoolState.OPEN or self._settles(conn, entry, now, warns)
        except Exception as error:
            log("warning", f"{self.name}: backend {entry.pid} could not be reset, and is closed: {one_line(error)}")
            kept = False
        woken = None
        with errands, self._lock:
            if entry.since is not None:
                self._count_usage_locked(entry, now, entry.since)
            if not kept:
                self._counters.returns_bad += 1
            elif self._is_worn(entry, now) or self._state is not PoolState.OPEN:
                kept = False
            else:
                woken = self._place_locked(conn, entry, now)
        if woken is not None:
            woken.gate.release()
        if not kept:
            self._retire(entry, conn)

    def _claim(self, conn: Any) -> Entry | None:
        """Take the connection off its lease, or say what is wrong; None: it is the parent process's."""
        entry = getattr(conn, "_entry", None)
        if not isinstance(entry, Entry) or entry.pool is not self:
            whose = f"it belongs to {entry.pool.name!r}" if isinstance(entry, Entry) else "it is no pool's"
            raise LeaseError(f"{self.name}: this connection was not leased here: {whose}")
        if entry.state is EntryState.INHERITED:
            return None
        if not entry.is_leased():
            raise LeaseError(
                f"{self.name}: this connection (backend {entry.pid}) is not on lease: it is {entry.state.value}"
            )
        entry.state = RETURNING
        return entry

    def _settles(self, conn: Any, entry: Entry, now: float, warns: bool) -> bool:
        """Make a returned connection as good as new; False if it cannot be kept, and raises what the reset raised."""
        if conn.closed:
            if is_broken(conn):
                self._note_broken(conn, entry)
            if conn.status != STATUS_READY:
                entry.undone = entry.uses
            return False
        config = self.config
        status = conn.get_transaction_status()
        is_open = status != TRANSACTION_STATUS_IDLE
        if status == TRANSACTION_STATUS_ACTIVE:
            log("warning", f"{self.name}: backend {entry.pid} was returned in the middle of a statement: closed")
            return False
        if is_open:
            entry.undone = entry.uses
        if is_open and warns:
            self._warn_of_open_transaction(entry)
        if not (is_open or entry.touched or config.reset or config.reset_session):
            return True
        with self._asking(entry, now + config.connect_timeout):
            return self._resets(conn, entry)

    def _resets(self, conn: Any, entry: Entry) -> bool:
        if conn.get_transaction_status():
            if not entry.end_transaction(conn):
                return False
            if entry.turned_read_only(conn):
                self._lose_generation(entry, "the server became read-only")
        if entry.touched:
            entry.restore_session(conn)
        if self.config.reset is not None:
            self.config.reset(conn)
            if conn.closed or conn.get_transaction_status():
                log("warning", f"{self.name}: the reset callback left backend {entry.pid} in a transaction: closed")
                return False
        if self.config.reset_session:
            execute_alone(conn, "RESET ALL; RESET SESSION AUTHORIZATION")
        return True

    def _note_broken(self, conn: Any, entry: Entry) -> None:
        """The server, or PgBouncer, ended the session: say why, and what that means for the others."""
        words = last_words(conn)
        if was_idle_too_long(words):
            log("warning", f"{self.name}: backend {entry.pid}: {words}")
            return
        if pooler.was_full(words):
            log("warning", f"{self.name}: PgBouncer had no server connection free in time: {words}")
            return
        self._lose_generation(entry, f"the server closed the connection{words and f' ({words})'}")

    @contextlib.contextmanager
    def _asking(self, entry: Entry, until: float) -> Iterator[None]:
        """While the server is asked something in the caller's thread: cut_late() ends it after *until*."""
        entry.cut_at = until
        try:
            yield
        finally:
            with errands, self._lock:
                was_cut, entry.cut_at = entry.cut_at is None, None
        if was_cut:
            raise PoolError(f"{self.name}: backend {entry.pid} did not answer in time")

    def cut_late(self, now: float) -> None:
        """End what gets no answer: on a silent network the driver would wait for ever."""
        with errands, self._lock:
            late = [entry for entry in self._entries if entry.cut_at is not None and now >= entry.cut_at]
            for entry in late:
                entry.cut_at = None  # so whoever asks does not keep it, even if the answer comes now
        for entry in late:
            conn = entry.ref()
            if conn is not None:
                entry.cut_off(conn)

    def _is_worn(self, entry: Entry, now: float) -> bool:
        """Nothing is wrong with it, but it has served its time, or is one too many since a resize()."""
        if len(self._entries) + len(self._openings) > self.config.max_size:
            return True
        if not self.keeps_idle or entry.generation != self._generation or now >= entry.expires:
            return True
        return bool(self.config.max_uses) and entry.uses >= self.config.max_uses

    def _warn_of_open_transaction(self, entry: Entry) -> None:
        # Once a pool: in a site where pages never commit, every return is one.
        level, self._warned = ("debug" if self._warned else "warning"), True
        log(level, f"{self.name}: backend {entry.pid} was returned in a transaction: rolled back")

    def note_error(self, conn: Any, error: BaseException) -> None:
        """Judge an error that left a block: a server that is gone, or became read-only, takes its generation along."""
        entry = conn._entry
        if entry is None or not isinstance(error, psycopg2.Error):
            return
        meaning = verdict(error)
        if is_broken(conn):  # what that means for the others is found at its return
            if words := last_words(conn):
                error.add_note(words)
        elif meaning is Verdict.GONE:
            self._lose_generation(entry, Verdict.GONE.value)
        elif meaning is Verdict.READ_ONLY and entry.turned_read_only(conn):
            self._lose_generation(entry, Verdict.READ_ONLY.value)

    def _free_dropped(self) -> None:
        """Free the slots of connections that were garbage-collected; the driver has closed them by then.

        The note was made before the other finalizers of that collection, and one of them may have returned it.
        """
        for _ in range(len(self._dropped)):
            try:
                entry = self._dropped.popleft()
            except IndexError:
                return
            if not entry.is_gone():
                if entry.state is not IDLE and entry.state is not EntryState.RETIRED:
                    self._dropped.append(entry)  # look again
                continue
            if entry not in self._entries:
                continue
            with errands, self._lock:
                self._counters.leases_dropped += 1
            self._retire(entry, None)
            leaks.report_dropped(self.name, entry)
