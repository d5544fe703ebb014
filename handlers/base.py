"""What a page or handler module imports: the reload hooks, ``Handler`` and ``connection``.

    from handlers.base import __mp_clone__, __mp_purge__

is all that a module with a pool or a connection at module level needs in order to keep it across reloads. This file
keeps no state: it may be dropped into a document tree, where it is reloadable like any page.
"""

from __future__ import annotations

from types import ModuleType

from handlers.pages.methods import Handler
from handlers.reload import hooks
from handlers.request.leases import connection

__all__ = ["Handler", "__mp_clone__", "__mp_purge__", "connection"]


def __mp_clone__(module: ModuleType) -> None:
    """Hand every pool, psycopg2 connection and lock over to *module*, and the names in ``__mp_keep__``.

    A page's own ``__mp_clone__(module)`` may call this one, and add to it.
    """
    old = hooks.predecessor(module)
    if old is None:
        raise RuntimeError("__mp_clone__ is called by the importer, when it reloads a module: nothing is reloaded now")
    hooks.carry(old, module)


def __mp_purge__(module: ModuleType | None = None) -> None:
    """Close the pools and connections at the module level of *module*, the retired one."""
    retired = hooks.retired(module)
    if retired is None:
        raise RuntimeError("__mp_purge__ is called by the importer, when it retires a module: none is retired now")
    hooks.release(retired)
