"""What becomes of an instance that another one has replaced, or whose file is gone.

First the drain: every request that was under way at the retirement may still run the old code, and so may a module
that was built on it and goes on serving. Only when the last of them has ended is the old instance purged, where it has
not handed over, and what it left behind let go: the importer's references are dropped, the old namespace's names for
connections, cursors and pools removed, and one garbage collection run, in the housekeeper's thread. Whatever other
code still holds stays open and is named in the log.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
import typing
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CellType, FrameType, FunctionType, MethodType
from typing import Any

from handlers.reload import hooks
from handlers.reload.context import Imports, in_dispatch
from handlers.reload.modules import ModuleInfo
from mpool import describe, is_connection, is_cursor, is_pool, is_registered, log, run_later

PURGE_TIMEOUT = 5.0  # seconds for one __mp_purge__
EXIT_TIMEOUT = 1.0  # and at the end of the child, which waits 5 s for everything
SECOND_LOOK = 1.0  # seconds until what is still open is looked at again

POLL = 0.05  # seconds between two looks at the requests that a retired instance waits for; more, the longer it has
PATIENCE = 60.0  # seconds for a request that no handler runs for any more: a page may have kept its object

_Left = list[tuple[str, list[tuple[str, "weakref.ref[Any]"]]]]  # (instance, [(where and what, the object)])

_CACHE = type(functools.lru_cache(lambda: None))
_CONTAINERS = (dict, list, tuple, set, frozenset, deque, MethodType, CellType, functools.partial, _CACHE)
_WRAPPERS = (staticmethod, classmethod, property)


_Request = weakref.ref[Imports]


@dataclass(eq=False)
class Retired:
    """An instance that serves no new request."""

    info: ModuleInfo
    handed_over: bool
    waiting: set[_Request] = field(default_factory=set)  # requests that began before the retirement
    since: float = field(default_factory=time.monotonic)


class Retirement:
    """The retired instances of this interpreter, until they have drained.

    A main request is under way as long as what it has imported lives: that hangs on its object, which mod_python drops
    when the request's pool is cleaned up. A cleanup of ours would be told so, too, but each costs a request that has to
    have the interpreter's lock once more; so whoever waits for requests looks, and the others do nothing.
    """

    def __init__(
        self,
        serving: Callable[[], Iterable[ModuleInfo]],
        later: Callable[[float, Callable[[], None]], None] = run_later,
    ) -> None:
        self._serving = serving
        self._later = later
        # Added to and discarded from by single operations, in C: without a lock, since it is on the path of every
        # request, and whatever thread and interpreter mod_python frees the request in.
        self._active: set[_Request] = set()
        self._lock = threading.Lock()  # guards what follows and each waiting set; held for bookkeeping only
        self._retired: list[Retired] = []
        self._is_polling = False

    def begin(self, imports: Imports) -> _Request:
        """A main request begins."""
        request = weakref.ref(imports, self._active.discard)
        self._active.add(request)
        return request

    @property
    def end(self) -> Callable[[_Request], None]:
        """Called with what ``begin`` gave: the request has ended, though what it has imported may live on."""
        return self._active.discard

    def retire(self, info: ModuleInfo, *, handed_over: bool) -> None:
        """*info* serves no new request: purge it (unless it *handed over*) and let go of it when it has drained."""
        with self._lock:
            self._retired.append(Retired(info, handed_over, self._active.copy()))
        self._later(0.0, self.step)

    def _poll(self) -> None:
        with self._lock:
            self._is_polling = False
        self.step()

    def step(self) -> None:
        """Purge and let go of what has drained. Runs in the housekeeper's thread."""
        serving = list(self._serving())
        now = time.monotonic()
        with self._lock:
            for retired in self._retired:
                retired.waiting &= self._active
                if now - retired.since > PATIENCE:
                    running = in_dispatch()
                    retired.waiting = {request for request in retired.waiting if request() in running}
            # An instance lives on in what was built on it, too: in a module whose own reload has failed, say.
            users = [*serving, *(retired.info for retired in self._retired if retired.waiting)]
            used = {id(part) for info in users for _, part, _, _ in info.closure}
            drained = [r for r in self._retired if not r.waiting and id(r.info) not in used]
            self._retired = [r for r in self._retired if r.waiting or id(r.info) in used]
            ages = [now - retired.since for retired in self._retired if retired.waiting]
            is_polling, self._is_polling = self._is_polling, self._is_polling or bool(ages)
        if ages and not is_polling:
            self._later(min(SECOND_LOOK, max(POLL, min(ages) / 10)), self._poll)
        drained.sort(key=lambda retired: -retired.info.generation)  # what was built on others goes before them
        for retired in drained:
            if not retired.handed_over:
                hooks.purge(retired.info, PURGE_TIMEOUT)
        let_go([retired.info for retired in drained], serving)

    def child_ends(self) -> None:
        """Purge what serves, and what has been retired and not drained yet; the pools are closed after that."""
        with self._lock:
            unpurged = [retired.info for retired in self._retired if not retired.handed_over]
            self._retired = []
        for info in sorted([*unpurged, *self._serving()], key=lambda info: -info.generation):
            hooks.purge(info, EXIT_TIMEOUT)

    @property
    def pending(self) -> list[ModuleInfo]:
        """The retired instances that have not drained yet."""
        with self._lock:
            return [retired.info for retired in self._retired]


def let_go(infos: list[ModuleInfo], serving: Iterable[ModuleInfo] = ()) -> None:
    """Drop the last references to these instances; log which connections and pools were closed by it, and which not.

    What the *serving* instances hold too was handed over, and is neither touched nor named.
    """
    if not infos:
        return
    carried = {id(value) for info in serving for value in list(vars(info.module).values())}
    left: _Left = []
    for info in infos:
        found = [
            (f"{path}, {describe(value)}", weakref.ref(value))
            for path, value in resources(vars(info.module), info.label)
            if id(value) not in carried
        ]
        if found:
            which = f"instance {info.instance}" if info.instance else "a failed load"
            left.append((f"{which} of {info.file!r}", found))
        if not _is_running(vars(info.module)):
            _forget(vars(info.module))
        info.discard()
        info.bound.clear()
    del infos
    gc.collect()
    if _is_open(left):
        # typing keeps the arguments of Optional[...] and its like, and by them whole modules, in caches. And the last
        # request may not have been torn down completely: a second look is due before somebody else is named.
        for clear in getattr(typing, "_cleanups", ()):
            clear()
        run_later(SECOND_LOOK, functools.partial(_report, left))
    else:
        _report(left)


def _is_open(left: _Left) -> bool:
    return any(reference() is not None for _, found in left for _, reference in found)


def _report(left: _Left) -> None:
    if _is_open(left):
        gc.collect()
    for instance, found in left:
        closed = [text for text, reference in found if reference() is None]
        still_open = [text for text, reference in found if reference() is not None]
        if closed:
            log("notice", f"{instance} left behind and is rid of: {'; '.join(closed)}")
        if still_open:
            log("warning", f"{instance} left behind, and other code still holds: {'; '.join(still_open)}")


def resources(namespace: dict[str, Any], label: str, limit: int = 100_000) -> list[tuple[str, Any]]:
    """The connections, cursors and pools in *namespace*: (where, object), wherever code of module *label* put them.

    Looks into containers, functions and the module's own classes and their instances; not into other modules' objects.
    """
    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = {id(namespace)}
    todo: deque[tuple[str, Any]] = deque((name, value) for name, value in list(namespace.items()))
    while todo and limit:
        limit -= 1
        where, value = todo.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if is_connection(value) or is_cursor(value) or is_pool(value):
            if not is_registered(value):
                found[id(value)] = (where, value)
        elif _is_the_modules(value, label):
            todo.extend((where, part) for part in gc.get_referents(value))
    return list(found.values())


def _is_the_modules(value: Any, label: str) -> bool:
    kind = type(value)
    if kind is FunctionType:
        return bool(value.__module__ == label)
    if isinstance(value, type):
        return value.__dict__.get("__module__") == label
    return kind in _CONTAINERS or kind in _WRAPPERS or kind.__dict__.get("__module__") == label


def _is_running(namespace: dict[str, Any]) -> bool:
    """Does a frame of any thread run with *namespace* as its globals?"""
    for frame in sys._current_frames().values():
        below: FrameType | None = frame
        while below is not None:
            if below.f_globals is namespace:
                return True
            below = below.f_back
    return False


def _forget(namespace: dict[str, Any]) -> None:
    for name, value in list(namespace.items()):
        if is_connection(value) or is_cursor(value) or is_pool(value):
            del namespace[name]
