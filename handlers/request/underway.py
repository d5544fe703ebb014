"""What one main request has imported, and its end.

It counts as under way from its first dispatch until mod_python drops its object, when its pool is cleaned up: what it
uses of an old instance is not let go before (see ``reload/retire.py``).
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any

from handlers.reload.context import Imports
from handlers.reload.retire import Retirement
from handlers.request import leases
from mpool import interpreter_name

# What mod_python drops with a request is freed later then, or never (see ``mpool.stack``): a cleanup says when it ends.
_FREES_LATE = sys.version_info >= (3, 14)


class Underway:
    """The main requests that this interpreter serves."""

    def __init__(self, retirement: Retirement) -> None:
        self._retirement = retirement
        self._filters: dict[int, tuple[Any, ...]] = {}  # by thread: those of the request that ended there last
        self._ended: list[Imports] = []  # requests with filters, to be noted when the next request begins
        # The cleanups of an interpreter that is named by a directory run in any of that name: there code of ours would
        # look up what is ours, and on Debian sid, from Python 3.12 on, find the other's. A list's method does not.
        self._at_end = self._ended.append if interpreter_name().startswith("/") else self._end

    def begin(self, req: Any, imports: Imports) -> None:
        """The main request begins that *req* belongs to."""
        imports.is_under_way = True
        if self._ended:
            self._note_ends()
        request = self._retirement.begin(imports)
        if _FREES_LATE:
            leases.root(req).register_cleanup(self._retirement.end, request)

    def keep(self, fltr: Any) -> None:
        """Keep the filter object until its main request, and the next one on its thread, have ended."""
        main = leases.root(fltr.req)
        imports = leases.held_by(main)
        if not imports.filters:
            main.register_cleanup(self._at_end, imports)
        imports.filters += (fltr,)

    def _end(self, imports: Imports) -> None:
        # mod_python gives up its filter objects as the request's pool goes, without the interpreter's lock; if no one
        # else has a reference, that frees them, and from Python 3.14 on (Debian sid) ends the child by a segmentation
        # fault. The last may go right after this, so they are kept until this thread has ended another request.
        self._filters[threading.get_ident()] = imports.filters
        for fltr in imports.filters:
            fltr.req = None  # which ends now

    def _note_ends(self) -> None:
        with contextlib.suppress(IndexError):  # another thread may take the last one
            while True:
                self._end(self._ended.pop())
