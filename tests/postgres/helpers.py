"""Small things that the pool's tests say often."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from postgres.proxy import Proxy

DEADLINE = 30.0


def through(proxy: Proxy, **more: Any) -> str:
    extra = "".join(f" {key}={value}" for key, value in more.items())
    return f"host=127.0.0.1 port={proxy.port} dbname=site user=site sslmode=disable gssencmode=disable{extra}"


def patiently(proxy: Proxy) -> str:
    """Connecting has its time, however loaded the machine; the pool's connect_timeout then holds for the rest alone."""
    return through(proxy, connect_timeout=30)


def backend(conn: Any) -> int:
    return query(conn, "SELECT pg_backend_pid()")


def query(conn: Any, sql: str) -> Any:
    """First column of the first row."""
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


def wait_for(condition: Callable[[], Any], what: str = "the condition", timeout: float = DEADLINE) -> Any:
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g}s"
        time.sleep(0.005)


def kill(postgres: Any, *pids: int) -> None:
    """pg_terminate_backend, and wait until they are gone."""
    for pid in pids:
        postgres.execute("SELECT pg_terminate_backend(%s, 10000)", pid)


def pids_of(postgres: Any, pool: Any) -> list[int]:
    rows = postgres.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s", f"mpool/%/{pool.name}%")
    return [row[0] for row in rows]


def in_threads(count: int, function: Callable[[int], Any]) -> list[Any]:
    """Results or exceptions of function(0) ... function(count - 1), run at the same time."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        barrier.wait(DEADLINE)
        try:
            results[number] = function(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "a thread hangs"
    return results


def in_another_thread(function: Callable[[], Any]) -> Any:
    """Its result; what it raised is raised here."""
    result = in_threads(1, lambda number: function())[0]
    if isinstance(result, Exception):
        raise result
    return result
