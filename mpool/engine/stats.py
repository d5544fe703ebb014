"""The figures of a pool, under the names that psycopg_pool gives them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Counters:
    """What has happened since the start, or since pop_stats(). Guarded by the pool's lock.

    `usage_ms` is the time on lease of what has been returned. The fast path reads no clock: a connection's first lease
    after each step of the housekeeper, every half second at most, is timed; those between two timed ones count as long
    as the later of the two, and together no longer than the time between. One that outlasts a step is timed from there.
    """

    requests_num: int = 0  # leases asked for (those of live connections are counted by their entries)
    requests_queued: int = 0  # that had to wait
    requests_wait_ms: float = 0.0
    requests_errors: int = 0
    usage_ms: float = 0.0  # time on lease
    returns_bad: int = 0  # came back unusable
    connections_num: int = 0  # tries to connect
    connections_ms: int = 0
    connections_errors: int = 0
    connections_lost: int = 0  # found dead at checkout
    leases_dropped: int = 0  # garbage-collected while on lease
    leaks_reported: int = 0
