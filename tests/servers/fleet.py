"""Several machines' worth of servers: two database machines, the traffic on a balancer, and who counts connections."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import pwd
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from servers import client
from servers.balancer import FLEET
from servers.base import make_public_dir, remove_tree, run, serving_user
from servers.pgbouncer import ADMIN, PgBouncer
from servers.postgres import DATABASE, ROLE, PostgresServer, database_user
from servers.standby import Standby, allow_replication

PASSWORD = "said-to-pgbouncer-only"
PGBOUNCER_INI = FLEET / "pgbouncer.ini"
# All else is as shipped; a loaded machine takes its time.
PATIENCE = {"query_wait_timeout": 25, "server_connect_timeout": 25}


def planned_connections() -> int:
    """What pgbouncer.ini lets its server see at most."""
    found = re.search(r"^max_db_connections = (\d+)$", PGBOUNCER_INI.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return int(found[1])


class Machine:
    """A database machine: a PostgreSQL server and, with the fleet's own pgbouncer.ini, the PgBouncer beside it."""

    def __init__(self, server: PostgresServer | Standby) -> None:
        self.server = server
        self.bouncer = PgBouncer(server, conf=PGBOUNCER_INI, password=PASSWORD, settings=PATIENCE)

    def kill(self) -> None:
        """What a power cut does to both."""
        self.server.stop("immediate") if isinstance(self.server, PostgresServer) else self.server.stop()
        self.bouncer.stop(signal.SIGKILL)

    def promote(self) -> None:
        """With the fleet's own script, as the account that both servers run as."""
        script = self.bouncer.root / "promote"
        shutil.copyfile(FLEET / "promote", script)
        env = {"PGDATA": str(self.server.data), "PGHOST": str(self.bouncer.socket_dir)}
        run(
            ["/bin/sh", str(script)],
            user=database_user(),
            env={**env, "PGBOUNCER_PORT": str(self.bouncer.port)},
            cwd=self.bouncer.root,
        )


@contextlib.contextmanager
def database_machines(primary: PostgresServer) -> Iterator[tuple[Machine, Machine]]:
    """The machine of *primary* and that of a streaming standby of it."""
    primary.execute(f"ALTER ROLE {ROLE} PASSWORD '{PASSWORD}'")
    allow_replication(primary)
    with contextlib.ExitStack() as cleanups:
        standby = Standby(primary)
        cleanups.callback(standby.close)
        machines = []
        for server in (primary, standby):
            machines.append(Machine(server))
            cleanups.callback(machines[-1].bouncer.close)
        yield machines[0], machines[1]


def web_environment(machines: tuple[Machine, Machine], passfile: Path) -> dict[str, str]:
    """What a web server is told: both machines, and for each pool which of them it wants."""

    def both(ports: list[int], wanted: str) -> str:
        hosts = f"host=127.0.0.1,127.0.0.1 port={ports[0]},{ports[1]} connect_timeout=2"
        return f"{hosts} dbname={DATABASE} user={ROLE} target_session_attrs={wanted}"

    ports = [machine.bouncer.port for machine in machines]
    return {
        "PGPASSFILE": str(passfile),
        "MPOOL_TIMEOUT": "25",
        "MPOOL_CONNINFO": both(ports, "read-write"),
        "MPOOL_READER_CONNINFO": both(ports[::-1], "prefer-standby"),
    }


@contextlib.contextmanager
def password_file() -> Iterator[Path]:
    """For libpq, which reads none that others can read."""
    root = make_public_dir("mpw-")
    try:
        path = root / "passfile"
        path.touch(mode=0o600)
        path.write_text(f"*:*:{DATABASE}:{ROLE}:{PASSWORD}\n")
        user = serving_user()
        if user:
            os.chown(path, pwd.getpwnam(user).pw_uid, -1)
        yield path
    finally:
        remove_tree(root)


@dataclass(frozen=True)
class Request:
    """One request that was sent: when, to whom, and what came back; status None where nothing did."""

    number: int
    kind: str
    sent: float
    ended: float
    status: int | None
    text: str

    @property
    def succeeded(self) -> bool:
        return self.status == 200


class Traffic:
    """Readers and writers that go on asking, each at most some thirty times a second."""

    def __init__(self, host: str, port: int, *, writers: int, readers: int) -> None:
        self._address = (host, port)
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self.requests: list[Request] = []
        kinds = ["write"] * writers + ["read"] * readers
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]

    def _run(self, kind: str) -> None:
        while not self._stopping.is_set():
            number = next(self._numbers)
            sent = time.monotonic()
            status = None
            try:
                answer = client.request(*self._address, "GET", f"/{kind}?number={number}")
                status, text = answer.status, answer.text
            except (OSError, http.client.HTTPException) as error:
                text = repr(error)
            self.requests.append(Request(number, kind, sent, time.monotonic(), status, text))
            self._stopping.wait(0.03)

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def of(self, kind: str, since: float = 0.0) -> list[Request]:
        """Those that were sent since."""
        return [request for request in list(self.requests) if request.kind == kind and request.sent >= since]


@dataclass(frozen=True)
class Sample:
    at: float
    clients: int  # of PgBouncer
    lent: int  # server connections that PgBouncer has
    backends: int  # that the server has


class Watch:
    """Counts a machine's connections, again and again, until the block ends."""

    QUERY = f"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = '{ROLE}'"

    def __init__(self, machine: Machine) -> None:
        self._server: Any = psycopg2.connect(machine.server.admin_conninfo)
        self._bouncer: Any = psycopg2.connect(
            f"host={machine.bouncer.socket_dir} port={machine.bouncer.port} dbname=pgbouncer user={ADMIN} "
            f"password={ADMIN}"
        )
        self.samples: list[Sample] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with contextlib.suppress(psycopg2.Error):  # a machine that was killed has no connections
            while not self._stopping.wait(0.05):
                self.samples.append(
                    Sample(
                        time.monotonic(),
                        self._count("SHOW CLIENTS"),
                        self._count("SHOW SERVERS"),
                        self._backends(),
                    )
                )

    def _count(self, command: str) -> int:
        with self._bouncer.cursor() as cursor:
            cursor.execute(command)
            names = [column.name for column in cursor.description]
            return sum(row[names.index("database")] == DATABASE for row in cursor.fetchall())

    def _backends(self) -> int:
        with self._server.cursor() as cursor:
            cursor.execute(self.QUERY)
            count: int = cursor.fetchone()[0]
            return count

    def __enter__(self) -> Watch:
        self._server.autocommit = self._bouncer.autocommit = True
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._server.close()
        self._bouncer.close()

    def most(self, what: str, *, but: tuple[float, float] = (0.0, 0.0)) -> int:
        """The highest of the samples' figures, of those outside the seconds *but*."""
        return max(
            (getattr(sample, what) for sample in list(self.samples) if not but[0] <= sample.at <= but[1]), default=0
        )
