"""A tree of 20 modules with connections, pools, locks and threads in them, reloaded many times on the real Apache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.base import wait_until
from servers.httpd import Httpd
from servers.postgres import PostgresServer

MODULES = 20
NAME = "endurance"

_HEAD = """
import threading
from mod_python import apache
{imports}
CONNINFO = apache.main_server.get_options()["test.conninfo"]
"""

# What the modules hold, in turn.
_KINDS = [
    """
from handlers.base import __mp_clone__, __mp_purge__
from psycopg2.pool import ThreadedConnectionPool
if "pool" not in globals():
    pool = ThreadedConnectionPool(1, 4, CONNINFO, application_name="endurance-carried")
""",
    """
import psycopg2
connection = psycopg2.connect(CONNINFO, application_name="endurance-naive")
class Table:
    source = connection
    def rows(self, connection=connection): return self
tables = {"one": Table()}
cursor = connection.cursor()
""",
    """
from psycopg2.pool import ThreadedConnectionPool
pool = ThreadedConnectionPool(1, 4, CONNINFO, application_name="endurance-pool")
def get(): return pool.getconn()
""",
    """
stopping = threading.Event()
def run():
    while not stopping.wait(60): pass
thread = threading.Thread(target=run, name="endurance", daemon=True)
thread.start()
def __mp_purge__():
    stopping.set()
    thread.join(10)
""",
    """
if "lock" not in globals():
    lock, counter = threading.RLock(), {"reloads": 0}
def __mp_clone__(module):
    with lock:
        counter["reloads"] += 1
        module.lock, module.counter = lock, counter
""",
]

_LOOK = """
import gc, types, threading

def index(req):
    modules = [each for each in gc.get_objects() if type(each) is types.ModuleType]
    return str(sum("__mp_info__" in (vars(each) or ()) for each in modules))
"""


def _source(number: int) -> str:
    """Module *number* imports the next one and the one after that; the last one is imported by all, in the end."""
    below = [f"part_{other}" for other in (number + 1, number + 2) if other < MODULES]
    imports = "".join(f"import {name}\n" for name in below)
    version = f"VERSION = {below[0]}.VERSION\n" if below else "VERSION = 0\n"
    return _HEAD.format(imports=imports) + version + _KINDS[number % len(_KINDS)]


def tree() -> dict[str, str]:
    pages = {f"part_{number}.py": _source(number) for number in range(MODULES)}
    pages["part_0.py"] += "\ndef index(req): return str(VERSION)\n"
    return {**pages, "look.py": _LOOK}


@dataclass(frozen=True)
class Figures:
    reloads: int
    rss: int  # KiB
    descriptors: int
    threads: int
    backends: int
    instances: int  # modules that are alive, of those that the importer manages

    def __str__(self) -> str:
        return (
            f"{self.reloads:6} reloads: {self.rss / 1024:7.1f} MiB, {self.descriptors:3} descriptors, "
            f"{self.threads:3} threads, {self.backends:3} backends, {self.instances:3} module instances"
        )


class Endurance:
    def __init__(self, httpd: Callable[..., Httpd], postgres: PostgresServer) -> None:
        self.postgres = postgres
        self.server = httpd(site=tree(), options={"test.conninfo": postgres.conninfo}, threads=4)
        self.done = 0
        assert self._get("/part_0") == "0"

    def _get(self, path: str) -> str:
        response = self.server.get(path)
        assert response.status == 200, self.server.log()
        return response.text

    def reload(self, times: int) -> None:
        """Edit the module that all others were built on, and ask for the page: all 20 are executed."""
        last = f"part_{MODULES - 1}.py"
        for _ in range(times):
            self.done += 1
            text = _source(MODULES - 1).replace("VERSION = 0", f"VERSION = {self.done}")
            path = self.server.write(last, text)
            wait_until(lambda path=path: is_quiet(path), what="50 ms since the last write")
            assert self._get("/part_0") == str(self.done)

    def settle(self) -> Figures:
        """The figures, once the housekeeper has let go of the last old instances."""
        kinds = [number % len(_KINDS) for number in range(MODULES)]
        due = (sum(kind in (0, 1, 2) for kind in kinds), MODULES + 1)
        seen: list[Figures] = []

        def is_due() -> bool:
            seen.append(self.look())
            return (seen[-1].backends, seen[-1].instances) == due

        try:
            wait_until(is_due, what=f"{due[0]} backends and {due[1]} module instances")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{seen[-1]}") from None
        return seen[-1]

    def look(self) -> Figures:
        (child,) = self.server.children()
        status: dict[str, Any] = dict(
            line.split(":", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines()
        )
        return Figures(
            reloads=self.done,
            rss=int(status["VmRSS"].split()[0]),
            descriptors=len(os.listdir(f"/proc/{child}/fd")),
            threads=int(status["Threads"]),
            backends=len(self.postgres.backends(NAME)),
            instances=int(self._get("/look")),
        )


def is_quiet(path: Path) -> bool:
    """Is the last write more than 50 ms ago?"""
    return time.time_ns() - path.stat().st_ctime_ns > 50_000_000
