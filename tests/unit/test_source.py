"""A source is read to a tree whatever other threads and finalizers do meanwhile."""

from __future__ import annotations

import ast
import threading

import pytest

from handlers.reload import source


class Yields:
    """Garbage in a cycle whose finalizer gives up the interpreter's lock, as a database's connection does."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        threading.Event().wait(0.0005)


def test_parses_in_many_threads_with_finalizers_in_between_all_succeed():
    text = "\n".join(f"def f{n}(a, b=(1, [2, {{3: 4}}])):\n    return [x for x in (a, b) if x]" for n in range(60))
    errors = []

    def work() -> None:
        for _ in range(15):
            garbage = [Yields() for _ in range(20)]
            del garbage
            try:
                assert isinstance(source.parse(text), ast.Module)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_parse_that_another_one_disturbed_is_done_again(monkeypatch):
    outcomes = [SystemError("AST constructor recursion depth mismatch (before=93, after=75)")] * 2

    def parse(*args):
        if outcomes:
            raise outcomes.pop()
        return ast.Module([], [])

    monkeypatch.setattr(source.ast, "parse", parse)
    assert isinstance(source.parse("x"), ast.Module) and not outcomes


def test_what_is_no_python_is_a_syntax_error():
    with pytest.raises(SyntaxError):
        source.parse("def")
