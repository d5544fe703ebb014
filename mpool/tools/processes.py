"""Starting a server as another account, passing its log on, and stopping it by pid."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from mpool.tools.errors import ToolError

# All that a server inherits. PATH decides which Python prefix mod_python takes: with a foreign python3 first in it
# the embedded interpreter does not even find its standard library.
CLEAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
CLEAN_ENVIRONMENT = {"PATH": CLEAN_PATH, "LANG": "C.UTF-8"}

PYTHON = "/usr/bin/python3"  # Debian's own: the one that mod_python embeds

START_DEADLINE = 60.0  # seconds; PostgreSQL's recovery after a power cut takes its time

Wording = Callable[[str], str]


def account(name: str, package: str) -> pwd.struct_passwd:
    """The account *name*, which Debian's *package* brings."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ToolError(f"there is no account {name!r}: apt-get install {package}") from None


def run(
    command: list[str],
    *,
    user: pwd.struct_passwd | None = None,
    text: str = "",
    env: Mapping[str, str] | None = None,
    label: str = "",
) -> str:
    """Run *command* to its end as *user* and return what it printed; ToolError with its last line if it fails."""
    done = subprocess.run(
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**CLEAN_ENVIRONMENT, **(env or {})},
        cwd="/",
        check=False,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    if done.returncode != 0:
        raise ToolError(f"{label or Path(command[0]).name + ' failed'}: {last_line(done.stdout)}")
    return done.stdout


def last_line(text: str) -> str:
    """The last line of *text* with something in it."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")


def may(user: pwd.struct_passwd | None, flags: str, path: Path) -> bool:
    """Whether *user* (None: we ourselves) may do to *path* what `test` calls *flags*, such as "rx"."""
    tests = " -a ".join(f'-{flag} "$1"' for flag in flags)
    command = ["/bin/sh", "-c", f"test {tests}", "sh", str(path)]
    done = subprocess.run(
        command,
        env=CLEAN_ENVIRONMENT,
        cwd="/",
        check=False,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    return done.returncode == 0


class ServerProcess:
    """One server in the foreground, whose output is passed on to the terminal, each line as *wording* puts it.

    It runs in a session of its own, so that Ctrl-C reaches us alone and we stop the servers in order; and it is told
    to end, with *stop_signal*, when we die without having done so. What has not ended *patience* seconds after that
    signal is killed.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        stop_signal: signal.Signals,
        patience: float,
        user: pwd.struct_passwd | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        wording: Wording = str,
    ) -> None:
        self.name = name
        self._stop_signal = stop_signal
        self._patience = patience
        self._tail: deque[str] = deque(maxlen=20)
        self._wording = wording
        # setpriv runs as the new account already: the kernel forgets the signal when an account changes.
        self._process = subprocess.Popen(
            ["/usr/bin/setpriv", "--pdeathsig", stop_signal.name.removeprefix("SIG"), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**CLEAN_ENVIRONMENT, **(env or {})},
            cwd=cwd or "/",
            start_new_session=True,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )
        assert self._process.stdout is not None
        self._relay = threading.Thread(target=self._pass_on, args=(self._process.stdout,), daemon=True)
        self._relay.start()

    def _pass_on(self, output: IO[bytes]) -> None:
        for raw in output:
            line = raw.decode(errors="replace")
            self._tail.append(line)
            # The terminal may be gone; the server is not to block on a full pipe for that.
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(self._wording(line))
                sys.stderr.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        """The last lines it wrote; all of them when it has ended."""
        if not self.running:
            self._relay.join(2)
        return "".join(self._tail)

    def wait_until_ready(self, is_ready: Callable[[], bool], complaint_in: Callable[[str], str]) -> None:
        """Return as soon as *is_ready*; otherwise stop it. ToolError, with its own complaint where it has ended."""
        deadline = time.monotonic() + START_DEADLINE
        try:
            while not is_ready():
                if not self.running:
                    raise ToolError(f"{self.name} did not start: {complaint_in(self.output())}")
                if time.monotonic() > deadline:
                    raise ToolError(f"{self.name} was not ready within {START_DEADLINE:g} s: see the log above")
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask it to end; after its patience kill it and the children it has by then."""
        if self.running:
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(self._patience)
            except subprocess.TimeoutExpired:
                # Apache's children ignore SIGTERM and would outlive their parent.
                for pid in (self._process.pid, *children_of(self._process.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self._process.wait()
        self._relay.join(2)


def children_of(parent: int) -> list[int]:
    """Pids of the children of *parent*."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name) state ppid ...": the name may hold anything, so look behind its bracket.
                stat = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(stat[1]) == parent:
                    found.append(int(entry))
    return found
