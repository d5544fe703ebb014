"""What an import knows of the request that it is made for.

Nothing here is keyed by thread-local storage or context variables: under mod_python these belong to a pooled thread
state, not to the thread (measured: they hold other requests' values). The thread's identity is used, and only for as
long as one dispatch runs on it.
"""

from __future__ import annotations

import ast
import functools
import math
import os
import threading
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from handlers.reload.failures import Failure
from handlers.reload.loads import Load
from handlers.reload.modules import ModuleInfo


class Imports:
    """What one main request has imported so far: the same objects in all its phases, filters and subrequests.

    What could not be loaded is not executed once more for it, either. (reload contract, items 23 and 24)
    """

    is_under_way = False  # the importer knows of it
    # Replaced, never changed: most requests put something into the first only.
    infos: Mapping[str, ModuleInfo] = MappingProxyType({})  # by label
    failures: Mapping[str, Failure] = MappingProxyType({})  # by label
    outside: frozenset[tuple[str, str]] = frozenset()  # (directory, name): found there is none, a standard import
    filters: tuple[Any, ...] = ()  # mod_python's objects of the filters that have run for it

    def failed(self, label: str, failure: Failure) -> None:
        """The module *label* could not be loaded for this request."""
        self.failures = {**self.failures, label: failure}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the configuration in force says of reloading."""

    autoreload: bool = True  # PythonAutoReload
    debug: bool = False  # PythonDebug
    keep_last_good: bool = True  # PythonOption handlers.keep_last_good
    check_interval: float = 0.0  # PythonOption handlers.check_interval, seconds between two checks of a file
    path: tuple[str, ...] = ()  # PythonOption mod_python.importer.path

    @property
    def serve_last_good(self) -> bool:
        return self.keep_last_good and not self.debug


DEFAULTS = Settings()


def settings(config: Mapping[str, str], options: Mapping[str, str]) -> Settings:
    """The settings in *config*, mod_python's directives, and *options*, the values of PythonOption."""
    return _settings(
        config.get("PythonAutoReload", "1"),
        config.get("PythonDebug", "0"),
        options.get("handlers.keep_last_good", "on"),
        options.get("handlers.check_interval", "0"),
        options.get("mod_python.importer.path", "()"),
    )


@functools.lru_cache(maxsize=64)
def _interval(autoreload: str, check_interval: str) -> float:
    return _seconds("handlers.check_interval", check_interval) if autoreload != "0" else math.inf


@functools.lru_cache(maxsize=64)
def _settings(autoreload: str, debug: str, keep_last_good: str, check_interval: str, path: str) -> Settings:
    return Settings(
        autoreload=autoreload != "0",
        debug=debug == "1",
        keep_last_good=_switch("handlers.keep_last_good", keep_last_good),
        check_interval=_seconds("handlers.check_interval", check_interval),
        path=search_path(path),
    )


def _switch(option: str, text: str) -> bool:
    if text.lower() in ("on", "1", "true", "yes"):
        return True
    if text.lower() in ("off", "0", "false", "no"):
        return False
    raise ValueError(f"PythonOption {option} must be On or Off, not {text!r}")


def _seconds(option: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"PythonOption {option} must be a number of seconds, not {text!r}")
    return seconds


@functools.lru_cache(maxsize=64)
def search_path(text: str) -> tuple[str, ...]:
    """``mod_python.importer.path``: a Python list of directories. A literal, never evaluated. (reload contract, 14)"""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"PythonOption mod_python.importer.path must be a list of directories, not {text!r}")
    return tuple(value)


class Call:
    """One dispatch (phase, filter, connection handler), or one import outside of any."""

    log: bool | None = None  # note what is imported; None: where PythonDebug is On
    loads: tuple[Load, ...] = ()  # those that this call executes, the innermost last
    checking: frozenset[str] = frozenset()  # labels whose children are being checked

    def __init__(
        self,
        imports: Imports | None = None,
        settings: Settings | None = None,
        req: Any = None,
        handler_root: str | None = None,
    ) -> None:
        """*settings* and *handler_root* are those of *req*, where they are not given."""
        self.imports = Imports() if imports is None else imports
        self.req = req
        self._settings = settings
        self._handler_root = handler_root

    # What most requests do not ask for is read when it is.

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            req = self.req
            self._settings = DEFAULTS if req is None else settings(req.get_config(), req.get_options())
        return self._settings

    @property
    def check_interval(self) -> float:
        """Seconds between two checks of a file; infinite where it is not checked at all."""
        known, req = self._settings, self.req
        if known is None and req is not None:
            return _interval(
                req.get_config().get("PythonAutoReload", "1"), req.get_options().get("handlers.check_interval", "0")
            )
        known = self.settings
        return known.check_interval if known.autoreload else math.inf

    @property
    def handler_root(self) -> str | None:
        """What ``~`` stands for."""
        if self._handler_root:
            return os.path.normpath(self._handler_root)
        return None if self.req is None else str(self.req.document_root())

    def but(self, *, log: bool | None = None, settings: Settings | None = None) -> Call:
        """A copy with the one or the other changed."""
        other = copy(self)
        other.log = self.log if log is None else log
        other._settings = self._settings if settings is None else settings
        return other


_calls: dict[int, Call] = {}  # by thread


def current() -> Call | None:
    """The call that this thread is in; None outside of any dispatch."""
    return _calls.get(threading.get_ident())


def in_dispatch() -> set[Imports]:
    """The main requests that a handler or filter runs for at this moment, whatever the thread."""
    return {call.imports for call in list(_calls.values())}


def begin(call: Call) -> Call | None:
    """From now on ``current()`` is *call*, on this thread; returns what is to be given to ``end``."""
    thread = threading.get_ident()
    outer = _calls.get(thread)
    _calls[thread] = call
    return outer


def end(outer: Call | None) -> None:
    """From now on ``current()`` is *outer* again."""
    if outer is None:
        _calls.pop(threading.get_ident(), None)
    else:
        _calls[threading.get_ident()] = outer


class entered:
    """Within this block ``current()`` is *call*, on this thread; dispatches nest."""

    __slots__ = ("_call", "_outer")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> Call:
        self._outer = begin(self._call)
        return self._call

    def __exit__(self, *exc: object) -> None:
        end(self._outer)
