"""Who loads which file, and who waits for whom.

One thread loads a file; the others wait for it and take its result. A thread whose wait would close a circle does not
wait: it is given the unfinished module, as a single-threaded import cycle would give it. The members of such a circle
are settled together, when the last of them has been executed, so nobody outside ever sees an unfinished module.
(reload contract, items 29 and 39 to 42)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from enum import Enum
from types import ModuleType

from handlers.reload.failures import Failure
from handlers.reload.files import Signature
from handlers.reload.modules import ModuleInfo


class State(Enum):
    EXECUTING = "executing"
    EXECUTED = "executed"  # but a member of its import cycle is not
    FAILING = "failing"  # by one thread, which is putting everything back
    DONE = "done"
    FAILED = "failed"


class Load:
    """One execution of one file: its thread, the instance that it fills, its outcome."""

    def __init__(self, key: Hashable, info: ModuleInfo) -> None:
        self.key = key
        self.info = info
        self.owner = threading.get_ident()  # the thread that executes it, or that it fails by
        self.state = State.EXECUTING
        self.error: BaseException | None = None
        self.failure: Failure | None = None  # what is kept of the error
        self.took: set[Load] = set()  # loads that were not settled when their module was given to this one
        self.old: ModuleInfo | None = None
        self.handed_over: bool | None = None  # None: there was no clone hook to call
        self.handed_to: ModuleType | None = None  # what the hook was given
        self.reported = False  # as part of an import cycle
        self.watched: dict[str, Signature | None] = {}  # what it has read or looked for; None: was not there

    @property
    def settled(self) -> bool:
        return self.state in (State.DONE, State.FAILED)

    def circle(self) -> set[Load]:
        """This load and the unsettled ones that it took, theirs included."""
        found, todo = set(), [self]
        while todo:
            load = todo.pop()
            if load not in found and not load.settled:
                found.add(load)
                todo.extend(load.took)
        return found


class Loads:
    """The loads of an interpreter that are not settled yet."""

    def __init__(self) -> None:
        # Guards everything here; held for bookkeeping only, never while code of a module runs.
        self._changed = threading.Condition(threading.Lock())
        self._loads: dict[Hashable, Load] = {}
        self._waiting: dict[int, Load] = {}  # thread -> the load it waits for

    def join(
        self, key: Hashable, parent: Load | None, begin: Callable[[], ModuleInfo | None]
    ) -> tuple[Load | None, bool]:
        """The load of *key*, and whether it is the caller's to carry out.

        ``begin`` is called under the lock where no load is under way, and answers with the new instance, or with None
        if a load is no longer due (the answer is then ``(None, False)``). Otherwise this waits until the load under way
        is settled; a load that comes back unsettled is a member of the caller's own import cycle.
        """
        with self._changed:
            load = self._loads.get(key)
            if load is None:
                info = begin()
                if info is None:
                    return None, False
                load = self._loads[key] = Load(key, info)
                return load, True
            if not self._waits_for_me(load):
                self._wait(load, lambda: load.state is State.EXECUTED and self._waits_for_me(load))
            if parent is not None and not load.settled:
                parent.took.add(load)
            return load, False

    def wait(self, load: Load) -> None:
        """Wait until *load* is settled: for a thread that executes none itself."""
        with self._changed:
            self._wait(load, lambda: False)

    def _wait(self, load: Load, or_else: Callable[[], bool]) -> None:
        me = threading.get_ident()
        self._waiting[me] = load
        try:
            # Another thread may close the circle that this one waits in: it is then a member as soon as the module
            # that it waits for has been executed.
            while not load.settled and not or_else():
                self._changed.wait()
        finally:
            del self._waiting[me]

    def executed(self, load: Load, commit: Callable[[Load], None]) -> BaseException | None:
        """*load* has been executed: settle, through ``commit`` and under the lock, every circle that is now complete.

        Answers with the error of a load that this one took and that fails or has failed; it then has to fail as well.
        """
        with self._changed:
            for taken in load.took:
                if taken.error is not None:
                    return taken.error
            load.state = State.EXECUTED
            for candidate in list(self._loads.values()):
                circle = candidate.circle()
                if circle and all(member.state is State.EXECUTED for member in circle):
                    self._settle(circle, State.DONE, commit)
            self._changed.notify_all()
            return None

    def failing(self, load: Load, error: BaseException) -> list[Load]:
        """The loads that fail with *load*: those executed ones that hold its unfinished module, and itself, last.

        They are the calling thread's from then on, to be put back and given to ``failed``: where two members of a
        circle fail at the same time, what both of them doom is put back once.
        """
        with self._changed:
            doomed = [
                other
                for other in self._loads.values()
                if other is not load and other.state is State.EXECUTED and load in other.circle()
            ]
            for each in (*doomed, load):
                each.state, each.error, each.owner = State.FAILING, error, threading.get_ident()
            return [*doomed, load]

    def failed(self, loads: list[Load], abandon: Callable[[Load], None]) -> None:
        """Settle *loads*, which were ``failing``, as failed; ``abandon`` is called for each, under the lock."""
        with self._changed:
            self._settle(loads, State.FAILED, abandon)
            self._changed.notify_all()

    def under_way(self) -> list[ModuleInfo]:
        """The instances whose loads are not settled."""
        with self._changed:
            return [load.info for load in self._loads.values()]

    def unless_under_way(self, key: Hashable, act: Callable[[], bool]) -> bool:
        """Call *act* under the lock where no load of *key* is under way: was it called, and did it answer True?"""
        with self._changed:
            return key not in self._loads and act()

    def _settle(self, loads: Iterable[Load], state: State, callback: Callable[[Load], None]) -> None:
        for load in loads:
            callback(load)
            load.state = state
            del self._loads[load.key]

    def _waits_for_me(self, load: Load) -> bool:
        """Would a wait for *load* be a wait for this very thread?"""
        me = threading.get_ident()
        seen: set[Load] = set()
        todo = [load]
        while todo:
            for member in todo.pop().circle() - seen:
                seen.add(member)
                if member.state in (State.EXECUTING, State.FAILING):
                    if member.owner == me:
                        return True
                    awaited = self._waiting.get(member.owner)
                    if awaited is not None:
                        todo.append(awaited)
        return False
