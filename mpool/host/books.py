"""The one lock of an interpreter's books, and what has to wait until it is left.

The garbage collector and signal handlers are callers too: they run code of ours in the middle of a locked region, in
the thread that is inside it. So the lock is re-entrant, and whoever would change the books from in there leaves an
errand, which is run by whoever leaves the region. All pools of an interpreter share the lock: a finalizer that runs
inside the region of one pool may return a connection to another, and two locks could then wait for each other.

Held for bookkeeping only: no socket, no code of a user's, no log, no text.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from mpool.host.apache import log_exception
from mpool.host.forking import at_fork

books = threading.RLock()


def inside() -> bool:
    """Is this thread in a locked region? Then it runs for a finalizer or a signal handler that came in between."""
    return books._is_owned()  # type: ignore[attr-defined, no-any-return]


class Errands:
    """``with errands, books:`` is a locked region: what was put off meanwhile is run when it has been left."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()

    def put_off(self, errand: Callable[[], object]) -> bool:
        """Have *errand* run by whoever leaves the region that this thread is in; False if it is in none."""
        if not inside():
            return False
        self._waiting.append(errand)
        return True

    def __enter__(self) -> None:
        pass

    def __exit__(self, *failure: object) -> None:
        if self._waiting:
            self._run()

    def _run(self) -> None:
        while self._waiting and not inside():
            try:
                errand = self._waiting.popleft()
            except IndexError:
                return  # another thread was quicker
            try:
                errand()
            except Exception:
                log_exception("what a finalizer left to be done failed")

    def forget(self) -> None:
        """In the child of a fork: they are about the parent's connections."""
        self._waiting.clear()


errands = Errands()
inside()  # Python's own conditions use it too; where it is missing, this says so at import

# Another thread of the parent's may have held it.
at_fork(books._at_fork_reinit)  # type: ignore[attr-defined]
at_fork(errands.forget)
