"""What is kept of a failure to load a file, and how one error is raised to many."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, FunctionType, TracebackType
from typing import Any

from handlers.reload.files import Signature, signature_of

FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds until a failed reload is tried again though its files are unchanged

_PACKAGE = __name__.partition(".")[0]


@dataclass
class Failure:
    """The last attempt to load a file failed: why, and what has to happen before the next one."""

    error: BaseException  # detached
    files: dict[str, Signature | None]  # what the attempt has read or looked for; None: was not there
    failures: int = 1  # in a row, with the same files
    retry_at: float = 0.0  # on the monotonic clock

    @classmethod
    def after(cls, previous: Failure | None, error: BaseException, files: dict[str, Signature | None]) -> Failure:
        again = previous is not None and previous.files == files
        failures = previous.failures + 1 if again and previous else 1
        delay = min(FIRST_RETRY * 2 ** (failures - 1), LAST_RETRY)
        return cls(error, files, failures, retry_at=time.monotonic() + delay)

    def is_due(self) -> bool:
        """Has its time come, or has one of its files changed?"""
        return time.monotonic() >= self.retry_at or any(signature_of(file) != seen for file, seen in self.files.items())


def is_ours(frame: FrameType) -> bool:
    """Is this a frame of handlers' own code? The example site's pages are not: they are known by their labels."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE


def text_of(error: BaseException) -> str:
    """The text of *error*, whatever its own ``__str__`` does."""
    try:
        return str(error)
    except Exception as another:
        return f"(its text cannot be had: {type(another).__name__})"


def copy_of(error: BaseException) -> BaseException:
    """*error* once more, with the traceback from the failing module down and no request's frames above it.

    One exception object raised in several threads, or kept, would gather and hold the frames of all of them.
    """
    trace = error.__traceback__
    while trace is not None and is_ours(trace.tb_frame):
        trace = trace.tb_next
    try:
        again = _copy(error)
    except Exception:
        again = ImportError(f"{type(error).__name__}: {text_of(error)}")
    again.__cause__, again.__context__ = error.__cause__, error.__context__
    again.__suppress_context__ = error.__suppress_context__
    return again.with_traceback(trace)


def _copy(error: BaseException) -> BaseException:
    """A copy made without code of the error's own: an ``__init__`` that words the message would do so twice."""
    kind = type(error)
    native = next(
        base for base in kind.__mro__ if issubclass(base, BaseException) and not isinstance(base.__init__, FunctionType)
    )
    reduced: Any = native.__reduce__(error)
    _, arguments, *state = reduced
    again: BaseException = native.__new__(kind, *arguments)
    native.__init__(again, *arguments)
    for each in state:
        again.__setstate__(each)
    vars(again).update(vars(error))  # which not every __reduce__ tells of
    return again


def detached(error: BaseException) -> BaseException:
    """*error* once more, to be kept: its traceback says the same, and holds no namespace and no request.

    A frame holds its globals, its variables and the frames below it: kept, they would be the failed module, what it has
    opened, the old instance and the whole request that has met the error. So would those of what it was raised from.
    """
    copies: dict[int, BaseException] = {}
    originals = []
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is not None and id(each) not in copies:
            originals.append(each)
            copies[id(each)] = copy_of(each)
            todo += (each.__cause__, each.__context__)
    for original in originals:
        again = copies[id(original)]
        again.__cause__ = copies.get(id(original.__cause__))
        again.__context__ = copies.get(id(original.__context__))
        again.__suppress_context__ = original.__suppress_context__  # which setting the cause has changed
        again.__traceback__ = _without_namespaces(again.__traceback__)
    return copies[id(error)]


def _without_namespaces(trace: TracebackType | None) -> TracebackType | None:
    places: list[TracebackType] = []
    while trace is not None:
        places.append(trace)
        trace = trace.tb_next
    for place in reversed(places):
        code, known = place.tb_frame.f_code, place.tb_frame.f_globals
        stand_in = _stand_in.__code__.replace(co_filename=code.co_filename, co_name=code.co_name)
        names = {"__name__": known.get("__name__"), "__mp_info__": known.get("__mp_info__")}
        # The frame of a generator that has not begun belongs to no stack.
        frame = FunctionType(stand_in, names)().gi_frame
        trace = TracebackType(trace, frame, -1, place.tb_lineno)
    return trace


def _stand_in() -> Iterator[None]:
    yield
