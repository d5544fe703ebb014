"""A fork gets its own, empty pools; the parent's sockets are left alone."""

from __future__ import annotations

import os
from collections.abc import Callable

_begin_anew: list[Callable[[], None]] = []


def at_fork(begin_anew: Callable[[], None]) -> None:
    """Have *begin_anew* called in the child of every fork from now on, in the order of these calls."""
    _begin_anew.append(begin_anew)


def _after_fork_in_child() -> None:
    for begin_anew in _begin_anew:
        begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
