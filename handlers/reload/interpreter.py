"""The importer of this interpreter, and the functions that its modules call."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import FrameType, ModuleType
from typing import Any

from handlers.reload import finder
from handlers.reload.context import Call, current, entered
from handlers.reload.graph import graph
from handlers.reload.importing import Importer
from handlers.reload.modules import ModuleCache, ModuleInfo

importer = Importer()
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
        found = importer.find(name, call, info, path or ())
        if found is None:
            return _plain_import(name, {}, {}, ["*"])
        # The path of an explicit import is the module's own search path from then on. (reload contract, item 13)
        own_path = path if path and finder.is_explicit(name) else ()
        return importer.obtain(found, call, info, own_path).module


def page_module(req: Any, filename: str) -> ModuleType:
    """The module of the page *filename* for this request; FileNotFoundError where there is no such file."""
    call = current()
    if call is not None and call.req is req:
        return importer.page(filename, call)
    call = _outside(req)
    with entered(call):
        return importer.page(filename, call)


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
        found = importer.find(name, call, info, ())
        if found is None:
            call.imports.outside |= {key}
            return None
        return importer.obtain(found, call, info).module


def freeze_modules() -> None:
    """No module of this interpreter is checked or reloaded any more, until the child ends."""
    importer.freeze()


def modules_graph(verbose: int = 0) -> str:
    """The modules of this interpreter and what each was built on, as text for Graphviz."""
    return graph("GLOBAL", ((cache, cache.children) for cache in importer.caches()), bool(verbose))


def request_modules_graph(verbose: int = 0) -> str:
    """The modules that the present request has imported, and all that each has imported, as text for Graphviz."""
    call = current()
    infos = list(call.imports.infos.values()) if call else []
    return graph("REQUEST", ((info.cache, info.children) for info in infos), bool(verbose))


def module_info(label: str) -> ModuleCache:
    """What is known of the module *label* (its ``__name__``); KeyError for any other name."""
    for cache in importer.caches():
        if cache.label == label:
            return cache
    raise KeyError(label)


def connect(outside: Callable[[Any], Call], begin_again: Callable[[FrameType], Any]) -> None:
    """Inside Apache: *outside* gives the context of an import that no dispatch of ours is responsible for, and
    *begin_again* what a dispatch of mod_python's own is to take for the module. From now on ``import`` is ours."""
    globals().update(_outside=outside, _begin_again=begin_again)
    builtins.__import__ = statement
