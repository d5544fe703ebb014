"""Has any of these files changed? One answer for many, and without giving up the interpreter's lock.

``os.stat`` gives the lock up for each file. Under load another thread wakes up for it each time, mostly in vain, and a
request that has to have it back waits its turn: that costs many times the call itself. ``statx`` through ctypes keeps
it. Only for files on a disk of this machine, where the kernel answers from memory: a file server that does not answer
must hold up those who ask for its files, and not the whole child.

Who comes while somebody else looks need not look again: what had changed before the request came has been seen.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Sequence
from functools import partial
from operator import call
from struct import Struct
from typing import Any

from handlers.reload.files import QUIET, Signature

MOMENT = QUIET / 2  # seconds; a file's times lag behind the clock by up to 10 ms

# statx(2): struct statx is the same on every architecture.
_AT_FDCWD, _STATX_BASIC_STATS, _SIZE = -100, 0x7FF, 256
_FIELDS = Struct("=32x QQ 48x qI4x qI4x 8x I 116x")  # stx_ino, _size, _ctime, _mtime, _dev_major
assert _FIELDS.size == _SIZE


# Called with the interpreter's lock held; an older C library has none. No argtypes, which cost time: all that is passed
# are numbers of an int's size, bytes, and a reference.
_statx: Any = getattr(ctypes.PyDLL(None), "statx", None)


class Watch:
    """Files, and what was last seen of them."""

    def __init__(self, files: Sequence[str]) -> None:
        # Shared by all threads: whatever another one writes into it is what these files are at a later moment.
        self._found = ctypes.create_string_buffer(_SIZE * len(files))
        self._seen: bytes | None = None
        self._looked = 0.0  # when the last look began that found nothing changed
        self._is_possible = _statx is not None
        if self._is_possible:
            self._looks = [
                partial(_statx, _AT_FDCWD, os.fsencode(file), 0, _STATX_BASIC_STATS, ctypes.byref(self._found, place))
                for file, place in zip(files, range(0, len(self._found), _SIZE), strict=True)
            ]

    def note(self, signatures: Sequence[Signature | None]) -> None:
        """These are the files' signatures (``files.signature``): if they are seen here too, they count as unchanged."""
        if not self._is_possible:
            return
        failed = any(map(call, self._looks))
        found = self._found.raw
        fields = list(_FIELDS.iter_unpack(found))
        if not failed and not all(dev_major for *_, dev_major in fields):
            self._is_possible = False  # 0: no disk
        elif not failed and [_signature(*values) for *values, _ in fields] == list(signatures):
            self._seen = found

    def is_unchanged(self, since: float = math.inf) -> bool:
        """Is nothing at all different, for all files? False also where that cannot be told: then look closer.

        A look by another thread will do if it began after *since*, in seconds since the epoch, and a moment ago: what
        was written after it is not complete yet (see files.py).
        """
        seen = self._seen
        if seen is None:
            return False
        now = time.time()
        if since <= self._looked <= now < self._looked + MOMENT:
            return True
        # In C, since requests wait for it. Something else than the signature may differ: when a file was last read.
        if any(map(call, self._looks)) or self._found.raw != seen:
            return False
        self._looked = now
        return True


def _signature(inode: int, size: int, ctime: int, ctime_ns: int, mtime: int, mtime_ns: int) -> Signature:
    return ctime * 10**9 + ctime_ns, mtime * 10**9 + mtime_ns, size, inode
