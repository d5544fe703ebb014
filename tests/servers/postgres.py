"""A private PostgreSQL cluster: Unix socket and a port of 127.0.0.1, `trust`, no fsync."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2

from servers.base import (
    DEADLINE,
    ServerError,
    free_port,
    make_public_dir,
    remove_tree,
    run,
    spawn,
    stop_process,
    user_exists,
    wait_until,
)

STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
DATABASE = "site"
ROLE = "site"
ADMIN = "postgres"

# A statement that waits for the end of `held_up`, and can do so in any number of sessions.
WAIT_FOR_THE_TEST = "SELECT pg_advisory_xact_lock_shared(1)"


def bin_directory() -> Path:
    """Directory of the newest PostgreSQL server on this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise ServerError("no PostgreSQL server is installed (apt-get install postgresql)")
    return Path(on_path).resolve().parent


def database_user() -> str | None:
    """The account that runs the server: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    if not user_exists("postgres"):
        raise ServerError("root needs the system user 'postgres' to run PostgreSQL (apt-get install postgresql)")
    return "postgres"


class PostgresServer:
    """One cluster with a database and a role of the site, which is no superuser.

    `conninfo` reaches it as that role through the Unix socket, `tcp_conninfo` through 127.0.0.1, `admin_conninfo`
    as superuser. All three stay valid over `stop`, `start` and `restart`.
    """

    def __init__(self, *, settings: dict[str, str] | None = None, template: Path | None = None) -> None:
        self.root = make_public_dir("mpg-")
        self.data = self.root / "data"
        self.socket_dir = self.root / "s"
        self.log_file = self.root / "log"
        self.settings = {"max_connections": "200", "fsync": "off", "shared_buffers": "16MB", **(settings or {})}
        self.port = 0
        self._bin = bin_directory()
        self._user = database_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: Any = None
        try:
            self._make_directories()
            if template is None:
                self._initdb()
            else:
                run(["cp", "-a", str(template), str(self.data)])
            self.start()
            if template is None:
                self._create_database()
        except BaseException:
            self.close()
            raise

    def _make_directories(self) -> None:
        self.socket_dir.mkdir(mode=0o755)
        if self._user:
            shutil.chown(self.root, self._user)
            shutil.chown(self.socket_dir, self._user)

    def _initdb(self) -> None:
        run(
            [
                *(str(self._bin / "initdb"), "-D", str(self.data), "-U", ADMIN),
                *("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"),
            ],
            user=self._user,
            cwd=self.root,
        )

    def _create_database(self) -> None:
        with_postgres = psycopg2.connect(f"{self._address()} dbname=postgres user={ADMIN}")
        try:
            with_postgres.autocommit = True
            with with_postgres.cursor() as cursor:
                cursor.execute(f"CREATE ROLE {ROLE} LOGIN")
                cursor.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
        finally:
            with_postgres.close()

    def _address(self) -> str:
        return f"host={self.socket_dir} port={self.port}"

    @property
    def conninfo(self) -> str:
        return f"{self._address()} dbname={DATABASE} user={ROLE}"

    @property
    def tcp_conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} dbname={DATABASE} user={ROLE}"

    @property
    def admin_conninfo(self) -> str:
        return f"{self._address()} dbname={DATABASE} user={ADMIN} application_name=admin"

    @property
    def env(self) -> dict[str, str]:
        """The same as `conninfo`, as a process finds it in its environment."""
        return {
            "PGHOST": str(self.socket_dir),
            "PGPORT": str(self.port),
            "PGDATABASE": DATABASE,
            "PGUSER": ROLE,
            "MPOOL_CONNINFO": self.conninfo,
        }

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError("PostgreSQL is stopped")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it answers. A port that somebody took meanwhile is exchanged at the first start only."""
        if self.running:
            return
        first_start = self.port == 0
        for _ in range(10 if first_start else 1):
            if first_start:
                self.port = free_port()
            if self._try_start():
                return
        raise ServerError(f"PostgreSQL did not start:\n{self.log()}")

    def _try_start(self) -> bool:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_dir),
            **self.settings,
        }
        command = [str(self._bin / "postgres"), "-D", str(self.data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        process = spawn(command, log=self.log_file, user=self._user, cwd=self.root)
        self._process = process
        wait_until(lambda: process.poll() is not None or self._answers(), what="PostgreSQL answers")
        return process.poll() is None

    def _answers(self) -> bool:
        try:
            psycopg2.connect(f"{self._address()} dbname=postgres user={ADMIN} connect_timeout=5").close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self, mode: str = "fast") -> None:
        """Stop it; *mode* is "smart" (waits for clients), "fast" or "immediate"."""
        self._close_admin()
        if self._process is not None:
            stop_process(self._process, STOP_SIGNALS[mode], patience=DEADLINE)
            self._process = None

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop it and remove the cluster."""
        try:
            self.stop("immediate")
        finally:
            remove_tree(self.root)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def execute(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        """Run *sql* as superuser on a connection of its own, autocommit; the rows, or [] if it returns none."""
        if self._admin is None or self._admin.closed:
            self._admin = psycopg2.connect(self.admin_conninfo)
            self._admin.autocommit = True
        with self._admin.cursor() as cursor:
            cursor.execute(sql, args or None)
            return cursor.fetchall() if cursor.description else []

    def _close_admin(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def backends(self, prefix: str = "mpool") -> list[tuple[int, str, str]]:
        """(pid, application_name, state) of the clients whose application_name starts with *prefix*, by pid."""
        rows: Sequence[tuple[Any, ...]] = self.execute(
            "SELECT pid, application_name, coalesce(state, '') FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND starts_with(application_name, %s)"
            " ORDER BY pid",
            prefix,
        )
        return [(pid, name, state) for pid, name, state in rows]

    def wait_for_backends(
        self, count: int, prefix: str = "mpool", timeout: float = DEADLINE
    ) -> list[tuple[int, str, str]]:
        """Wait until there are exactly *count* such backends and return them."""
        found: list[tuple[int, str, str]] = []

        def as_many() -> bool:
            found[:] = self.backends(prefix)
            return len(found) == count

        try:
            wait_until(as_many, timeout=timeout)
        except AssertionError:
            raise AssertionError(f"{len(found)} backends, not {count}, after {timeout:g} s: {found}") from None
        return found

    def terminate_backends(self, prefix: str = "mpool") -> int:
        """Terminate those backends; how many there were."""
        return sum(bool(self.execute("SELECT pg_terminate_backend(%s)", pid)) for pid, _, _ in self.backends(prefix))


@contextlib.contextmanager
def held_up(server: PostgresServer) -> Iterator[None]:
    """Within this block `WAIT_FOR_THE_TEST` waits, however slow the machine is."""
    holder = psycopg2.connect(server.admin_conninfo)
    try:
        with holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(1)")
        yield
    finally:
        holder.close()
