"""Loading: execute a file beside the instance that serves, then swap the two, or put everything back.

Read and compile first, then clone into the new module, execute, and swap only on success. Whatever fails on the way,
the old instance goes on serving and keeps its state. (reload contract, items 30 to 36)
"""

from __future__ import annotations

import linecache
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from types import CodeType

from handlers.reload import files, hooks
from handlers.reload.context import Call
from handlers.reload.failures import Failure, copy_of, detached
from handlers.reload.loads import Load, Loads, State
from handlers.reload.modules import ModuleCache, ModuleInfo
from handlers.reload.retire import Retirement
from mpool import log

HEADROOM = 60  # calls that may nest while a load is settled, or put back


class Loader:
    """The loads of one interpreter, and what becomes of what they replace."""

    def __init__(self, caches: dict[str, ModuleCache]) -> None:
        self.loads = Loads()
        self.retirement = Retirement(self._in_use)
        self._caches = caches  # by file
        self._committed: list[Load] = []  # swapped, and what they replaced not yet retired
        self._generation = 0
        self._directories: set[str] = set()  # those that were looked for in sys.path

    def serving(self) -> list[ModuleInfo]:
        return [cache.info for cache in list(self._caches.values()) if cache.info is not None]

    def _in_use(self) -> list[ModuleInfo]:
        # What is being loaded outside of any request may have been built on an instance that is replaced meanwhile.
        return [*self.loads.under_way(), *self.serving()]

    def load(
        self, cache: ModuleCache, seen: tuple[ModuleInfo | None, Failure | None], call: Call, path: Sequence[str]
    ) -> ModuleInfo:
        def begin() -> ModuleInfo | None:
            # Between the decision and this lock another thread may have done it all.
            return None if cache.info is not seen[0] or cache.failure is not seen[1] else ModuleInfo(cache)

        _make_sure_of(HEADROOM)
        parent = call.loads[-1] if call.loads else None
        load, mine = self.loads.join(cache, parent, begin)
        if load is None:
            failure = cache.failure
            return despite(cache, failure, call) if failure else self._now(cache, call, path)
        if mine:
            self._carry_out(load, cache, call, path)
            if not load.settled:
                if parent is None:
                    self.loads.wait(load)
                else:
                    parent.took.add(load)
        elif load.state is State.EXECUTING and not load.reported:
            load.reported = True
            log("warning", f"Module imports an ancestor module: {cache.file!r} is part of an import cycle")
        if isinstance(load.error, files.Unfinished):
            return self._now(cache, call, path)  # the old one; if that was removed meanwhile, a first load, which waits
        if load.error is not None:
            failure = load.failure or Failure(detached(load.error), dict(load.watched))
            return despite(cache, failure, call, load.error)
        return load.info

    def _now(self, cache: ModuleCache, call: Call, path: Sequence[str]) -> ModuleInfo:
        return cache.info or self.load(cache, (None, cache.failure), call, path)

    def _carry_out(self, load: Load, cache: ModuleCache, call: Call, path: Sequence[str]) -> None:
        """Read, compile, clone, execute; then swap, or put everything back."""
        info, old = load.info, cache.info
        load.old = old
        cache.path = list(path) or cache.path
        outer, call.loads = call.loads, (*call.loads, load)
        checking, call.checking = call.checking, frozenset()  # what the new code imports is decided anew
        try:
            load.watched[cache.file] = files.signature_of(cache.file)  # also where it cannot be read
            source, stat = files.read_when_finished(cache.file) if old is None else files.read(cache.file)
            load.watched[cache.file] = info.signature = files.signature(stat)
            info.mtime, info.source = stat.st_mtime, source
            code = compile(source, cache.file, "exec", dont_inherit=True)
            trace(call, f"{'Importing' if old is None else 'Reimporting'} module {cache.file!r}")
            info.is_logged = is_logging(call)
            self._warn_of_sys_path(cache.file, call)
            with hooks.handing_over(old, info):
                if old is not None:
                    self._clone(load, old, source, call)
                self._execute(info, code, cache.path)
            error = self.loads.executed(load, self._commit)
            if error is not None:
                raise error
        except BaseException as error:
            self._fail(load, error, call)
        finally:
            call.loads, call.checking = outer, checking
        self._retire_replaced()

    def _warn_of_sys_path(self, file: str, call: Call) -> None:
        """A module that Python can find too would be there twice. (reload contract, item 7)"""
        directory = os.path.dirname(file)
        if is_logging(call) and directory not in self._directories:
            self._directories.add(directory)
            if directory in sys.path:
                log(
                    "warning",
                    'Module directory listed in "sys.path". This may cause problems. Please check code. '
                    f'File being imported is "{file}".',
                    source="mod_python",
                )

    @staticmethod
    def _clone(load: Load, old: ModuleInfo, source: bytes, call: Call) -> None:
        hook = hooks.clone_hook(old.module, source)
        if hook is None:
            return
        trace(call, f"Cloning module {old.file!r}")
        load.handed_to = load.info.module
        load.handed_over = hooks.clone(hook, old.module, load.handed_to)
        if not load.handed_over:
            load.info.discard()  # what the hook had put there is thrown away

    @staticmethod
    def _execute(info: ModuleInfo, code: CodeType, path: Sequence[str]) -> None:
        namespace = vars(info.module)
        namespace["__file__"] = info.file
        namespace["__mp_info__"] = info
        namespace["__mp_path__"] = list(path)
        linecache.checkcache(info.file)
        # Where dataclasses, typing and pickle look for a module's names. (reload contract, item 2)
        sys.modules[info.label] = info.module
        info.executing = info.executed = True
        try:
            exec(code, namespace)
        finally:
            info.executing = False

    def _commit(self, load: Load) -> None:
        """Swap. Called under the lock of the loads: bookkeeping only."""
        info, cache = load.info, load.info.cache
        self._generation += 1
        info.instance, info.generation = cache.instance + 1, self._generation
        cache.ctime, cache.checked = time.time(), time.monotonic()
        cache.failure, cache.removed = None, False
        cache.info = info
        self._committed.append(load)

    def _retire_replaced(self) -> None:
        """Retire what the commits since the last call have replaced; outside of any lock."""
        while True:
            try:
                load = self._committed.pop()
            except IndexError:  # another thread may have taken the last one
                break
            if load.old is not None:
                if load.handed_over:
                    hooks.report_made_anew(load.old.module, load.info.module)
                self.retirement.retire(load.old, handed_over=load.handed_over is True)
                load.old = None
        self.retire_removed()

    def retire_removed(self) -> None:
        """Retire the modules whose files are gone, but for those that a serving module was built on."""
        removed = [cache for cache in list(self._caches.values()) if cache.removed and cache.info is not None]
        if not removed:
            return
        used = {id(part) for info in self.serving() if not info.cache.removed for _, part, _, _ in info.closure}
        for cache in removed:
            info = cache.info
            # Where a load is under way the file was there a moment ago: whoever carries that out looks here again.
            if info is None or id(info) in used:
                continue
            if self.loads.unless_under_way(cache, partial(cache.forget, info)):
                log("warning", f"Module file {cache.file!r} has been removed, the module is retired")
                self.retirement.retire(info, handed_over=False)

    # -- when a load fails

    def _fail(self, load: Load, error: BaseException, call: Call) -> None:
        """Put everything back: the old instances go on serving, and are told so."""
        failing = self.loads.failing(load, error)
        try:
            for each in failing:
                if each.old is not None and each.handed_to is not None:
                    hooks.roll_back(each.old.module, each.handed_to)
        finally:
            self.loads.failed(failing, partial(self._abandon, detached(error)))
        if isinstance(error, files.Unfinished):
            return
        for each in failing:
            failure = each.failure
            if failure is not None:
                call.imports.failed(each.info.label, failure)
            if each.old is not None and failure is not None and failure.failures == 1 and call.settings.serve_last_good:
                log("err", f"Reloading module {each.info.file!r} failed, instance {each.old.instance} "
                           f"goes on serving: {hooks.summary(error)}")  # fmt: skip
            if each.info.executed:
                self.retirement.retire(each.info, handed_over=True)  # for what the new code has opened

    @staticmethod
    def _abandon(error: BaseException, load: Load) -> None:
        """Called under the lock of the loads: bookkeeping only. *error* is detached."""
        cache = load.info.cache
        if cache.info is not None:
            sys.modules[cache.label] = cache.info.module
        else:
            sys.modules.pop(cache.label, None)
        if not isinstance(error, files.Unfinished):
            cache.failure = load.failure = Failure.after(cache.failure, error, dict(load.watched))


def despite(cache: ModuleCache, failure: Failure, call: Call, error: BaseException | None = None) -> ModuleInfo:
    """The last good instance, where there is one and it is to serve; the error otherwise, for all of this request.

    *error* is the one itself, where it has just been met.
    """
    info = cache.info
    if info is not None and call.settings.serve_last_good:
        return info
    if call.loads:
        call.loads[-1].watched.update(failure.files)
    call.imports.failed(cache.label, failure)
    raise copy_of(error or failure.error)


def _make_sure_of(calls: int) -> None:
    """RecursionError here, where nothing has been begun, and not later: whoever waits for an unsettled load hangs."""
    if calls:
        _make_sure_of(calls - 1)


def is_logging(call: Call) -> bool:
    return call.settings.debug if call.log is None else call.log


def trace(call: Call, message: str) -> None:
    """What is imported, where logging is on. (reload contract, item 21)"""
    if is_logging(call):
        log("notice", message, source="mod_python")
