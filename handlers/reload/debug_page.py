"""The page that PythonDebug shows in place of an answer: the traceback, and the modules that it runs through.

It shows source lines and the state of the module cache, never the values of variables. (reload contract, item 49)
"""

from __future__ import annotations

import html
import time
import traceback
from collections.abc import Iterable
from types import TracebackType

from handlers.reload.modules import ModuleCache, ModuleInfo

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Mod_python error: {title}</title></head>
<body><h1>Mod_python error: {title}</h1>
<p>{where}</p>
<pre>
{traceback}</pre>
<h2>MODULE CACHE DETAILS</h2>
<pre>
{modules}</pre>
</body></html>
"""


def error_page(title: str, error: BaseException, caches: Iterable[ModuleCache], imported: Iterable[str] = ()) -> str:
    """The page for *error*; *caches* are all modules, *imported* the labels of those that the request has imported."""
    known = list(caches)
    failed = _failed_module(error, known)
    labels = {*imported, *(info.label for info in chain_of(error))}
    if failed is not None:
        labels |= {failed.label, *(cache.label for cache in _importers_of(failed, known))}
    return _PAGE.format(
        title=html.escape(title),
        where=html.escape(_where(error, failed, known)),
        traceback=html.escape("".join(traceback.format_exception(error))),
        modules=html.escape("\n".join(_details(cache, known) for cache in known if cache.label in labels)),
    )


def chain_of(error: BaseException) -> list[ModuleInfo]:
    """The instances whose code *error* has come through, the outermost first."""
    chain: list[ModuleInfo] = []
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        info = trace.tb_frame.f_globals.get("__mp_info__")
        if isinstance(info, ModuleInfo) and info not in chain[-1:]:
            chain.append(info)
        trace = trace.tb_next
    return chain


def _failed_module(error: BaseException, caches: list[ModuleCache]) -> ModuleCache | None:
    """The module whose code raised *error*, or could not be compiled."""
    if isinstance(error, SyntaxError):
        for cache in caches:
            if cache.file == error.filename:
                return cache
    chain = chain_of(error)
    return chain[-1].cache if chain else None


def _importers_of(cache: ModuleCache, caches: list[ModuleCache]) -> list[ModuleCache]:
    return [other for other in caches if other.info is not None and cache.label in other.info.children]


def _where(error: BaseException, failed: ModuleCache | None, caches: list[ModuleCache]) -> str:
    """Which module failed, of which generation, and who imported it."""
    if failed is None:
        return "No module that the importer manages is part of this error."
    instance = next((info for info in reversed(chain_of(error)) if info.cache is failed), None)
    if instance is not None and instance.generation:
        state = f"instance {instance.instance}, generation {instance.generation}"
    elif failed.instance:
        state = f"it could not be loaded; the last good is instance {failed.instance}, generation {failed.generation}"
    else:
        state = "it could not be loaded, and never was before"
    files = [info.file for info in reversed(chain_of(error))] + [c.file for c in _importers_of(failed, caches)]
    importers = [file for file in dict.fromkeys(files) if file != failed.file]
    by = f" Imported or called by {', '.join(map(repr, importers))}." if importers else ""
    return f"Failed in module {failed.file!r} ({state}).{by}"


def _details(cache: ModuleCache, caches: list[ModuleCache]) -> str:
    names = {known.label: known.file for known in caches}
    lines = [
        f"{cache.file} [{'RELOAD' if cache.instance > 1 else 'IMPORT'}]",
        f"    generation {cache.generation}{' [ERROR]' if cache.failure else ''}",
        f"    mtime {time.ctime(cache.mtime)}",
    ]
    if cache.info is not None:
        lines += [f"    child {names.get(label, label)}" for label in cache.info.bound]
        lines += [f"    friend {names.get(label, label)}" for label in sorted(cache.info.friends)]
    return "\n".join(lines)
