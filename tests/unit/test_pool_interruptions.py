"""What may come between any two steps of the pool: a garbage collection that closes a leased generator, a signal
handler, an interrupt. Hypothesis chooses where; the real thing is in tests/postgres/test_pool_finalizers.py.
"""

from __future__ import annotations

import contextlib
import dis
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.fakes import FakeClock, FakeConnection, FakeServer, make_pool

import mpool
from mpool import PoolTimeout
from mpool.host.books import inside

OURS = str(Path(mpool.__file__).parent)
MAX_SIZE = 2
FUZZ = int(os.environ.get("FUZZ_STEPS", "0"))  # else the same examples each time

# Where CPython looks whether a signal has come: after a call, at the start of a function, at a jump back.
LOOKS = frozenset(("CALL", "CALL_FUNCTION_EX", "CALL_KW", "RESUME", "JUMP_BACKWARD"))


class Connection(FakeConnection):
    token: object

    def close(self) -> None:
        if not self.closed:
            self.closed = 1
            self._server.closed.append(self.token)  # type: ignore[attr-defined]


class Server(FakeServer):
    """Its connections end when they are freed, as the driver's do; not in a finalizer, which comes before others'."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[tuple[object, tuple[int, int]]] = []
        self.closed: list[object] = []

    def connect(self, **arguments: Any) -> FakeConnection:
        conn = Connection(self)
        self.open.discard(conn)  # it would keep it from being collected
        token = conn.token = object()
        self._made.append((token, (conn._reader, conn._writer)))
        return conn

    def live(self) -> int:
        """Connections that have neither been closed nor freed."""
        gone = set(map(id, self.closed))
        return sum(sys.getrefcount(made[0]) > 2 for made in self._made if id(made[0]) not in gone)

    def end(self) -> None:
        for _, ends in self._made:
            for end in ends:
                os.close(end)


class Between:
    """Runs *action* before the *at*-th bytecode of the pool's own code, once."""

    def __init__(self, at: int, action: Callable[[], None], *, only_where_signals_come: bool) -> None:
        self._left = at
        self._action = action
        self._everywhere = not only_where_signals_come
        self._last: dict[Any, str] = {}
        self._busy = False

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: Any, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self._busy:
            before = self._last.get(frame.f_code)
            self._last[frame.f_code] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            self._left -= 1
            if self._left < 0 and self._action is not None and (self._everywhere or before in LOOKS):
                action, self._action = self._action, None  # type: ignore[assignment]
                self._busy = True
                try:
                    action()
                finally:
                    self._busy = False
        return self._trace


def _at_once(function: Callable[..., object], *args: Any) -> None:
    function(*args)


class World:
    """A pool on fake connections, with everything that its users do in one thread."""

    def __init__(self, housekeeper: bool) -> None:
        self.server, self.clock = Server(), FakeClock()
        self.pool = make_pool(
            self.server, self.clock, housekeeper=housekeeper, spawn=_at_once, max_size=MAX_SIZE, open=False,
            check_after=1e9, leak_after=0,
        )  # fmt: skip
        self.pool._watch = lambda: None
        self.pool.open()
        self.held: list[Any] = []
        self.inside_blocks = 0

    def lease(self) -> None:
        conn = None
        with contextlib.suppress(PoolTimeout):
            conn = self.pool.getconn(timeout=0)
        if conn is not None:
            assert all(conn is not other for other in self.held), "lent twice"
            self.held.append(conn)

    def give_back(self) -> None:
        if self.held:
            self.pool.putconn(self.held.pop())

    def block(self) -> None:
        with contextlib.suppress(PoolTimeout), self.pool.connection(timeout=0):
            self.inside_blocks += 1

    def leave_a_generator(self) -> None:
        """`except ValueError as e: self.error = e` in a caller makes such a cycle: only a collection closes it."""

        def rows() -> Iterator[int]:
            with self.pool.connection(timeout=0):
                yield 1

        cycle: list[Any] = [rows()]
        cycle.append(cycle)
        with contextlib.suppress(PoolTimeout):
            next(cycle[0])

    def upkeep(self) -> None:
        self.clock.advance(1.0)
        self.pool.maintain(self.clock())

    def look(self) -> None:
        self.pool.get_stats()
        repr(self.pool)

    def drain(self) -> None:
        self.pool.drain()

    def signal_handler(self) -> None:
        self.pool.get_stats()
        with contextlib.suppress(PoolTimeout):
            self.pool.putconn(self.pool.getconn(timeout=0))

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def check(self) -> None:
        """All is as if nothing had come in between."""
        assert not inside(), "the lock is still held"
        gc.collect()
        self.clock.advance(10.0)
        self.pool.maintain(self.clock())
        stats = self.pool.get_stats()
        assert stats["pool_size"] == stats["leased"] + stats["idle"] + stats["opening"], stats
        assert stats["leased"] == len(self.held), (stats, self.held)
        assert stats["requests_waiting"] == 0, stats
        assert self.server.live() == stats["pool_size"] <= MAX_SIZE
        conns = list(self.pool._idle)
        assert len({id(conn) for conn in conns}) == len(conns) and not any(conn.closed for conn in conns)
        before = len(self.held)
        while len(self.held) < MAX_SIZE:
            self.lease()
            assert len(self.held) > before, "the next caller is served"
            before = len(self.held)

    def end(self) -> None:
        for conn in self.held:
            self.pool.putconn(conn)
        self.held.clear()
        self.pool.close()
        self.server.end()


STEPS = ("lease", "give_back", "block", "leave_a_generator", "upkeep", "look", "drain")


# An interrupt in a finalizer is reported, and goes no further.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("housekeeper", [True, False])
@pytest.mark.parametrize("comes", ["collection", "signal_handler", "interrupt"])
def test_whatever_comes_between_two_steps_costs_nothing(comes: str, housekeeper: bool) -> None:
    gc.collect()
    gc.freeze()  # what is there already is not looked at again: a collection takes no time then
    gc.disable()  # only where it is asked for

    @settings(max_examples=FUZZ or 100, derandomize=not FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
    @given(before=st.lists(st.sampled_from(STEPS), max_size=4), step=st.sampled_from(STEPS), at=st.integers(0, 250))
    def run(before: list[str], step: str, at: int) -> None:
        world = World(housekeeper)
        for name in before:
            getattr(world, name)()
        if comes == "collection":
            world.leave_a_generator()
        action = {"collection": gc.collect, "signal_handler": world.signal_handler, "interrupt": world.interrupt}[comes]
        with contextlib.suppress(KeyboardInterrupt), Between(at, action, only_where_signals_come=comes == "interrupt"):
            getattr(world, step)()
        world.check()
        world.end()

    try:
        run()
    finally:
        gc.enable()
        gc.unfreeze()
