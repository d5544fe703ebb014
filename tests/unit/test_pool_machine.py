"""The pool as a state machine, on fake connections and a fake clock: nothing sleeps, nothing runs by itself."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unit.fakes import Background, FakeClock, FakeConnection, FakeServer, make_pool

from mpool import LeaseError, PoolTimeout
from mpool.engine.entry import EntryState
from mpool.engine.supply import PoolState
from mpool.engine.waiting import Waiter

steps = 0  # counted over the whole run


class PoolMachine(RuleBasedStateMachine):
    """Callers lease, wait, give up, return; the server kills, refuses and recovers; time passes; openings finish."""

    def __init__(self) -> None:
        super().__init__()
        self.server = FakeServer()
        self.clock = FakeClock()
        self.background = Background()
        self.pool = make_pool(
            self.server, self.clock, housekeeper=True, spawn=self.background, max_size=4, min_size=1, max_uses=20,
            max_lifetime=100.0, max_idle=20.0, check_after=1e9, leak_after=0, open=False,
        )  # fmt: skip
        self.pool._watch = lambda: None  # its housekeeper is the rule below
        self.pool.open()
        self.leased: list[FakeConnection] = []
        self.waiting: list[Waiter] = []
        self.background.run()

    def teardown(self) -> None:
        self.pool.close()
        for conn in self.leased:
            self.pool.putconn(conn)
        self.background.run()
        assert not self.server.open, "every connection is closed in the end"

    def collect(self) -> None:
        """Take what was handed over; those who came first must have been served first."""
        served = [waiter.conn is not None for waiter in self.waiting]
        failed = [waiter.error is not None for waiter in self.waiting]
        assert served == sorted(served, reverse=True) or any(failed), "order of waiters"
        for waiter in self.waiting:
            if waiter.conn is not None:
                self.hold(waiter.conn)
        self.waiting = [w for w, s, f in zip(self.waiting, served, failed, strict=True) if not s and not f]

    def hold(self, conn: FakeConnection) -> None:
        assert all(conn is not held for held in self.leased), "no connection is lent twice"
        self.leased.append(conn)

    @rule()
    def lease_at_once(self) -> None:
        with contextlib.suppress(PoolTimeout):
            self.hold(self.pool.getconn(timeout=0))
        self.collect()

    @rule()
    def join_the_queue(self) -> None:
        """What getconn() does up to the moment at which the thread would go to sleep."""
        waiter = Waiter(None, self.clock())
        with self.pool._lock:
            self.pool._join_locked(waiter, again=False)
            self.pool._serve_locked()
            begun = self.pool._begin_locked(self.clock())
        self.waiting.append(waiter)
        self.pool._open_all(begun)
        self.collect()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up_waiting(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        with self.pool._lock:
            assert self.pool._leave_locked(waiter)
        self.waiting.remove(waiter)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), status=st.sampled_from([0, 0, 0, 1, 2, 3]))
    def give_back(self, data: st.DataObject, status: int) -> None:
        conn = data.draw(st.sampled_from(self.leased))
        conn.status = status
        self.leased.remove(conn)
        self.pool.putconn(conn)
        self.collect()
        if all(conn is not held for held in self.leased):
            with pytest.raises(LeaseError):
                self.pool.putconn(conn)

    @precondition(lambda self: self.server.open)
    @rule(data=st.data())
    def kill_a_backend(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(sorted(self.server.open, key=FakeConnection.get_backend_pid))).kill()

    @rule()
    def server_goes(self) -> None:
        self.server.down = True

    @rule()
    def server_comes(self) -> None:
        self.server.down = False

    @rule()
    def openings_finish(self) -> None:
        self.background.run()
        self.collect()

    @rule(seconds=st.sampled_from([0.01, 0.6, 3.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pool.maintain(self.clock())
        self.collect()

    @rule(max_size=st.integers(2, 6))
    def resize(self, max_size: int) -> None:
        self.pool.resize(1, max_size)
        self.collect()

    @rule()
    def drain(self) -> None:
        self.pool.drain()
        self.collect()

    @invariant()
    def conservation(self) -> None:
        global steps
        steps += 1
        pool = self.pool
        idle = [conn._entry for conn in pool._idle]
        leased = [conn._entry for conn in self.leased]
        assert {*idle, *leased} == pool._entries and len(idle) + len(leased) == len(pool._entries)
        assert all(entry.state is EntryState.IDLE for entry in idle)
        assert all(entry.is_leased() for entry in leased)
        assert len(self.server.open) == len(pool._entries)
        # A pool that was made smaller waits for what is on lease.
        assert len(pool._entries) + len(pool._openings) <= max(pool.config.max_size, len(leased) + len(pool._openings))
        assert pool.get_stats()["pool_size"] == len(pool._entries)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        pool: Any = self.pool
        assert list(pool._waiting) == self.waiting, "who waits is in the queue, in order"
        assert not (pool._waiting and pool._idle), "nobody waits beside an idle connection"
        assert (pool._returns is None) == bool(pool._waiting) or pool._state is not PoolState.OPEN


PoolMachine.TestCase.settings = settings(
    settings.default,
    max_examples=max(540, settings.default.max_examples),
    stateful_step_count=max(50, settings.default.stateful_step_count),
)


def test_machine_keeps_its_invariants_over_20000_steps():
    PoolMachine.TestCase("runTest").runTest()
    assert steps >= 20_000
