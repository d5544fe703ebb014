"""What the importer keeps of each file, of each instance of its module, and of each failure to load it."""

from __future__ import annotations

import copy
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType, ModuleType, TracebackType
from typing import Any

from handlers.files import Signature, signature_of

_HERE = os.path.dirname(__file__)

FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds until a failed reload is tried again though its files are unchanged


def label_of(file: str) -> str:
    """The name under which *file* is known: ``_mp_`` and the MD5 of its normalised path. (reload contract, item 1)"""
    path = os.path.normpath(file).encode("utf-8", "surrogateescape")
    return "_mp_" + hashlib.md5(path, usedforsecurity=False).hexdigest()


def new_module(label: str) -> ModuleType:
    """An empty module: ``__name__``, ``__doc__`` and ``__package__``, no more. (reload contract, item 31)"""
    module = ModuleType(label)
    del module.__dict__["__loader__"], module.__dict__["__spec__"]
    return module


class ModuleInfo:
    """``__mp_info__``: one instance of a module, that is, one execution of its file. (reload contract, item 4)"""

    def __init__(self, cache: ModuleCache) -> None:
        self.label = cache.label
        self.file = cache.file
        self.directory = os.path.dirname(cache.file)
        self.cache = cache
        self.module = new_module(cache.label)
        self.executing = self.executed = False
        self.bound: dict[str, ModuleInfo] = {}  # by label: imported while the code was executed
        self.friends: set[str] = set()  # labels imported later, from within functions
        self.signature: Signature | None = None
        self.source: bytes | None = None  # what was executed; the file may have changed since
        self.mtime = 0.0
        self.instance = self.generation = 0  # 0: it does not serve yet
        self.kept: dict[str, Any] = {}  # what the publisher has found out of this instance's names, by path
        self._closure: tuple[tuple[ModuleCache, ModuleInfo, bytes, Signature | None], ...] | None = None

    def discard(self) -> None:
        """Drop the module and all that was found out of it: an empty one stands in its place."""
        self.kept.clear()
        self.module = new_module(self.label)

    @property
    def children(self) -> list[str]:
        return [*self.bound, *(label for label in sorted(self.friends) if label not in self.bound)]

    def imported(self, child: ModuleInfo) -> None:
        """Note that code of this module has imported *child*."""
        if child is self:
            return
        if self.executing:
            self.bound[child.label] = child
        else:
            self.friends.add(child.label)

    @property
    def closure(self) -> tuple[tuple[ModuleCache, ModuleInfo, bytes, Signature | None], ...]:
        """All that this instance was built on, transitively: for each the cache, instance, file and signature.

        Final as soon as the instance serves, that is, has a generation.
        """
        if self._closure is not None:
            return self._closure
        found: dict[int, ModuleInfo] = {id(self): self}
        todo = [self]
        while todo:
            for child in list(todo.pop().bound.values()):
                if id(child) not in found:
                    found[id(child)] = child
                    todo.append(child)
        # The file as bytes, for os.stat would encode its name each time.
        closure = tuple(
            (info.cache, info, os.fsencode(info.file), info.signature) for info in found.values() if info is not self
        )
        if self.generation:
            self._closure = closure
        return closure

    # These two are for an instance that serves, and final.

    @cached_property
    def columns(self) -> tuple[tuple[Any, ...], ...]:
        """The closure by columns: caches, instances, files, signatures."""
        return tuple(zip(*self.closure, strict=True)) or ((), (), (), ())

    @cached_property
    def pins(self) -> dict[str, ModuleInfo]:
        """What a request that imports this instance sees from then on: it, and all that it was built on, by label."""
        return {self.label: self, **{cache.label: part for cache, part, _, _ in self.closure}}

    def __repr__(self) -> str:
        return f"<ModuleInfo {self.file!r} instance={self.instance} generation={self.generation}>"


def copy_of(error: BaseException) -> BaseException:
    """*error* once more, with the traceback from the failing module down and no request's frames above it.

    One exception object raised in several threads, or kept, would gather and hold the frames of all of them.
    """
    trace = error.__traceback__
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == _HERE:
        trace = trace.tb_next
    try:
        again = copy.copy(error)
    except Exception:
        again = ImportError(f"{type(error).__name__}: {error}")
    return again.with_traceback(trace)


def detached(error: BaseException) -> BaseException:
    """*error* once more, to be kept: its traceback says the same, and holds no namespace and no request.

    A frame holds its globals, its variables and the frames below it: kept, they would be the failed module, what it has
    opened, the old instance and the whole request that has met the error.
    """
    again = copy_of(error)
    places: list[TracebackType] = []
    trace = again.__traceback__
    while trace is not None:
        places.append(trace)
        trace = trace.tb_next
    for place in reversed(places):
        code, known = place.tb_frame.f_code, place.tb_frame.f_globals
        stand_in = _stand_in.__code__.replace(co_filename=code.co_filename, co_name=code.co_name)
        names = {"__name__": known.get("__name__"), "__mp_info__": known.get("__mp_info__")}
        # The frame of a generator that has not begun belongs to no stack.
        frame = FunctionType(stand_in, names)().gi_frame
        trace = TracebackType(trace, frame, -1, place.tb_lineno)
    return again.with_traceback(trace)


def _stand_in() -> Iterator[None]:
    yield


@dataclass
class Failure:
    """The last attempt to load a file failed: why, and what has to happen before the next one."""

    error: BaseException
    files: dict[str, Signature | None]  # what the attempt has read or looked for; None: was not there
    failures: int = 1  # in a row, with the same files
    retry_at: float = 0.0  # on the monotonic clock

    @classmethod
    def after(cls, previous: Failure | None, error: BaseException, files: dict[str, Signature | None]) -> Failure:
        again = previous is not None and previous.files == files
        failures = previous.failures + 1 if again and previous else 1
        delay = min(FIRST_RETRY * 2 ** (failures - 1), LAST_RETRY)
        return cls(detached(error), files, failures, retry_at=time.monotonic() + delay)

    def is_due(self) -> bool:
        """Has its time come, or has one of its files changed?"""
        return time.monotonic() >= self.retry_at or any(signature_of(file) != seen for file, seen in self.files.items())


class ModuleCache:
    """``__mp_info__.cache``: what all instances of one file share. (reload contract, item 4)"""

    def __init__(self, file: str) -> None:
        self.file = file
        self.label = label_of(file)
        self.info: ModuleInfo | None = None  # the instance that serves
        self.failure: Failure | None = None
        self.removed = False  # its file is gone
        self.checked = 0.0  # monotonic
        self.path: list[str] = []  # __mp_path__ at the last load
        self.atime = self.ctime = 0.0  # last import and last load, seconds since the epoch
        self.direct = self.indirect = 0  # imports by requests, and by other modules

    def forget(self, info: ModuleInfo) -> bool:
        """Its file is gone and *info* is to be retired: False where another thread has done so, or the file is back."""
        if self.info is not info or not self.removed:
            return False
        self.info = self.failure = None
        self.removed = False
        sys.modules.pop(self.label, None)
        return True

    @property
    def module(self) -> ModuleType | None:
        return self.info.module if self.info else None

    @property
    def mtime(self) -> float:
        return self.info.mtime if self.info else 0.0

    @property
    def instance(self) -> int:
        return self.info.instance if self.info else 0

    @property
    def generation(self) -> int:
        return self.info.generation if self.info else 0

    @property
    def children(self) -> list[str]:
        return list(self.info.bound) if self.info else []

    @property
    def reload(self) -> bool:
        return self.failure is not None

    def __repr__(self) -> str:
        return f"<ModuleCache {self.file!r} instance={self.instance} generation={self.generation}>"
