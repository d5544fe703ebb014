"""What the importer knows of files: has one changed, and is it complete?

A file is taken over only when it is complete: the stat before the read equals the stat after it, the bytes read equal
its size, and it was last written at least ``QUIET`` seconds ago. An editor, ``cp`` or ``git checkout`` that writes in
place leaves files that are cut short and yet compile without an error.
"""

from __future__ import annotations

import os
import stat
import time
from operator import attrgetter

QUIET = 0.05  # seconds since the last write before a file counts as complete
EMPTY = 20  # an empty file has to be as many times as quiet: most writers begin with one, and may be held up there

_KIND = 0o170000  # the bits of st_mode that stat.S_IFMT takes out, without the call

Signature = tuple[int, int, int, int]

# Equal and older mtimes (cp -p, git checkout, image layers) must be seen too: the change time moves with every write,
# rename and utime, and the inode with every replacement. (reload contract, item 18)
signature: attrgetter[Signature] = attrgetter("st_ctime_ns", "st_mtime_ns", "st_size", "st_ino")


class Unfinished(Exception):
    """The file was written less than ``QUIET`` seconds ago, or changed while it was read."""


def look(path: str) -> os.stat_result | None:
    """The stat of the regular file *path*, or None where there is none.

    What cannot be looked at (no permission, a name too long) is reported as the OSError that it is.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if found.st_mode & _KIND == stat.S_IFREG else None


def signature_of(path: str) -> Signature | None:
    """The signature of *path*; None where there is no such file, or none that can be looked at."""
    try:
        found = look(path)
    except (OSError, ValueError):
        return None
    return None if found is None else signature(found)


def is_quiet(found: os.stat_result) -> bool:
    """Was the last write long enough ago?"""
    quiet = QUIET if found.st_size else QUIET * EMPTY
    # The change time, for anyone can set the other. One that lies ahead of the clock says nothing of the last write.
    return not 0 <= time.time_ns() - found.st_ctime_ns < quiet * 1e9


def read(path: str) -> tuple[bytes, os.stat_result]:
    """The bytes of *path* and the stat they belong to; Unfinished where it is still being written."""
    before = os.stat(path)
    if not is_quiet(before):
        raise Unfinished(path)
    with open(path, "rb") as file:
        data = file.read()
        after = os.fstat(file.fileno())
    if signature(before) != signature(after) or len(data) != after.st_size:
        raise Unfinished(path)
    return data, after


def read_when_finished(path: str, patience: float = 5.0) -> tuple[bytes, os.stat_result]:
    """As ``read``, but waits for the writer: for a first load, which has no older code to serve meanwhile."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return read(path)
        except Unfinished:
            if time.monotonic() > deadline:
                raise ImportError(f"{path} has been written to for {patience:g} s and is not complete yet") from None
            time.sleep(QUIET / 5)


def is_gone(path: str) -> bool:
    """Is *path* really removed? An editor that moves the old file away before it writes the new one gets ``QUIET``."""
    deadline = time.monotonic() + QUIET
    while look(path) is None:
        if time.monotonic() > deadline:
            return True
        time.sleep(QUIET / 10)
    return False
