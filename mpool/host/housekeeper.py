"""One daemon thread per interpreter: upkeep of the pools, and small jobs that have no thread of their own.

It starts when there is first something to do, in the process that has it to do, and ends when nothing is left.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

from mpool.host.apache import log_exception
from mpool.host.books import books, errands
from mpool.host.forking import at_fork

LONGEST_SLEEP = 30.0


class Maintained(Protocol):
    def maintain(self, now: float) -> float: ...


Job = Callable[[], object]


class Housekeeper:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.start_anew()

    def start_anew(self) -> None:
        """Forget everything: for the child of a fork, where the thread does not exist."""
        self._lock = books  # guards what follows
        self._pools: weakref.WeakSet[Maintained] = weakref.WeakSet()
        self._jobs: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopping = False
        # put() may be called from a finalizer, at any place.
        self._alarm: SimpleQueue[None] = SimpleQueue()

    def watch(self, pool: Maintained) -> None:
        """Maintain *pool* from now on, until it is forgotten or garbage-collected."""
        if errands.put_off(lambda: self.watch(pool)):
            return
        with errands, self._lock:
            if pool in self._pools:
                return
            self._pools.add(pool)
        self._rouse()

    def forget(self, pool: Maintained) -> None:
        if errands.put_off(lambda: self.forget(pool)):
            return
        with errands, self._lock:
            self._pools.discard(pool)
        self.wake()

    def run_later(self, delay: float, job: Job) -> None:
        """Call *job* once, in the thread, after *delay* seconds. What it raises is logged."""
        if errands.put_off(lambda: self.run_later(delay, job)):
            return
        with errands, self._lock:
            heapq.heappush(self._jobs, (self._clock() + delay, next(self._order), job))
        self._rouse()

    def wake(self) -> None:
        """Have the next step now. Safe in a finalizer."""
        if self._alarm.empty():  # one alarm is one step, however many called
            self._alarm.put(None)

    def stop(self, timeout: float = 1.0) -> None:
        """End the thread; it does not start again."""
        with errands, self._lock:
            self._stopping = True
            thread = self._thread
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def step(self) -> float | None:
        """Run the jobs that are due, maintain every pool; seconds until there is more to do, None: nothing is left."""
        now = self._clock()
        for job in self._take_due(now):
            try:
                job()
            except Exception:
                log_exception("a job of the housekeeper failed")
        now = self._clock()
        with errands, self._lock:
            pools = list(self._pools)
        waits = [LONGEST_SLEEP]
        for pool in pools:
            try:
                waits.append(pool.maintain(now))
            except Exception:
                log_exception("upkeep of a pool failed")
        with errands, self._lock:
            if self._jobs:
                waits.append(self._jobs[0][0] - now)
            elif not pools:
                return None
        return max(0.01, min(waits))

    def _take_due(self, now: float) -> list[Job]:
        due: list[Job] = []
        with errands, self._lock:
            while self._jobs and self._jobs[0][0] <= now:
                due.append(heapq.heappop(self._jobs)[2])
        return due

    def _rouse(self) -> None:
        with errands, self._lock:
            thread = None
            if self._thread is None and not self._stopping:
                thread = self._thread = threading.Thread(target=self._loop, name="mpool housekeeper", daemon=True)
        if thread is not None:
            thread.start()
        self.wake()

    def _loop(self) -> None:
        while not self._stopping:
            wait = self.step()
            if wait is None and self._ends():
                return
            try:
                self._alarm.get(timeout=wait)
            except Empty:
                continue

    def _ends(self) -> bool:
        """Nothing is left to do: leave, unless something came up meanwhile."""
        with errands, self._lock:
            if self._jobs or len(self._pools):
                return False
            self._thread = None
            return True


housekeeper = Housekeeper()
at_fork(housekeeper.start_anew)
