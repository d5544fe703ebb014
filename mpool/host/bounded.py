"""Work that may block on a silent network, done where it keeps nobody waiting."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from typing import Any


def start_thread(function: Callable[..., object], *args: Any) -> None:
    """Run *function* in a thread that keeps no process from ending; here, if the process can have no more threads.

    Not by the threading module, whose locks are not re-entrant: a finalizer may need a thread while one is started.
    """
    try:
        _thread.start_new_thread(function, args)
    except RuntimeError:
        function(*args)


def bounded(function: Callable[[], object], timeout: float) -> bool:
    """Run *function* in a thread of its own and wait for it; True if it returned within *timeout* seconds.

    False if it raised, or is still running: then it is left to itself.
    """
    done = _thread.allocate_lock()
    done.acquire()
    outcome: list[bool] = []

    def run_bounded() -> None:
        try:
            function()
            outcome.append(True)
        except Exception:
            outcome.append(False)
        finally:
            done.release()

    start_thread(run_bounded)
    done.acquire(timeout=min(max(timeout, 0.0), _thread.TIMEOUT_MAX))
    return outcome[:1] == [True]
