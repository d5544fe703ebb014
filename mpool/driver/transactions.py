"""The end of a transaction, such that nobody believes in what is not stored."""

from __future__ import annotations

from typing import Any

import psycopg2
from psycopg2.extensions import (
    STATUS_READY,
    TRANSACTION_STATUS_IDLE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
)

from mpool.driver.psycopg import has_hung_up, is_broken
from mpool.errors import CommitUnknown, PoolError


def execute(conn: Any, sql: str) -> None:
    """Run one statement whose result nobody needs."""
    with conn.cursor() as cursor:
        cursor.execute(sql)


def rollback(conn: Any) -> None:
    """Roll back what is open on *conn*."""
    conn.rollback()
    if conn.get_transaction_status() != TRANSACTION_STATUS_IDLE:
        # A BEGIN sent as text under autocommit: rollback() believes that there is nothing to do.
        execute(conn, "ROLLBACK")


def commit(conn: Any) -> None:
    """Commit what is open on *conn*. Whoever comes back from here has stored all that was done on it.

    Raises the driver's error where the server refuses; PoolError where a statement had failed and its error went no
    further (COMMIT would be a ROLLBACK, and say nothing), or the connection was closed with work on it; CommitUnknown
    where the answer to COMMIT was lost.
    """
    if conn.closed:
        if conn.status != STATUS_READY:
            lost = psycopg2.OperationalError if is_broken(conn) else PoolError
            raise lost("the connection is closed, and what was done on it has not been committed")
        return
    status = conn.get_transaction_status()
    if status == TRANSACTION_STATUS_IDLE:
        conn.commit()  # nothing is sent
        return
    if status == TRANSACTION_STATUS_INERROR:
        rollback(conn)
        raise PoolError(
            "a statement failed and its error was not raised on: its transaction is rolled back (a savepoint, "
            "conn.transaction(), keeps the rest)"
        )
    if status == TRANSACTION_STATUS_INTRANS and has_hung_up(conn):
        conn.close()
        raise psycopg2.OperationalError("the server closed the connection before COMMIT: nothing is stored")
    backend = conn.get_backend_pid()
    try:
        conn.commit()
        if status == TRANSACTION_STATUS_INTRANS and conn.get_transaction_status() == TRANSACTION_STATUS_INTRANS:
            execute(conn, "COMMIT")  # a BEGIN sent as text under autocommit, as above
    except psycopg2.OperationalError as error:
        # An error with a SQLSTATE is the server's answer: it has not committed. Without one it was cut off.
        if status == TRANSACTION_STATUS_INTRANS and conn.closed and error.pgcode is None:
            raise CommitUnknown(
                f"the connection to backend {backend} was lost during COMMIT: the transaction may be stored, or not"
            ) from error
        raise


def end_transaction(conn: Any, keep: bool) -> None:
    """Commit what is open on *conn* (see `commit`), or roll it back without asking one that is closed."""
    if keep:
        commit(conn)
    elif not conn.closed:
        rollback(conn)
