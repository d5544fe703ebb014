"""A view of the file system of our own, in which servers reach directories that others close to them."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from mpool.tools.errors import ToolError
from mpool.tools.processes import CLEAN_ENVIRONMENT

CLONE_NEWNS = 0x00020000  # linux/sched.h; os.unshare is new in Python 3.12


# Where the view is put together: the first of these whose file system we can detach from everybody else's.
CANDIDATES = (Path("/run"), Path("/dev/shm"))


def bind_within_reach(directories: dict[str, Path]) -> dict[str, Path]:
    """Show each of *directories* in one that all accounts can enter; the new paths by key.

    A clone under /root is closed to www-data, and opening /root is not ours to do. The mounts are seen by us and by
    what we start from now on, by no other process, and vanish with us; what is changed through either path is changed
    in both. Needs root, and a kernel that allows it (an unprivileged container's does not). Call it before the first
    thread is started.
    """
    try:
        return _bind(directories)
    except OSError as error:
        paths = ", ".join(str(path) for path in directories.values())
        raise ToolError(
            f"the servers' accounts cannot reach {paths}, because a directory above is closed to them: "
            f"move it, or open the way with chmod o+x (a private mount was refused: {error.strerror})"
        ) from None


def _bind(directories: dict[str, Path]) -> dict[str, Path]:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # The same for every site: each command has this name for itself, and one empty directory is all that it leaves.
    base = _private_parent() / "mpool"
    base.mkdir(mode=0o755, exist_ok=True)
    _mount("-t", "tmpfs", "-o", "mode=755,size=64k", "mpool", str(base))
    shown = {}
    for key, source in directories.items():
        shown[key] = base / key
        shown[key].mkdir(mode=0o755)
        _mount("--bind", str(source), str(shown[key]))
    return shown


def _private_parent() -> Path:
    """A directory to mount in, made private: otherwise what is mounted here would appear where we come from."""
    refusal = OSError(0, "no file system to mount in")
    for candidate in CANDIDATES:
        mount_point = candidate.resolve()
        while not mount_point.is_mount():
            mount_point = mount_point.parent
        try:
            # Refused for the root of a chroot, which is a mount point in name only.
            _mount("--make-rprivate", str(mount_point))
        except OSError as error:
            refusal = error
        else:
            return candidate
    raise refusal


def _mount(*arguments: str) -> None:
    command = ["mount", *arguments]
    done = subprocess.run(command, env=CLEAN_ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(done.returncode, (done.stderr.strip() or "mount failed").splitlines()[0])
