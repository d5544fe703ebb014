"""``__mp_clone__``, ``__mp_purge__`` and ``__mp_rollback__``: when they are called, and what the stock ones carry.

``__mp_clone__(module)``
    on the old module, when its file has changed and the new code has been read and compiled. *module* is the new one,
    still empty; what the hook puts there is there when the new code runs. (reload contract, items 30 to 34)
``__mp_rollback__(module)``
    on the old module, when the new code failed after a clone: *module* is the new one, about to be dropped. The old
    one goes on serving; a hook that has moved things takes them back here. Optional; an addition to mod_python 3.3.
``__mp_purge__()`` or ``__mp_purge__(module)``
    on a module that has been retired without a hand-over, once, after the last request on it has ended. *module* is
    the retired one.
"""

from __future__ import annotations

import ast
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from handlers.reload.failures import is_ours, text_of
from handlers.reload.modules import ModuleInfo
from handlers.reload.source import parse
from mpool import describe, is_connection, is_pool, is_registered, log

KEEP = "__mp_keep__"

_LOCKS = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
    threading.Event,
    threading.Barrier,
)

# By the id of the new module, for the time of its load; by thread, for the time of a purge.
_predecessors: dict[int, ModuleType] = {}
_purged: dict[int, ModuleType] = {}


@contextmanager
def handing_over(old: ModuleInfo | None, new: ModuleInfo) -> Iterator[None]:
    """Within this block ``predecessor`` of the new module is the old one."""
    if old is None:
        yield
        return
    module = new.module
    _predecessors[id(module)] = old.module
    try:
        yield
    finally:
        del _predecessors[id(module)]


def predecessor(new: ModuleType) -> ModuleType | None:
    """The module whose place *new* is about to take; None outside a reload."""
    return _predecessors.get(id(new))


def is_resource(value: object) -> bool:
    """Does *value* have to live on: a pool, a connection, a lock?"""
    return is_pool(value) or is_connection(value) or isinstance(value, _LOCKS)


def carry(old: ModuleType, new: ModuleType) -> None:
    """Put into *new* every pool, connection and lock at the module level of *old*, and what ``__mp_keep__`` lists."""
    namespace = vars(old)
    keep = namespace.get(KEEP, ())
    for name, value in list(namespace.items()):
        if name in keep or is_resource(value):
            setattr(new, name, value)


def clone_hook(old: ModuleType, source: bytes) -> Callable[[ModuleType], object] | None:
    """The clone hook of *old*; the stock one where *source*, the new code, is the first to import that.

    It would help from the second reload only, else. (reload contract, item 38)
    """
    hook: Callable[[ModuleType], object] | None = vars(old).get("__mp_clone__")
    if hook is None and _imports_stock_hook(source):
        return functools.partial(carry, old)
    return hook


def _imports_stock_hook(source: bytes) -> bool:
    return b"__mp_clone__" in source and any(
        isinstance(node, ast.ImportFrom)
        and node.module in ("handlers.base", "base")
        and any(alias.name == "__mp_clone__" for alias in node.names)
        for node in parse(source).body
    )


def clone(hook: Callable[[ModuleType], object], old: ModuleType, new: ModuleType) -> bool:
    """Call the clone *hook* of *old* with *new*: did it hand over?"""
    try:
        hook(new)
    except BaseException as error:  # SystemExit too (reload contract, item 33)
        log("err", f"__mp_clone__ of {_file(old)!r} failed, the new instance starts anew: {summary(error)}")
        return False
    return True


def roll_back(old: ModuleType, new: ModuleType) -> None:
    """Tell *old* that *new* has failed and that it goes on serving itself."""
    hook = vars(old).get("__mp_rollback__")
    if hook is not None:
        try:
            hook(new)
        except BaseException as error:
            log("err", f"__mp_rollback__ of {_file(old)!r} failed: {summary(error)}")


def purge(retired: ModuleInfo, timeout: float) -> None:
    """Call the purge hook of a *retired* instance, and wait for it for *timeout* seconds at most."""
    module = retired.module
    hook = vars(module).get("__mp_purge__")
    if hook is None:
        return
    if retired.is_logged:
        log("notice", f"Purging module {retired.file!r}", source="mod_python")

    def call() -> None:
        _purged[threading.get_ident()] = module
        try:
            hook(module) if _takes_module(hook) else hook()
        except BaseException as error:
            log("err", f"__mp_purge__ of {_file(module)!r} failed: {summary(error)}")
        finally:
            del _purged[threading.get_ident()]

    # A thread of its own, for one hook that hangs must not keep the others, or the child, from their end.
    thread = threading.Thread(target=call, name="mp-purge", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        log("err", f"__mp_purge__ of {_file(module)!r} has not returned within {timeout:g} s; it is left to itself")


def _file(module: ModuleType) -> object:
    return vars(module).get("__file__", module)  # a module may have deleted the name


def retired(module: ModuleType | None) -> ModuleType | None:
    """The module to purge, for a hook that may have been called without it."""
    return module if module is not None else _purged.get(threading.get_ident())


def release(module: ModuleType) -> None:
    """Close the pools and connections at the module level of a retired *module*.

    Pools of the registry are others' too and are left alone, like everything that was handed over.
    """
    for name, value in list(vars(module).items()):
        if not (is_pool(value) or is_connection(value)) or is_registered(value):
            continue
        close: Callable[[], Any] = getattr(value, "closeall", None) or value.close
        try:
            close()
        except Exception as error:
            log("warning", f"{_file(module)!r}: {name} ({describe(value)}) could not be closed: {summary(error)}")


def report_made_anew(old: ModuleType, new: ModuleType) -> None:
    """Name the pools and connections that were handed over in vain: the new code has bound the name anew."""
    fresh = vars(new)
    for name, value in list(vars(old).items()):
        if (is_pool(value) or is_connection(value)) and fresh.get(name, value) is not value:
            log("warning", f"{_file(new)!r} makes {name} anew at each reload, and the one handed over is closed: "
                           f"guard it by \"if {name!r} not in globals():\"")  # fmt: skip


def summary(error: BaseException) -> str:
    """One line on *error*: its type, its text, and where it was raised.

    What is raised in here, as the error of an import is, was caused by the line of the site that called.
    """
    where = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not is_ours(trace.tb_frame):
            where = f" ({code.co_filename}, line {trace.tb_lineno}, in {code.co_name})"
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        where = ""  # the text of a SyntaxError has the place, the traceback is the compiler's caller
    return f"{type(error).__name__}: {' '.join(text_of(error).split())}{where}"


def _takes_module(hook: Callable[..., Any]) -> bool:
    try:
        inspect.signature(hook).bind(None)
    except TypeError:
        return False
    except ValueError:  # no signature to be had
        return False
    return True
