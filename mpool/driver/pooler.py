"""What a PgBouncer between the pool and the server changes, in its transaction mode.

There a connection is a client of PgBouncer, and each of its transactions may run on another server connection. A pool
needs nothing of a session; what its users can ask for and not have is refused, in words that say what to do instead.
"""

from __future__ import annotations

from typing import Any

import psycopg2

from mpool.errors import PoolError

MODES = ("auto", "transaction", "session")
LARGEST_PID = 2**22  # of any process, on any Linux

OPTIONS_REMARK = (
    "behind PgBouncer, options= reaches the server only as far as PgBouncer tracks those settings, or not at all: give "
    "them to the role instead (ALTER ROLE ... SET)"
)


def stands_before(conn: Any, mode: str) -> bool:
    """Is *conn* a client of a PgBouncer in transaction mode, as *mode* has it, the option `pooler`?

    "auto" looks at the backend's process number: PgBouncer makes up one for each client, of 32 random bits. (Of a
    thousand made-up ones one could be a process's, or four with PgBouncer's peer_id: the next connection shows it.)
    """
    return mode == "transaction" or (mode == "auto" and not 0 < conn.get_backend_pid() <= LARGEST_PID)


def refuse_reset_session(pool: str) -> None:
    raise PoolError(
        f"{pool}: reset_session cannot work behind PgBouncer in transaction mode, where the reset may reach another "
        "server connection than the SET did: use SET LOCAL and SET LOCAL ROLE, and turn it off (if PgBouncer is in "
        "session mode, say so: mpool.pooler session)"
    )


def refuse_session_defaults() -> None:
    raise psycopg2.NotSupportedError(
        "isolation_level, readonly and deferrable under autocommit become defaults of a server session, which behind "
        "PgBouncer in transaction mode is others' too: turn autocommit off, or begin with BEGIN READ ONLY "
        "(if PgBouncer is in session mode, say so: mpool.pooler session)"
    )


def was_full(words: str) -> bool:
    """Do a connection's last *words* say that PgBouncer had no server connection for it? All others are well then."""
    return words.endswith("query_wait_timeout")
