"""A thread state that takes another stack for its own, as they do under mod_python, is put right."""

from __future__ import annotations

import ctypes
import threading
import weakref

from mpool import note_stack


class Box:
    pass


def drop() -> weakref.ref[Box]:
    return weakref.ref(Box())


def believe_in_another_stack() -> None:
    """Let this thread state know a stack high above its own; Pythons before 3.14 know none."""
    python = ctypes.PyDLL(None)
    python.PyThreadState_Get.restype = ctypes.c_void_p
    set_protection = getattr(python, "PyUnstable_ThreadState_SetStackProtection", None)
    if set_protection is not None:
        set_protection.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        set_protection(python.PyThreadState_Get(), 2**62, 2**20)
        assert drop()() is not None  # what note_stack is for; where it is put right one day, that can go


def in_a_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    thread.join()
    assert result
    return result[0]


def test_what_was_put_off_is_freed_and_nothing_more_is_put_off() -> None:
    def run() -> tuple[Box | None, Box | None]:
        believe_in_another_stack()
        before = drop()
        note_stack()
        after = drop()
        return before(), after()

    assert in_a_thread(run) == (None, None)


def test_deep_recursion_is_an_error_after_note_stack_and_no_crash() -> None:
    def run() -> str:
        believe_in_another_stack()
        note_stack()
        nested: list[object] = []
        for _ in range(200_000):
            nested = [nested]
        try:
            repr(nested)
        except RecursionError:
            return "RecursionError"
        return "none"

    assert in_a_thread(run) == "RecursionError"


def test_it_may_be_called_again_and_again() -> None:
    def run() -> bool:
        for _ in range(3):
            note_stack()
        return drop()() is None

    assert in_a_thread(run)
