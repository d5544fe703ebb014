"""The circuit breaker: what the pool knows of a server that does not take connections."""

from __future__ import annotations

import random
from collections.abc import Callable

from mpool.driver.psycopg import went_unanswered

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
JITTER = 0.1


class Circuit:
    """Closed while connecting works. Each failure opens it until the time of the next try, further away each time.

    Guarded by the pool's lock.
    """

    def __init__(self, random: Callable[[], float] = random.random) -> None:
        self._random = random
        self.error: BaseException | None = None  # the last failure; None: closed
        self.failures = 0
        self.opened_at = 0.0
        self.next_try = 0.0
        self.reported = False  # reconnect_failed was called for this outage
        self._owes_try = False

    @property
    def is_open(self) -> bool:
        return self.error is not None

    @property
    def unanswered(self) -> bool:
        """Open, and not by a refusal of the server's own: nothing says that it lives."""
        return self.error is not None and went_unanswered(self.error)

    def allows(self, now: float) -> bool:
        """May a connection be tried now?"""
        return self.error is None or now >= self.next_try

    def give_up(self) -> None:
        """Nobody waits for the server any more; whoever asks next is worth a try, whatever the time."""
        self.reported = self._owes_try = True

    def take_owed_try(self) -> bool:
        owed, self._owes_try = self._owes_try, False
        return owed

    def failed(self, now: float, error: BaseException) -> None:
        if self.error is None:
            self.opened_at = now
        self.error = error
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0**self.failures)
        self.failures = min(self.failures + 1, 30)
        self.next_try = now + delay * (1.0 + JITTER * (2.0 * self._random() - 1.0))

    def succeeded(self) -> None:
        self.error = None
        self.failures = 0
        self.reported = self._owes_try = False

    def describe(self, now: float) -> str:
        return (
            f"{self.failures} failed tries in {now - self.opened_at:.1f}s, "
            f"next try in {max(0.0, self.next_try - now):.2f}s"
        )
