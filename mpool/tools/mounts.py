"""A view of the file system of our own, in which servers reach directories that others close to them."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from mpool.tools.errors import ToolError
from mpool.tools.processes import CLEAN_ENVIRONMENT

CLONE_NEWNS = 0x00020000  # linux/sched.h; os.unshare is new in Python 3.12


def bind_within_reach(base: Path, directories: dict[str, Path]) -> dict[str, Path]:
    """Show each of *directories* as `base/NAME`, to us and to what we start from now on; the new paths by name.

    A clone under /root is closed to www-data, and opening /root is not ours to do. The mounts are seen by no other
    process and vanish with us; what is changed through either path is changed in both. Needs root, and a kernel that
    allows it (an unprivileged container's does not). Call it before the first thread is started.
    """
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise ToolError(_refusal(directories, os.strerror(ctypes.get_errno())))
    # Without this, what is mounted here would appear in the namespace that we come from.
    _mount(directories, "--make-rprivate", "/")
    # On a directory of its own: nothing is left in the real one.
    _mount(directories, "-t", "tmpfs", "-o", "mode=755,size=64k", "mpool", str(base))
    shown = {}
    for name, source in directories.items():
        shown[name] = base / name
        shown[name].mkdir(mode=0o755)
        _mount(directories, "--bind", str(source), str(shown[name]))
    return shown


def _mount(directories: dict[str, Path], *arguments: str) -> None:
    done = subprocess.run(
        ["mount", *arguments],
        env=CLEAN_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise ToolError(_refusal(directories, done.stderr.strip().splitlines()[-1:] or "mount failed"))


def _refusal(directories: dict[str, Path], reason: object) -> str:
    paths = ", ".join(str(path) for path in directories.values())
    return (
        f"the servers' accounts cannot reach {paths}, because a directory above is closed to them; "
        f"move it, or open the way with chmod o+x (a private mount was refused: {reason})"
    )
