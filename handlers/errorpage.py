"""The page that PythonDebug shows in place of an answer: the traceback, and the modules that it runs through.

It shows source lines and the state of the module cache, never the values of variables. (reload contract, item 49)
"""

from __future__ import annotations

import html
import time
import traceback
from collections.abc import Iterable
from types import TracebackType

from handlers.modules import ModuleCache, ModuleInfo

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


def error_page(title: str, error: BaseException, caches: Iterable[ModuleCache]) -> str:
    """The page for *error*; *caches* are the modules that the request or the failure has to do with."""
    known = list(caches)
    return _PAGE.format(
        title=html.escape(title),
        where=html.escape(_where(error, known)),
        traceback=html.escape("".join(traceback.format_exception(error))),
        modules=html.escape("\n".join(_details(cache, known) for cache in known)),
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


def _where(error: BaseException, caches: list[ModuleCache]) -> str:
    """Which module failed, of which generation, and who imported it."""
    chain = chain_of(error)
    if isinstance(error, SyntaxError):
        unread = [cache for cache in caches if cache.file == error.filename]
        if unread:
            return _failed(unread[0].file, unread[0], [info.file for info in reversed(chain)])
    if not chain:
        return "No module that the importer manages is part of this error."
    failed = chain[-1]
    return _failed(failed.file, failed.cache, [info.file for info in reversed(chain[:-1])], failed)


def _failed(file: str, cache: ModuleCache, importers: list[str], info: ModuleInfo | None = None) -> str:
    if info is not None and info.generation:
        state = f"instance {info.instance}, generation {info.generation}"
    elif cache.instance:
        state = f"it could not be loaded; the last good is instance {cache.instance}, generation {cache.generation}"
    else:
        state = "it could not be loaded, and never was before"
    by = f" Called or imported by {', '.join(map(repr, importers))}." if importers else ""
    return f"Failed in module {file!r} ({state}).{by}"


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
