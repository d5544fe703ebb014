"""Reading Python source to a tree, in a process of many threads."""

from __future__ import annotations

import ast
import threading

TRIES = 5

#: One parse at a time. CPython 3.11 counts the depth of a tree per interpreter, and not per thread: where a finalizer
#: gives up the interpreter's lock in the middle of a parse, another thread's parse makes the count wrong for both.
one_parse = threading.RLock()  # a finalizer may parse, too


def parse(source: str | bytes, filename: str = "<unknown>") -> ast.Module:
    """The tree of *source*; SyntaxError (or ValueError) where it is not Python.

    SystemError says that somebody else's parse came in between: this one is done again.
    """
    with one_parse:
        for left in reversed(range(TRIES)):
            try:
                return ast.parse(source, filename)
            except SystemError:
                if not left:
                    raise
    raise AssertionError("not reached")
