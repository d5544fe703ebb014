"""What the importer keeps of each file, and of each instance of its module."""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cached_property
from operator import attrgetter, is_not
from types import ModuleType
from typing import Any

from handlers.reload.failures import Failure
from handlers.reload.files import Signature
from handlers.reload.watch import Watch

_INFO = attrgetter("info")


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
        self.is_logged = False  # what becomes of it is noted, as its load was
        self.bound: dict[str, ModuleInfo] = {}  # by label: imported while the code was executed
        self.friends: set[str] = set()  # labels imported later, from within functions
        self.signature: Signature | None = None
        self.source: bytes | None = None  # what was executed; the file may have changed since
        self.mtime = 0.0
        self.instance = self.generation = 0  # 0: it does not serve yet
        self.kept: dict[str, Any] = {}  # what the publisher has found out of this instance's names, by path
        self._closure: tuple[tuple[ModuleCache, ModuleInfo, bytes, Signature | None], ...] | None = None

    def discard(self) -> None:
        """Drop the module and all that was found out of it: an empty one stands in its place.

        Where its imports look stays known: a function of it may live on in a callback.
        """
        self.kept.clear()
        known = vars(self.module)
        self.module = new_module(self.label)
        if "__mp_path__" in known:
            vars(self.module)["__mp_path__"] = known["__mp_path__"]

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

    # These are for an instance that serves, and final.

    @cached_property
    def columns(self) -> tuple[tuple[Any, ...], ...]:
        """The closure by columns: caches, instances, files, signatures."""
        return tuple(zip(*self.closure, strict=True)) or ((), (), (), ())

    def parts_serve(self) -> bool:
        """Is all that it was built on what serves?"""
        caches, parts, *_ = self.columns
        return not any(map(is_not, map(_INFO, caches), parts))

    @cached_property
    def watch(self) -> Watch:
        """Its file, and those of its closure."""
        return Watch([self.file, *(part.file for _, part, _, _ in self.closure)])

    @cached_property
    def pins(self) -> dict[str, ModuleInfo]:
        """What a request that imports this instance sees from then on: it, and all that it was built on, by label."""
        return {self.label: self, **{cache.label: part for cache, part, _, _ in self.closure}}

    def __repr__(self) -> str:
        return f"<ModuleInfo {self.file!r} instance={self.instance} generation={self.generation}>"


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
