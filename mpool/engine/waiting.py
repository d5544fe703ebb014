"""A caller that waits for a connection, and the hand-over to it."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from typing import Any


class Waiter:
    """One place in the queue: whoever takes it out, with the pool's lock held, decides what becomes of it.

    So a waiter that gives up swallows no connection: either it still finds itself in the queue, or it was served.
    """

    __slots__ = ("conn", "error", "gate", "owner", "since")

    def __init__(self, owner: object, now: float) -> None:
        self.owner = owner
        self.since = now
        self.conn: Any = None
        self.error: Callable[[], Exception] | None = None  # makes the error, in the thread that waited
        self.gate = _thread.allocate_lock()  # released once, by whoever decided
        self.gate.acquire()

    def fail(self, error: Callable[[], Exception]) -> None:
        """Send the waiter away with what *error* makes: under the lock no text is written."""
        self.error = error
        self.gate.release()
