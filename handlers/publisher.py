"""The publisher: `PythonHandler handlers.publisher` makes the functions of a directory's modules its pages.

The same URLs and functions as mod_python.publisher, and the differences that make them safe; README.rst has the table.
"""

from __future__ import annotations

import functools
import os
import re
from types import ModuleType
from typing import Any

from handlers.errors import HttpError
from handlers.pages import traversal
from handlers.pages.access import admit
from handlers.pages.forms import Form, Upload, read_form
from handlers.pages.results import Response, not_modified
from handlers.pages.serving import is_debug, log_error, path_of, redirect, serve
from handlers.pages.traversal import Refused, Target, publish
from handlers.reload.interpreter import page_module
from handlers.request import leases

__all__ = ["Form", "HttpError", "Response", "Upload", "handler", "not_modified", "publish", "redirect"]


def handler(req: Any) -> int:
    """The mod_python handler."""
    return serve(req, _respond)


def _respond(req: Any) -> Any:
    """The result of the function that the request's path leads to."""
    module, path = locate(req)
    try:
        target = traversal.resolve(module, path)
    except Refused as refused:
        # What is private and what does not exist look the same, but to a developer.
        raise HttpError(403 if refused.exists and is_debug(req) else 404, reason=str(refused)) from None
    if target.is_handler:
        assert target.cls is not None
        return target.cls.respond(req, traversal.all_values(target, module, target.levels[:-1]))  # type: ignore[attr-defined]
    return _call(req, module, target)


def _call(req: Any, module: ModuleType, target: Target) -> Any:
    # Before the body is read, and before any code of the page but its access rules runs.
    if not target.is_open(module):
        admit(req, traversal.all_values(target, module, target.levels))
    if req.method not in target.methods:
        req.allow_methods(list(target.methods), 1)
        raise HttpError(405, headers={"Allow": ", ".join(target.methods)})
    form = req.form = read_form(req)
    groups = form.grouped() if form.list else {}
    call = target.call
    if target.cls is not None:
        args, kwargs = target.constructor.bind(groups, req, leases.connection) if target.constructor else ([], {})
        instance = target.cls(*args, **kwargs)
        admit(req, traversal.all_values(target, module, [*target.levels[:-1], instance]))
        call = target.bound_to(instance)
    assert target.plan is not None
    args, kwargs = target.plan.bind(groups, req, leases.connection)
    return call(*args, **kwargs)


@functools.lru_cache(maxsize=64)
def _suffixes(of_handler: str, extension: str | None) -> re.Pattern[str]:
    """Matches `.py`, an extension of AddHandler, or the one that was asked for, at the end of a name."""
    names = ["py", *of_handler.split()]
    if extension:
        names.append(extension[1:])
    return re.compile("(?:" + "|".join(re.escape("." + name) for name in names) + ")$")


#: A file in which a page may be, as the operating system takes it and as mod_python does; and the path inside it.
_Place = tuple[str, str, str]


@functools.lru_cache(maxsize=1024)
def _places(filename: str, path_info: str | None, suffixes: re.Pattern[str] | None) -> tuple[_Place, ...]:
    """Where to look for the page that a request is for, in this order."""
    directory, _, name = filename.rpartition("/")
    if suffixes is not None:
        name = suffixes.sub("", name)
    name = name or "index"
    inside = path_info[1:].removesuffix("/").replace("/", ".") if path_info else ""
    candidates = [(name, inside or "index"), ("index", f"{name}.{inside}" if inside else name)]
    places = []
    for module, path in candidates:
        if not module.startswith(("_", ".")) and "\0" not in module:
            file = os.path.normpath(f"{directory}/{module}.py").encode("utf-8")
            # mod_python reads names as UTF-8, and takes a text as ISO-8859-1; under LANG=C Python's own calls take
            # ASCII and escaped bytes only.
            places.append((os.fsdecode(file), file.decode("latin-1"), path))
    return tuple(places)


def locate(req: Any) -> tuple[ModuleType, str]:
    """The page module that the request is for, and the path of names inside it, joined by dots.

    As mod_python's publisher finds them: `/directory/name` is `name.py`, or else the name `name` in `index.py`;
    a directory is its `index.py`; what follows in the URL are names; none is `index`. HttpError 404 where there is
    no such module.
    """
    try:
        filename, suffixes = req.filename, None
        if filename.rfind(".") > filename.rfind("/"):
            suffixes = _suffixes(req.get_addhandler_exts(), req.extension)
        places = _places(filename, req.path_info, suffixes)
    except UnicodeError:
        raise HttpError(404, reason="the path is not UTF-8") from None
    for file, name, inside in places:
        module = _page(req, file)
        if module is not None:
            req.filename = name
            return module, inside
    raise HttpError(404, reason="there is no such page")


def _page(req: Any, file: str) -> ModuleType | None:
    """The module of *file*; None where there is none. Its load error is raised."""
    try:
        try:
            return page_module(req, file)
        except FileNotFoundError as error:
            if error.filename != file:
                raise  # it is the page's own code that misses a file
            # It may be being replaced, by removing it first.
            return page_module(req, file) if os.path.exists(file) else None
    except OSError as error:
        if error.filename == file:
            log_error(req, f"{path_of(req)}: {error}", "info")
            return None  # a name too long, or not a directory
        raise
