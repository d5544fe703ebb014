"""Where a module is looked for. (reload contract, items 6 to 13)"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from handlers.reload.context import Call
from handlers.reload.modules import ModuleInfo

# A page that bears the name of one of these must not hide it from the pages beside it.
RESERVED = frozenset({"handlers", "mod_python", "mpool"})


def is_explicit(name: str) -> bool:
    """Is *name* a path to a file, and not a name to be looked for?"""
    return name.startswith(("/", "~/", "./", "../"))


def is_managed(name: str) -> bool:
    """May a module of this name be ours? Packages and dotted names never are."""
    return ("." not in name or "/" in name) and name not in RESERVED


def resolve(path: str, call: Call, caller: ModuleInfo | None) -> str | None:
    """*path* with a leading ``~``, ``.`` or ``..`` resolved; None where there is nothing to resolve it against.

    ``~`` is the handler root, ``.`` and ``..`` are relative to the importing module.
    """
    if path == "~" or path.startswith("~/"):
        return os.path.normpath(call.handler_root + path[1:]) if call.handler_root else None
    if path in (".", "..") or path.startswith(("./", "../")):
        return os.path.normpath(os.path.join(caller.directory, path)) if caller else None
    return path


def directories(call: Call, caller: ModuleInfo | None, path: Sequence[str]) -> Iterator[str]:
    """Where a bare name is looked for: *path*, beside the importing module, in its ``__mp_path__``, importer.path."""
    own = (caller.directory, *vars(caller.module).get("__mp_path__", ())) if caller is not None else ()
    for directory in (*path, *own, *call.settings.path):
        resolved = resolve(directory, call, caller)
        if resolved:
            yield resolved
