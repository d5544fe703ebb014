"""A fork gets its own, empty pools; the parent's sockets are left alone."""

from __future__ import annotations

import os

from mpool import apache, supply
from mpool.housekeeper import housekeeper
from mpool.registry import registry


def after_fork_in_child() -> None:
    apache.forget_parent()
    housekeeper.start_anew()
    supply.after_fork_in_child()
    registry.start_anew()


def install() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=after_fork_in_child)
