"""A caller that waits for a connection, and the hand-over to it."""

from __future__ import annotations

import _thread
from enum import Enum
from typing import Any


class WaiterState(Enum):
    WAITING = "waiting"
    SERVED = "served"
    FAILED = "failed"
    GONE = "gone"


class Waiter:
    """One place in the queue. All but wait() and wake() is called with the pool's lock held."""

    __slots__ = ("_gate", "conn", "error", "owner", "since", "state")

    def __init__(self, owner: object, now: float) -> None:
        self.state = WaiterState.WAITING
        self.owner = owner
        self.since = now
        self.conn: Any = None
        self.error: Exception | None = None
        self._gate = _thread.allocate_lock()  # released once, by whoever decides
        self._gate.acquire()

    def offer(self, conn: Any) -> bool:
        """Hand *conn* over; False if the waiter has given up, and the connection is the caller's still.

        wake() is to follow, after the lock: a thread that wakes up while it is held would only queue up for it.
        """
        if not self._decide(WaiterState.SERVED):
            return False
        self.conn = conn
        return True

    def wake(self) -> None:
        self._gate.release()

    def fail(self, error: Exception) -> bool:
        """Send the waiter away with *error*; False if it has been decided already."""
        if not self._decide(WaiterState.FAILED):
            return False
        self.error = error
        self._gate.release()
        return True

    def give_up(self) -> bool:
        """Leave the queue; False if an answer came first, and has to be taken."""
        return self._decide(WaiterState.GONE)

    def wait(self, timeout: float) -> bool:
        """Sleep until decided; False if *timeout* seconds passed first. Called without the lock."""
        return self._gate.acquire(True, timeout) if timeout > 0 else self._gate.acquire(False)

    def _decide(self, state: WaiterState) -> bool:
        if self.state is not WaiterState.WAITING:
            return False
        self.state = state
        return True
