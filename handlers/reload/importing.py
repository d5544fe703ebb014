"""The module importer: find, decide, and have it loaded and swapped.

Modules are identified by file. A changed file is loaded anew beside the old instance, which keeps serving until the
new one has been executed without an error, and for good if there is one. Then the two are swapped in one step, and the
old instance is retired: see retire.py. The rules are those of mod_python 3.3; README.rst lists, item by item,
what is kept and what is better.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Sequence
from types import ModuleType

from handlers.reload import files, finder
from handlers.reload.context import Call, Settings
from handlers.reload.failures import Failure
from handlers.reload.loader import Loader, despite
from handlers.reload.modules import ModuleCache, ModuleInfo, label_of

Found = tuple[ModuleCache, "os.stat_result | None"]


class Importer:
    """The managed modules of one interpreter."""

    def __init__(self) -> None:
        self._caches: dict[str, ModuleCache] = {}  # by file
        self._places: dict[tuple[str, str], str] = {}  # (directory, name) -> the file that was found there before
        self._frozen = False
        self.loader = Loader(self._caches)
        self.retirement = self.loader.retirement

    def caches(self) -> list[ModuleCache]:
        """Those of files that are there; one whose file was removed is kept, but not shown."""
        return [cache for cache in list(self._caches.values()) if cache.info is not None or cache.failure is not None]

    def freeze(self) -> None:
        self._frozen = True

    # -- find

    def find(self, name: str, call: Call, caller: ModuleInfo | None, path: Sequence[str]) -> Found | None:
        """The cache of the managed module *name*, and the stat that was made to find it; None: a standard import."""
        place = self._places.get((path[0], name)) if path else None
        if place is not None:  # a handler, found where it was the last time
            found = self._at(place, call)
            if found is not None:
                return found
        if finder.is_explicit(name):
            file = finder.resolve(name, call, caller)
            if file is None:
                return None
            found = self._at(os.path.normpath(file), call)
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "No such module file", file)
            return found
        if not finder.is_managed(name):
            return None
        for directory in finder.directories(call, caller, path):
            place = self._places.get((directory, name))
            found = self._at(place or os.path.normpath(os.path.join(directory, name + ".py")), call)
            if found is not None:
                self._places[(directory, name)] = found[0].file
                return found
        return None

    def page(self, file: str, call: Call) -> ModuleType:
        """The module of the page *file*, by its path; FileNotFoundError where there is no such file."""
        found = self._at(file if file in self._caches else os.path.abspath(file), call)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "No such module file", file)
        return self.obtain(found, call, None).module

    def _at(self, file: str, call: Call) -> Found | None:
        """The module of *file*, if there is such a file."""
        cache = self._caches.get(file)
        if cache is not None and cache.info is not None and self._may_serve(cache, cache.info, call):
            return cache, None
        if call.loads:  # before the look that counts, which may raise
            call.loads[-1].watched[file] = files.signature_of(file)
        found = files.look(file)
        if found is not None:
            cache = cache or self._caches.setdefault(file, ModuleCache(file))
            cache.removed = False
            return cache, found
        pinned = call.imports.infos.get(label_of(file))
        if pinned is not None:
            return pinned.cache, None  # the file is gone, but this request has the module (reload contract, item 23)
        if cache is not None and cache.info is not None and not cache.removed:
            if not files.is_gone(file):
                return cache, files.look(file)
            cache.removed = True
            self.loader.retire_removed()
        return None

    def _may_serve(self, cache: ModuleCache, info: ModuleInfo, call: Call) -> bool:
        """May *info* serve without a closer look: none is due, or nothing has changed? Where in doubt, no."""
        if cache.label in call.imports.infos:
            return True
        interval = math.inf if self._frozen else call.check_interval
        if interval == math.inf:
            return cache.failure is None  # (reload contract, item 20)
        if interval and time.monotonic() - cache.checked < interval:
            return True
        since = math.inf if call.req is None else call.req.request_time
        if cache.failure is not None or cache.removed or not (info.watch.is_unchanged(since) and info.parts_serve()):
            return False
        if interval:
            cache.checked = time.monotonic()
        return True

    # -- decide

    def obtain(
        self,
        found: Found,
        call: Call,
        caller: ModuleInfo | None,
        path: Sequence[str] = (),
    ) -> ModuleInfo:
        """The instance of *found* for this request: the one it had before, the one that serves, or a new one."""
        cache, stat = found
        info = call.imports.infos.get(cache.label)
        if info is None:
            cache.atime = time.time()
            if caller is None:
                cache.direct += 1
            else:
                cache.indirect += 1
            info, pins = self._serving(cache, stat, call, path)
            if info.generation:
                # From now on this request sees these very instances. (reload contract, item 23)
                call.imports.infos = {**pins, **call.imports.infos} if call.imports.infos else pins
        if caller is not None:
            caller.imported(info)
            if caller.executing and call.loads:
                self._watch(info, call.loads[-1].watched)
        return info

    @staticmethod
    def _watch(info: ModuleInfo, watched: dict[str, files.Signature | None]) -> None:
        """Add to *watched* what has to change before a load that has imported *info*, and fails, is tried again."""
        parts = [(info.cache, info), *((cache, part) for cache, part, _, _ in info.closure)]
        for cache, part in parts:
            watched[cache.file] = (cache.info or part if part.generation else part).signature
        for cache, part in parts:
            failure = cache.failure if part.generation else None
            if failure is not None:  # the last good one: what its own new code has failed on
                watched.update(failure.files)

    def _serving(
        self, cache: ModuleCache, stat: os.stat_result | None, call: Call, path: Sequence[str]
    ) -> tuple[ModuleInfo, dict[str, ModuleInfo]]:
        """The instance of *cache* to use now, and what a request that imports it sees from then on, by label.

        That is all that the instance was built on, but for what the last good instance of a module with a failure was:
        it may be older than what is served beside it, and nothing else is to be built on it.
        """
        info, failure = cache.info, cache.failure
        failed = call.imports.failures.get(cache.label)
        if failed is not None:
            info = despite(cache, failed, call)
            return info, {info.label: info}
        if info is not None:
            if stat is None:  # nobody had to look
                return info, info.pins
            if self._is_fresh(info, stat):
                cache.checked = time.monotonic()
                if failure is not None and failure is cache.failure:
                    cache.failure = None  # the change that failed has been taken back
                return info, info.pins
            if not files.is_quiet(stat):
                return info, {info.label: info}  # until it is complete
            if failure is not None and not self._try_again(failure, call.settings):
                info = despite(cache, failure, call)
                return info, {info.label: info}
            if not self._must_execute(cache, info, stat, call):
                info = cache.info or info
                return info, {info.label: info}
        loaded = self.loader.load(cache, (info, failure), call, path)
        if loaded is info:
            return info, {info.label: info}
        pins = {part.cache.label: part for _, part, _, _ in loaded.closure if part.cache.info is part}
        return loaded, {**pins, loaded.label: loaded}

    @staticmethod
    def _is_fresh(info: ModuleInfo, stat: os.stat_result) -> bool:
        """Has nothing changed since *info* was loaded, neither its file nor what it was built on? One stat for each."""
        if files.signature(stat) != info.signature:
            return False
        _, _, paths, signatures = info.columns
        try:
            # In C, since every request waits for it.
            seen = tuple(map(files.signature, map(os.stat, paths)))
        except OSError:
            return False
        if seen != signatures or not info.parts_serve():
            return False
        info.watch.note([info.signature, *signatures])
        return True

    @staticmethod
    def _try_again(failure: Failure, settings: Settings) -> bool:
        return not (settings.keep_last_good or settings.debug) or failure.is_due()

    def _must_execute(self, cache: ModuleCache, info: ModuleInfo, stat: os.stat_result, call: Call) -> bool:
        """Has the file changed, or is one of the modules it imports not the one that it was built on?

        Brings those up to date on the way, so only changed files and what was built on them are executed.
        (reload contract, item 27)
        """
        if files.signature(stat) != info.signature:
            return True
        if cache.label in call.checking:
            return False  # a cycle: whoever began it decides
        outer, call.checking = call.checking, call.checking | {cache.label}
        try:
            return any(self._replaced(bound, call) for bound in list(info.bound.values()))
        finally:
            call.checking = outer

    def _replaced(self, bound: ModuleInfo, call: Call) -> bool:
        child = bound.cache
        pinned = call.imports.infos.get(child.label)
        if pinned is not None:
            # This request may have begun before the child's last reload; what was built on that is not set back.
            return pinned is not bound and child.info is not bound
        try:
            stat = files.look(child.file)
        except OSError:
            return True  # whoever imports it is told why
        if stat is None and files.is_gone(child.file):
            child.removed = True
            return True
        child.removed = False
        return self._serving(child, stat, call, child.path)[0] is not bound
