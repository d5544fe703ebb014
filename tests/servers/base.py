"""What both servers need: readable directories, free ports, waiting with a deadline, stopping by pid."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Everything a server may inherit. A foreign python3 first in PATH would give mod_python another prefix.
CLEAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

#: Generous: the machine may have two cores and other work to do.
DEADLINE = 180.0


class ServerError(Exception):
    """A server did not start, answer or stop; the text carries its log."""


def wait_until(condition: Callable[[], T], *, timeout: float = DEADLINE, what: str = "") -> T:
    """Return the first true value of *condition*; AssertionError after *timeout* seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(0.02)


def free_port() -> int:
    """A port of 127.0.0.1 that the kernel has just found free; somebody may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def serving_user() -> str | None:
    """The account that the children of a root httpd run as; None when we are not root (no change is possible)."""
    return "www-data" if os.geteuid() == 0 else None


def make_public_dir(prefix: str) -> Path:
    """A new directory that every account may enter, with a path short enough for a Unix socket in it.

    The default for temporary files may lie in somebody's private directory; then /tmp or /var/tmp serves.
    """
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if len(parent) < 60 and _reachable_by_all(Path(parent)):
            path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            path.chmod(0o755)
            return path
    raise ServerError("no directory for temporary files that all accounts can reach")


def _reachable_by_all(directory: Path) -> bool:
    resolved = directory.resolve()
    return resolved.is_dir() and all(p.stat().st_mode & stat.S_IXOTH for p in (resolved, *resolved.parents))


def remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def spawn(
    command: list[str],
    *,
    log: Path,
    user: str | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start *command* with a clean environment, its output appended to *log*, in a session of its own.

    A session of its own, so that Ctrl-C at the terminal reaches the test run, which then stops its servers in order.
    """
    account = pwd.getpwnam(user) if user and os.geteuid() == 0 else None
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": CLEAN_PATH, "LANG": "C.UTF-8", **(env or {})},
            cwd=cwd or "/",
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )


def run(
    command: list[str], *, user: str | None = None, env: dict[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run *command* to its end like `spawn`; ServerError with its output if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "output")
        if spawn(command, log=log, user=user, env=env, cwd=cwd).wait() != 0:
            raise ServerError(f"{' '.join(command)}:\n{log.read_text(errors='replace')}")


def processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent's pid, state letter) of every process."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # The command name may hold spaces and brackets: what follows the last bracket is regular.
                fields = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
                yield int(entry), int(fields[1]), fields[0]


def children_of(pid: int) -> list[int]:
    """Pids of the living children of *pid*, in order; zombies do not count."""
    return sorted(child for child, parent, state in processes() if parent == pid and state not in "ZX")


def alive(pid: int) -> bool:
    return any(p == pid and state not in "ZX" for p, _, state in processes())


def stop_process(process: subprocess.Popen[bytes], how: signal.Signals, *, patience: float = 20.0) -> None:
    """Send *how* and wait; whoever is left after *patience* seconds, children included, is killed by pid."""
    if process.poll() is not None:
        return
    family = [process.pid, *children_of(process.pid)]
    process.send_signal(how)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        family += children_of(process.pid)
    finally:
        # Children of a parent that is gone belong to init: only their pids tell them apart.
        _kill_left_overs(process, family)


def _kill_left_overs(process: subprocess.Popen[bytes], family: list[int]) -> None:
    deadline = time.monotonic() + 5.0
    while any(alive(pid) for pid in family) and process.poll() is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in family:
        if alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait(10)
