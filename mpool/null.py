"""NullConnectionPool: the same interface, and nothing kept idle."""

from __future__ import annotations

from typing import Any

from mpool.driver.psycopg import hides_arguments
from mpool.engine.supply import PoolState
from mpool.pool import ConnectionPool


class NullConnectionPool(ConnectionPool):
    """A connection per lease, at most max_size at once, waiters first come, first served.

    For a site behind a PgBouncer of its own, where keeping connections is PgBouncer's business.
    """

    keeps_idle = False

    @hides_arguments
    def __init__(self, *args: Any, min_size: int = 0, **options: Any) -> None:
        if min_size:
            raise ValueError("a NullConnectionPool keeps no connection: min_size must be 0")
        super().__init__(*args, **options)

    def _wanted_locked(self, now: float) -> int:
        # One for every waiter: there is nothing that could come back instead.
        if self._state is not PoolState.OPEN or not self._may_try_locked(now):
            return 0
        opening = len(self._openings)
        if self._circuit.is_open:
            return int(bool(self._waiting) and not opening)
        room = self.config.max_size - len(self._entries) - opening
        return max(0, min(len(self._waiting) - opening, room))
