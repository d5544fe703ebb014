"""What a pool does by itself from time to time: one step, for a time of the caller's choice."""

from __future__ import annotations

from typing import Any

from mpool.engine import leaks
from mpool.engine.entry import MARKED, Entry
from mpool.engine.lending import Lending
from mpool.engine.supply import NEVER, PoolState
from mpool.host.apache import log, log_exception
from mpool.host.books import errands
from mpool.host.housekeeper import housekeeper

REST = 30.0  # seconds between two steps of a pool that nobody uses
STEP = 0.5  # and of one that is in use


class Upkeep(Lending):
    """Ticks, expiry of idle connections, leak reports, refill and probes."""

    _quiet_steps = 0
    _stepped_at = float("-inf")

    def maintain(self, now: float) -> float:
        """Do what is due at *now*; the seconds until the next step."""
        self.cut_late(now)
        self._free_dropped()
        with errands, self._lock:
            entries = list(self._entries)
        used = self._note_uses(entries, now)
        self._expire_idle(now)
        self._look_for_leaks(entries, now)
        self._grow()
        self._give_up_reconnecting(now)
        return self._next_step(now, used)

    def _note_uses(self, entries: list[Entry], now: float) -> bool:
        """Note since when each connection is what it is, idle or on one lease; was any used since the last step?"""
        used = False
        for entry in entries:
            if entry.uses != entry.noted_uses:
                entry.noted_uses = entry.uses
                used = True
                if entry.noted_at < self._stepped_at:  # else a return has noted it since
                    entry.noted_at = now
            elif entry.state is self.leased:
                # The same lease as at the last step: from now on its duration is known, and its return looked at.
                entry.state = MARKED
                entry.since = entry.noted_at
        self._stepped_at = now
        return used

    def _expire_idle(self, now: float) -> None:
        """Close idle connections past their lifetime, of an old generation, or unused for max_idle above min_size."""
        for conn in self._idle.copy():  # coldest first
            entry: Entry = conn._entry
            unused = now - entry.noted_at >= self.config.max_idle and len(self._entries) > self.config.min_size
            ended = unused or now >= entry.expires or entry.generation != self._generation
            if ended and self._take_idle(conn):
                self._retire(entry, conn, grow=False)

    def _look_for_leaks(self, entries: list[Entry], now: float) -> None:
        for entry in entries:
            began = entry.since  # None: on no lease, or for less than a step
            if not self.config.leak_after or began is None or not entry.is_leased() or entry.reported == entry.uses:
                continue
            if now - began >= self.config.leak_after:
                entry.mark()  # its return is reported too
                with errands, self._lock:
                    self._counters.leaks_reported += 1
                # Where one lease leaks others may: from now on the stack of each checkout is known.
                self._stacks = True
                self.hold_tick()
                leaks.report_leak(self.name, entry, now - began)

    def _give_up_reconnecting(self, now: float) -> None:
        """After reconnect_timeout of outage, say so once; the next caller still tries."""
        with errands, self._lock:
            circuit = self._circuit
            due = circuit.is_open and not circuit.reported and now - circuit.opened_at >= self.config.reconnect_timeout
            if due:
                circuit.give_up()
        if due:
            log("err", f"{self.name}: gave up reconnecting after {self.config.reconnect_timeout:g}s")
            if self.config.reconnect_failed is not None:
                self._spawn(self._call_reconnect_failed)

    def _call_reconnect_failed(self) -> None:
        assert self.config.reconnect_failed is not None
        try:
            self.config.reconnect_failed(self)
        except Exception:
            log_exception(f"{self.name}: reconnect_failed raised")

    def _next_step(self, now: float, used: bool) -> float:
        """Replace the tick, or rest: a pool that nobody uses needs neither ticks nor a waking machine."""
        if self._state is not PoolState.OPEN:
            return REST
        with errands, self._lock:
            leased = bool(self._leased_locked())
            asking = bool(self._waiting) or any(entry.cut_at is not None for entry in self._entries)
        self._quiet_steps = 0 if used or leased or asking else self._quiet_steps + 1
        if self._quiet_steps > 2:
            self.hold_tick()
            wait = min(REST, self.config.max_idle / 4, self.config.max_lifetime / 4)
        else:
            if self._ticks():
                self._new_tick()
            wait = min(STEP, self.config.check_bypass / 2 or STEP)
        if self.config.leak_after and leased:
            wait = min(wait, self.config.leak_after / 4)
        if self._circuit.is_open and not self._circuit.reported and (self._openings or now < self._circuit.next_try):
            wait = min(wait, max(0.0, self._circuit.next_try - now))
        return wait

    def hold_tick(self) -> None:
        """Until the next step every checkout looks for itself."""
        self._stamp = None
        self._tick = NEVER

    def _ticks(self) -> bool:
        config = self.config
        return bool(config.housekeeper and config.check is None and config.check_after >= STEP and not self._stacks)

    def _passes(self, conn: Any, entry: Entry, deadline: float) -> bool:
        if self._quiet_steps > 2 or (self._stamp is None and self._ticks()):
            self._quiet_steps = 0
            self._watch()
            housekeeper.wake()
        return super()._passes(conn, entry, deadline)
