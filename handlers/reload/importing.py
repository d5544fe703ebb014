"""The module importer: find, decide, and have it loaded and swapped.

Modules are identified by file. A changed file is loaded anew beside the old instance, which keeps serving until the
new one has been executed without an error, and for good if there is one. Then the two are swapped in one step, and the
old instance is retired: see ``handlers.retire``. The rules are those of mod_python 3.3; README.rst lists, item by item,
what is kept and what is better.
"""

from __future__ import annotations

import builtins
import errno
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import FrameType, ModuleType
from typing import Any

from handlers import files, finder
from handlers.context import Call, Settings, current, entered
from handlers.failures import Failure
from handlers.graph import graph
from handlers.loader import Loader, despite
from handlers.modules import ModuleCache, ModuleInfo, label_of
from mpool import interpreter_name, log, on_child_exit

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


# -- the importer of this interpreter ----------------------------------------------------------------------------------

_importer = Importer()
_plain_import = builtins.__import__
_BUILT_IN = frozenset(sys.builtin_module_names)


def _outside(req: Any) -> Call:
    """For an import that no dispatch of ours is responsible for: a thread's, a cleanup's. ``install`` replaces it.

    What it imports is remembered for this one import only. (reload contract, items 25 and 43)
    """
    return Call()


def _begin_again(caller: FrameType) -> Any:
    """What a dispatch of mod_python's own is to take for the module; None for any other *caller*. Replaced likewise."""
    return None


def import_module(
    name: str, autoreload: bool | None = None, log: bool | None = None, path: Sequence[str] | None = None
) -> ModuleType:
    """The module *name*, reloaded if it has changed. (mod_python manual, section "import_module")

    *name* is a bare name (looked for in *path*, beside the importing module, in its ``__mp_path__`` and in
    ``PythonOption mod_python.importer.path``, then imported by Python), or a path with its extension: absolute, from
    the handler root (``~/``) or relative to the importing module (``./``, ``../``). Within a request every import of a
    file gives the same module. *autoreload* and *log* default to PythonAutoReload and PythonDebug.

    Raises ModuleNotFoundError for a name, FileNotFoundError for a path that is not there, and whatever the module's
    own code raises, where no earlier instance of it can serve.
    """
    caller = sys._getframe(1)  # the direct caller and no further: a wrapper is the importing module then
    info = caller.f_globals.get("__mp_info__")
    call = current()
    if call is None:
        again: ModuleType | None = _begin_again(caller)
        if again is not None:
            return again
        call = _outside(None)
    if info.__class__ is not ModuleInfo:
        info = call.loads[-1].info if call.loads else None
    if log is not None:
        call = call.but(log=log)
    if autoreload is not None:
        call = call.but(settings=replace(call.settings, autoreload=bool(autoreload)))
    with entered(call):
        found = _importer.find(name, call, info, path or ())
        if found is None:
            return _plain_import(name, {}, {}, ["*"])
        # The path of an explicit import is the module's own search path from then on. (reload contract, item 13)
        own_path = path if path and finder.is_explicit(name) else ()
        return _importer.obtain(found, call, info, own_path).module


def page_module(req: Any, filename: str) -> ModuleType:
    """The module of the page *filename* for this request; FileNotFoundError where there is no such file."""
    call = current()
    if call is not None and call.req is req:
        return _importer.page(filename, call)
    call = _outside(req)
    with entered(call):
        return _importer.page(filename, call)


def statement(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """What ``import`` statements call after ``install()``: in a managed module a bare name is looked for beside it.

    The importing module is known by the globals that the statement passes, and by nothing else; a call of
    ``__import__`` without them means its direct caller's. C code that imports passes an empty list, and means Python's
    own modules: with that list what is beside the module is found only where Python has none of that name.
    (reload contract, item 44) The built-in modules are Python's, as they are in any script.
    """
    if not level and "." not in name and name not in _BUILT_IN:
        own = globals
        if own is None:
            caller = sys._getframe().f_back
            own = caller.f_globals if caller is not None else {}
        info = own.get("__mp_info__")
        if isinstance(info, ModuleInfo):
            if fromlist == []:
                return _after_python(name, globals, locals, info)
            module = _beside(name, info)
            if module is not None:
                return module
    return _plain_import(name, globals, locals, fromlist, level)


def _after_python(
    name: str, globals: Mapping[str, Any] | None, locals: Mapping[str, Any] | None, info: ModuleInfo
) -> ModuleType:
    try:
        return _plain_import(name, globals, locals, [], 0)
    except ModuleNotFoundError as error:
        module = _beside(name, info) if error.name == name else None
        if module is None:
            raise
        return module


def _beside(name: str, info: ModuleInfo) -> ModuleType | None:
    call = current()
    if call is None:
        call = _outside(None)
    key = (info.directory, name)
    if key in call.imports.outside and not info.executing:
        return None
    with entered(call):
        found = _importer.find(name, call, info, ())
        if found is None:
            call.imports.outside |= {key}
            return None
        return _importer.obtain(found, call, info).module


def freeze_modules() -> None:
    """No module of this interpreter is checked or reloaded any more, until the child ends."""
    _importer.freeze()


def modules_graph(verbose: int = 0) -> str:
    """The modules of this interpreter and what each was built on, as text for Graphviz."""
    return graph("GLOBAL", ((cache, cache.children) for cache in _importer.caches()), bool(verbose))


def request_modules_graph(verbose: int = 0) -> str:
    """The modules that the present request has imported, and all that each has imported, as text for Graphviz."""
    call = current()
    infos = list(call.imports.infos.values()) if call else []
    return graph("REQUEST", ((info.cache, info.children) for info in infos), bool(verbose))


def module_info(label: str) -> ModuleCache:
    """What is known of the module *label* (its ``__name__``); KeyError for any other name."""
    for cache in _importer.caches():
        if cache.label == label:
            return cache
    raise KeyError(label)


def python_path(path: list[str]) -> list[str]:
    """Install the importer in whichever interpreter evaluates this, and answer with *path*.

    For ``PythonPath "__import__('handlers.importer').importer.python_path(sys.path)"``: mod_python evaluates that in
    each interpreter, before its first import, and so reaches those that no PythonImport line names. It goes together
    with ``PythonImport psycopg2 main_interpreter``: two interpreters that import psycopg2 first, at the same moment,
    break it for the whole child.
    """
    install()
    return path


def install() -> None:
    """Switch the importer on for the interpreter that this is called in; a second call changes nothing.

    ``PythonImport handlers.importer::install NAME``, as the last line but the one that imports psycopg2.
    """
    global _outside, _begin_again
    from handlers import dispatch

    if dispatch.install(_importer):
        _outside = dispatch.call_outside
        _begin_again = dispatch.begin_again
        builtins.__import__ = statement
        on_child_exit(_importer.retirement.child_ends)
        log("info", f"the importer is installed in interpreter {interpreter_name()!r}")
