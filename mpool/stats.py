"""The figures of a pool, under the names that psycopg_pool gives them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Counters:
    """What has happened since the start, or since pop_stats(). Guarded by the pool's lock."""

    requests_num: int = 0  # leases asked for (those of live connections are counted by their entries)
    requests_queued: int = 0  # that had to wait
    requests_wait_ms: float = 0.0
    requests_errors: int = 0
    usage_ms: int = 0  # time on lease, see below
    returns_bad: int = 0  # came back unusable
    connections_num: int = 0  # tries to connect
    connections_ms: int = 0
    connections_errors: int = 0
    connections_lost: int = 0  # found dead at checkout
    leases_dropped: int = 0  # garbage-collected while on lease
    leaks_reported: int = 0


class Usage:
    """Time on lease, estimated from the leases that were timed.

    A checkout that passes without a look at the clock is not timed: the first lease of each connection in every half
    second is, and stands for the others. Below that rate the sum is exact.
    """

    def __init__(self) -> None:
        self.timed = 0
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.timed += 1
        self.seconds += seconds

    def estimate_ms(self, leases: int) -> int:
        return round(1000.0 * self.seconds * max(leases, self.timed) / self.timed) if self.timed else 0
