"""A thread state has to know the stack that it runs on: for Python 3.14 (Debian sid) under a threaded MPM.

From 3.14 on Python notes once, in each thread state, where its thread's stack lies, and measures by that how much of it
is left. mod_python runs a thread state on whichever of Apache's threads comes next, and most of their stacks lie below
the one that was noted. Python then takes the stack for full and puts off, for ever, the end of every object that the
garbage collector knows: no frame, dictionary or connection that is dropped there is freed or closed
(https://github.com/python/cpython/issues/157519). Older Pythons count calls instead of comparing addresses.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

_Bounds = tuple[ctypes.c_void_p, ctypes.c_size_t]


def note_stack() -> None:
    """Tell Python where the stack of this thread lies, if its thread state knows another's; frees what was put off.

    For whoever begins to run on a thread of Apache's, which may be with another thread state each time.
    """
    if _set_bounds is not None:
        thread = threading.get_ident()
        if getattr(_noted, "thread", None) != thread:
            _noted.thread = thread
            _set_bounds(thread)


# Under mod_python what is kept here belongs to a thread state, not to a thread: for once that is what is wanted.
_noted = threading.local()


def _bounds_setter(library: Any) -> Callable[[int], None] | None:
    """What sets the bounds of the present thread state; None where *library*, this process, knows no such thing."""
    set_protection = getattr(library, "PyUnstable_ThreadState_SetStackProtection", None)
    if set_protection is None:
        return None
    set_protection.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    thread_state = library.PyThreadState_Get
    thread_state.restype = ctypes.c_void_p
    known: dict[int, _Bounds | None] = {}  # a thread's stack stays where it is

    def set_bounds(thread: int) -> None:
        if thread not in known:
            known[thread] = _stack_of(library, thread)
        bounds = known[thread]
        if bounds is not None:
            set_protection(thread_state(), *bounds)

    return set_bounds


def _stack_of(library: Any, thread: int) -> _Bounds | None:
    """The lowest address and the size of the stack of *thread*, which is the calling one; None where it is unknown."""
    attributes = ctypes.create_string_buffer(256)  # a pthread_attr_t has 56 bytes
    lowest, size = ctypes.c_void_p(), ctypes.c_size_t()
    if library.pthread_getattr_np(ctypes.c_void_p(thread), attributes):
        return None  # of the first thread of a process, without /proc
    library.pthread_attr_getstack(attributes, ctypes.byref(lowest), ctypes.byref(size))
    library.pthread_attr_destroy(attributes)
    return lowest, size


# PyDLL: the interpreter's lock is kept during the call, as functions of Python's own want it.
_set_bounds = _bounds_setter(ctypes.PyDLL(None))
