"""Who holds a connection, and for how long: leak reports, and the hint at a nested lease."""

from __future__ import annotations

import _thread
import gc
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

from mpool.engine.entry import Entry
from mpool.host.apache import log

LONGEST_STACK = 20
COLLECT_PAUSE = 5.0  # seconds between two collections on behalf of those who wait

_collected_at = float("-inf")


def look_in_garbage(now: float) -> None:
    """For who has waited long: what holds the connections may be garbage, which nobody collects while all wait."""
    global _collected_at
    if now - _collected_at >= COLLECT_PAUSE:
        _collected_at = now
        gc.collect()


def report_leak(pool: str, entry: Entry, age: float) -> None:
    """A lease that lasts too long: its age, holder, and what the holder is doing at this moment."""
    holder = _holder(entry)
    text = f"{pool}: backend {entry.pid} has been on lease for {age:.1f}s{_by(entry, holder)}"
    if entry.stack:
        text += "\nit was taken here:\n" + "".join(entry.stack)
    if holder is not None:
        text += "\nits holder is here now:\n" + "".join(traceback.format_stack(holder[1], limit=LONGEST_STACK))
    entry.reported = entry.uses
    log("warning", text.rstrip())


def report_return(pool: str, entry: Entry, age: float) -> None:
    """The second half of a leak report: it came back after all."""
    log("warning", f"{pool}: backend {entry.pid} came back after {age:.1f}s{_by(entry, None)}")


def report_dropped(pool: str, entry: Entry) -> None:
    """A lease that ended with its connection garbage-collected."""
    text = f"{pool}: backend {entry.pid} was dropped on lease and never returned{_by(entry, None)}"
    if entry.stack:
        text += "\nit was taken here:\n" + "".join(entry.stack)
    log("warning", text.rstrip())


def nested(leased: Iterable[Entry], owner: object) -> str:
    """The hint for a PoolTimeout: the one who waits holds connections of this pool itself."""
    mine = [entry for entry in leased if _is_mine(entry, owner)]
    if not mine:
        return ""
    who = f"the same request ({owner})" if owner is not None and not isinstance(owner, int) else "this thread"
    return (
        f"; nested checkout: {who} already holds {len(mine)} of this pool's connections "
        f"(backend {', '.join(str(entry.pid) for entry in mine)}) and waits for another"
    )


def oldest(leased: Iterable[Entry], now: float) -> str:
    known = [(entry.since, entry) for entry in leased if entry.since is not None]
    if not known:
        return ""
    since, entry = min(known, key=lambda pair: pair[0])
    return f"; longest lease: backend {entry.pid} for {now - since:.1f}s"


def _is_mine(entry: Entry, owner: object) -> bool:
    if owner is not None and entry.owner is not None:
        return bool(entry.owner == owner)
    if isinstance(entry.owner, int):
        return entry.owner == _thread.get_ident()
    return entry.owner is None and any(_refers(frame, entry.ref()) for frame in _frames(sys._getframe()))


def _by(entry: Entry, holder: tuple[int, FrameType] | None) -> str:
    owner = entry.owner
    if isinstance(owner, int):
        return f" by thread {owner}"
    thread = f" by thread {holder[0]}" if holder is not None else ""
    return thread + (f", request {owner}" if owner is not None else "")


def _holder(entry: Entry) -> tuple[int, FrameType] | None:
    """The thread that holds a lease and its innermost frame: the one that leased, else one with it among its locals."""
    frames = sys._current_frames()
    if isinstance(entry.owner, int) and entry.owner in frames:
        return entry.owner, frames[entry.owner]
    conn = entry.ref()
    for thread, top in frames.items():
        if thread != _thread.get_ident() and any(_refers(frame, conn) for frame in _frames(top)):
            return thread, top
    return None


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _refers(frame: FrameType, conn: Any) -> bool:
    """Does the frame hold *conn* in a local variable, or in a list or tuple there?"""
    if conn is None or frame.f_globals.get("__name__", "").startswith("mpool."):
        return False
    for value in list(frame.f_locals.values()):
        if value is conn or (type(value) in (list, tuple) and any(item is conn for item in value)):
            return True
    return False
