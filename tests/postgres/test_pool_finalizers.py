"""The garbage collector as a caller, on a real server: leases that only a collection ends, in many threads."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2
import pytest
from postgres.helpers import in_threads, kill

import mpool

THREADS = 6
MAX_SIZE = 3
ROUNDS = int(os.environ.get("FUZZ_STEPS", "0")) * 20 or 3000


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Collections come often, so that not every connection is in garbage at once."""
    monkeypatch.setattr("mpool.engine.leaks.COLLECT_PAUSE", 0.0)
    before = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    yield
    gc.set_threshold(*before)


class Caller:
    """`except ValueError as e: self.error = e` makes a cycle of the caller, the traceback and the frame."""

    error: BaseException | None = None

    def stumble(self, pool: Any) -> None:
        def rows() -> Iterator[int]:
            with pool.connection() as conn:
                with conn.cursor() as cursor:
                    cursor.execute("SELECT 1")
                yield 1

        lines = rows()
        try:
            for _ in lines:
                raise ValueError
        except ValueError as error:
            self.error = error


def test_collections_that_end_leases_lose_nothing(make_pool: Any, postgres: Any, often: None) -> None:
    pool = make_pool(max_size=MAX_SIZE, timeout=30)
    with psycopg2.connect(postgres.conninfo) as conn, conn.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS finalizers; CREATE TABLE finalizers (thread int, round int)")
    conn.close()
    most = []
    stumbling = threading.Semaphore(1)

    def work(thread: int) -> int:
        stored = 0
        for number in range(ROUNDS // THREADS):
            if number % 7 == 0 and stumbling.acquire(blocking=False):
                # One at a time, so that never every connection is in garbage: then nobody allocates, or collects.
                Caller().stumble(pool)
                if number % 3 == 0:
                    gc.collect()
                stumbling.release()
            with pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute("INSERT INTO finalizers VALUES (%s, %s)", (thread, number))
            stored += 1
            if number % 50 == 0:
                stats = pool.get_stats()
                most.append(stats["pool_size"] + stats["opening"])
        return stored

    reported = in_threads(THREADS, work)
    gc.collect()
    assert postgres.execute("SELECT count(*) FROM finalizers") == [(sum(reported),)]
    assert max(most) <= MAX_SIZE
    stats = pool.get_stats()
    assert stats["pool_size"] == stats["leased"] + stats["idle"] + stats["opening"] <= MAX_SIZE
    assert stats["leased"] == 0 and stats["requests_waiting"] == 0


@pytest.mark.parametrize("lost", ["closed", "killed", "failed"])
def test_a_block_that_has_lost_its_work_does_not_end_well(make_pool: Any, postgres: Any, lost: str) -> None:
    pool = make_pool(max_size=1)
    with pytest.raises(psycopg2.Error), pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS lost_work (x int); INSERT INTO lost_work VALUES (1)")
        if lost == "closed":
            conn.close()
            continue_with = "nothing"
        elif lost == "killed":
            kill(postgres, conn.get_backend_pid())
            continue_with = "SELECT 1"
        else:
            continue_with = "SELECT no_such_column"
        try:
            if not conn.closed:
                cursor.execute(continue_with)
        except psycopg2.Error:
            pass  # as a page does that knows better
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT to_regclass('lost_work')")
        assert cursor.fetchone() == (None,)


def test_a_lost_answer_to_commit_is_told_as_unknown(make_pool: Any, postgres: Any) -> None:
    pool = make_pool(max_size=1)
    with pool.connection() as conn, conn.cursor() as cursor:
        # At COMMIT, a deferred trigger ends its own backend: the server never answers.
        cursor.execute(
            "DROP TABLE IF EXISTS ends_at_commit; CREATE TABLE ends_at_commit (x int); "
            "CREATE OR REPLACE FUNCTION end_self() RETURNS trigger LANGUAGE plpgsql SECURITY INVOKER AS "
            "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NULL; END'; "
            "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON ends_at_commit DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION end_self()"
        )
    insert = "INSERT INTO ends_at_commit VALUES (1)"
    with pytest.raises(mpool.CommitUnknown, match="may be stored, or not"), pool.connection() as conn:
        conn.cursor().execute(insert)


def test_a_server_that_went_before_commit_has_stored_nothing(make_pool: Any, postgres: Any) -> None:
    pool = make_pool(max_size=1)
    with pytest.raises(psycopg2.OperationalError, match="nothing is stored"), pool.connection() as conn:
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")
        kill(postgres, conn.get_backend_pid())
