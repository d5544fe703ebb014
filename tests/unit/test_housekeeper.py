"""The housekeeper: jobs, upkeep, and a thread that is there only while there is something to do."""

from __future__ import annotations

import gc
import logging
import threading
import time

import pytest
from unit.fakes import FakeClock

import mpool
from mpool.host import apache
from mpool.host.bounded import bounded
from mpool.host.housekeeper import Housekeeper

DEADLINE = 30.0


class Watched:
    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)

    def maintain(self, now: float) -> float:
        self.steps.release()
        return 0.01


def wait_for(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def keeper():
    keeper = Housekeeper()
    yield keeper
    keeper.stop()


def test_jobs_run_when_they_are_due_and_in_order():
    clock = FakeClock()
    keeper = Housekeeper(clock)
    keeper._rouse = lambda: None
    done = []
    keeper.run_later(5, lambda: done.append("late"))
    keeper.run_later(1, lambda: done.append("early"))
    keeper.run_later(1, lambda: done.append("second"))
    keeper.step()
    assert done == []
    clock.advance(1)
    keeper.step()
    assert done == ["early", "second"]
    clock.advance(4)
    assert keeper.step() is None
    assert done == ["early", "second", "late"]


def test_a_failing_job_is_logged_and_the_next_runs(keeper, caplog):
    done = threading.Event()
    keeper.run_later(0, lambda: 1 / 0)
    keeper.run_later(0, done.set)
    assert done.wait(DEADLINE)
    assert any("ZeroDivisionError" in r.getMessage() for r in caplog.records)


def test_it_starts_on_demand_and_ends_when_nothing_is_left(keeper):
    assert keeper._thread is None
    done = threading.Event()
    keeper.run_later(0, done.set)
    assert done.wait(DEADLINE)
    wait_for(lambda: keeper._thread is None)
    watched = Watched()
    keeper.watch(watched)
    assert watched.steps.acquire(timeout=DEADLINE) and watched.steps.acquire(timeout=DEADLINE)
    assert keeper._thread.daemon
    keeper.forget(watched)
    wait_for(lambda: keeper._thread is None)


def test_it_holds_no_pool(keeper):
    watched = Watched()
    steps = watched.steps
    keeper.watch(watched)
    assert steps.acquire(timeout=DEADLINE)
    del watched
    wait_for(lambda: (gc.collect(), keeper._thread is None)[1])


def test_stop_ends_it_for_good():
    keeper = Housekeeper()
    watched = Watched()
    keeper.watch(watched)
    thread = keeper._thread
    keeper.stop(DEADLINE)
    assert not thread.is_alive()
    keeper.run_later(0, lambda: None)
    assert not thread.is_alive()


def test_run_soon_and_run_later():
    first, second = threading.Event(), threading.Event()
    mpool.run_soon(first.set)
    mpool.run_later(0.01, second.set)
    assert first.wait(DEADLINE) and second.wait(DEADLINE)


def test_bounded():
    assert bounded(lambda: None, DEADLINE)
    assert not bounded(lambda: 1 / 0, DEADLINE)
    release = threading.Event()
    assert not bounded(release.wait, 0.01)
    release.set()


def test_log_levels_outside_apache(caplog):
    with caplog.at_level(logging.DEBUG, "mpool"):
        for level in ("err", "warning", "notice", "info", "debug"):
            mpool.log(level, f"a {level} 100%")
    assert [r.getMessage() for r in caplog.records] == [
        "a err 100%", "a warning 100%", "a notice 100%", "a info 100%", "a debug 100%",
    ]  # fmt: skip
    assert mpool.interpreter_name() == "python"


class FakeApache:
    """What mpool.host.apache uses of mod_python.apache."""

    AP_MPMQ_IS_THREADED, AP_MPMQ_MAX_THREADS = 2, 6
    APLOG_ERR, APLOG_WARNING, APLOG_NOTICE, APLOG_INFO, APLOG_DEBUG = 3, 4, 5, 6, 7
    interpreter = "a.test"

    class main_server:
        @staticmethod
        def get_options():
            return {"mpool.max_size": "3"}

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lines: list[tuple[str, int]] = []
        self.cleanups: list[object] = []

    def mpm_query(self, what: int) -> int:
        return {self.AP_MPMQ_IS_THREADED: int(self.threads > 1), self.AP_MPMQ_MAX_THREADS: self.threads}[what]

    def log_error(self, text: str, level: int, server: object) -> None:
        self.lines.append((text, level))

    def register_cleanup(self, callback: object) -> None:
        self.cleanups.append(callback)


@pytest.mark.parametrize("threads, size", [(1, 1), (4, 4), (25, 10)])
def test_inside_apache_max_size_follows_the_mpm(monkeypatch, threads, size):
    monkeypatch.setattr(apache, "inside", lambda: FakeApache(threads))
    assert apache.default_max_size() == size


def test_inside_apache_the_log_has_a_prefix_and_one_entry_a_line(monkeypatch):
    fake = FakeApache(5)
    monkeypatch.setattr(apache, "inside", lambda: fake)
    mpool.log("notice", "first\nsecond")
    assert [level for _, level in fake.lines] == [5, 5]
    assert fake.lines[1][0].startswith("mpool (pid=") and fake.lines[1][0].endswith(", interpreter='a.test'): second")
    assert apache.options() == {"mpool.max_size": "3"}


def test_one_cleanup_per_interpreter_runs_the_callbacks_backwards_and_the_pools_last(monkeypatch, caplog):
    fake = FakeApache(5)
    monkeypatch.setattr(apache, "inside", lambda: fake)
    monkeypatch.setattr(apache, "_callbacks", [])
    monkeypatch.setattr(apache, "_last_callbacks", [])
    monkeypatch.setattr(apache, "_registered_in", 0)
    order = []
    apache.at_the_very_end(lambda: order.append("pools"))
    apache.on_child_exit(lambda: order.append("first"))
    apache.on_child_exit(lambda: 1 / 0)
    apache.on_child_exit(lambda: order.append("last"))
    assert len(fake.cleanups) == 1
    fake.cleanups[0](None)
    assert order == ["last", "first", "pools"]
    assert any("ZeroDivisionError" in text for text, _ in fake.lines)
