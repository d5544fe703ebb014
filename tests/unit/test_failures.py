"""One error, raised to many and kept: it says the same each time, and keeps nobody's frames alive."""

from __future__ import annotations

import gc
import sys
import traceback
import weakref
from types import TracebackType

import psycopg2
import pytest

from handlers.reload.failures import copy_of, detached, text_of


class Worded(Exception):
    """Words its message itself, as many do: made once more from its args it would do so twice."""

    def __init__(self, code: int, place: str) -> None:
        super().__init__(f"code {code} at {place}")
        self.code = code


class Mixin:
    pass


class Mixed(Mixin, OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "gone", path)
        self.path = path


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as same:
        return same


@pytest.mark.parametrize(
    "error",
    [
        Worded(5, "home"),
        Mixed("/nowhere"),
        FileNotFoundError(2, "gone", "/nowhere"),
        ModuleNotFoundError("no such", name="nowhere", path="/nowhere"),
        SyntaxError("bad", ("/page.py", 3, 7, "x = (\n")),
        UnicodeDecodeError("utf-8", b"\xe4", 0, 1, "bad"),
        psycopg2.OperationalError("the server is down"),
        SystemExit(3),
        KeyError("a"),
        ExceptionGroup("two", [ValueError(1), Worded(2, "b")]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("again", [copy_of, detached])
def test_a_copy_is_of_the_same_class_and_says_the_same(again, error: BaseException) -> None:
    error = caught(error)
    error.add_note("a note")
    copy = again(error)
    assert copy is not error and type(copy) is type(error)
    assert str(copy) == str(error) and copy.args == error.args and vars(copy) == vars(error)
    for name in ("filename", "lineno", "text", "errno", "name", "path", "start", "code", "pgcode"):
        assert getattr(copy, name, None) == getattr(error, name, None)
    assert traceback.format_exception(copy)[-1] == traceback.format_exception(error)[-1]


def test_an_error_that_cannot_be_copied_is_an_import_error_with_its_words() -> None:
    class Stubborn(Exception):
        def __setstate__(self, state: object) -> None:
            raise TypeError

    error = caught(Stubborn("the words"))
    error.add_note("a note")
    copy = copy_of(error)
    assert type(copy) is ImportError and str(copy) == "Stubborn: the words"


def test_an_error_whose_text_cannot_be_had_is_told_all_the_same() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise LookupError

    assert text_of(Silent()) == "(its text cannot be had: LookupError)"
    assert type(detached(caught(Silent()))) is Silent


def raised_from_another() -> BaseException:
    class Marked:
        pass

    held = Marked()
    references.append(weakref.ref(held))
    try:
        try:
            {}["missing"]
        except KeyError:
            {}["also missing"]
    except KeyError as error:
        try:
            raise Worded(1, "home") from error
        except Worded as worded:
            return worded
    raise AssertionError


references: list[weakref.ref[object]] = []


@pytest.mark.parametrize("again", [copy_of, detached])
def test_what_an_error_was_raised_from_is_told_with_it(again) -> None:
    text = "".join(traceback.format_exception(again(raised_from_another())))
    order = [text.index(part) for part in ("KeyError: 'missing'", "KeyError: 'also missing'", "direct cause", "code 1")]
    assert order == sorted(order)
    assert text.count(", in raised_from_another") == 3


def test_a_kept_error_holds_no_variables_of_those_that_it_was_raised_from() -> None:
    kept = detached(raised_from_another())
    gc.collect()
    assert references[-1]() is None
    seen: set[int] = set()
    todo: list[BaseException | None] = [kept]
    while todo:
        error = todo.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        todo += [error.__cause__, error.__context__]
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            assert not trace.tb_frame.f_locals and set(trace.tb_frame.f_globals) <= {
                "__name__", "__mp_info__", "__builtins__",
            }  # fmt: skip
            trace = trace.tb_next
    assert len(seen) == 3


def test_a_chain_that_comes_round_is_copied_once() -> None:
    one, two = ValueError(1), ValueError(2)
    one.__context__, two.__context__ = two, one
    copy = detached(one)
    assert copy.__context__ is not two and copy.__context__.__context__ is copy


def test_a_chain_longer_than_calls_may_nest_is_kept() -> None:
    first = error = ValueError(0)
    for number in range(1, 2 * sys.getrecursionlimit()):
        error.__context__ = ValueError(number)
        error = error.__context__
    kept: BaseException | None = detached(first)
    length = 0
    while kept is not None:
        length, kept = length + 1, kept.__context__
    assert length == 2 * sys.getrecursionlimit()
