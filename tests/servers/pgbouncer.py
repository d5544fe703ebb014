"""A private PgBouncer: a port of 127.0.0.1 and a Unix socket, in a directory of its own, never as root."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg2

from servers.base import (
    DEADLINE,
    ServerError,
    free_port,
    make_public_dir,
    remove_tree,
    spawn,
    stop_process,
    wait_until,
)
from servers.postgres import DATABASE, ROLE, database_user

PGBOUNCER = "/usr/sbin/pgbouncer"
ADMIN = "admin"


class PgBouncer:
    """One PgBouncer in front of *server*, in transaction mode unless *settings* say otherwise.

    `conninfo` reaches the site's database through it by the Unix socket, `tcp_conninfo` by 127.0.0.1.

    :param conf: a configuration to begin with, up to its section [pgbouncer]; what is set here comes after it.
    :param password: of the site's role; without it everybody is believed.
    """

    def __init__(
        self,
        server: Any,
        *,
        settings: Mapping[str, object] | None = None,
        conf: Path | None = None,
        password: str | None = None,
    ) -> None:
        self.root = make_public_dir("mpb-")
        self.config_file = self.root / "pgbouncer.ini"
        self.log_file = self.root / "log"
        self.port = 0
        self.socket_dir = self.root
        self._target = f"host={server.socket_dir} port={server.port} dbname={DATABASE}"
        self._settings = dict(settings or {})
        self._conf = conf
        self._password = password
        self._user = database_user()  # PgBouncer refuses root
        self._process: subprocess.Popen[bytes] | None = None
        try:
            if self._user:
                shutil.chown(self.root, self._user)
            self.start()
        except BaseException:
            self.close()
            raise

    # -- configuration

    def _configuration(self) -> str:
        own = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": self.socket_dir,
            "auth_file": self.root / "users.txt",
            "admin_users": ADMIN,
            **({} if self._conf else {"pool_mode": "transaction"}),
            **({} if self._password else {"auth_type": "trust"}),
            **self._settings,
        }
        # A second [pgbouncer] section would put everything back to its default.
        given = self._conf.read_text(encoding="utf-8") if self._conf else "[pgbouncer]"
        lines = [given, *(f"{name} = {value}" for name, value in own.items())]
        return "\n".join([*lines, "[databases]", f"{DATABASE} = {self._target}", ""])

    def _write_configuration(self) -> None:
        users = {ROLE: self._password or "", ADMIN: ADMIN}
        (self.root / "users.txt").write_text("".join(f'"{name}" "{word}"\n' for name, word in users.items()))
        self.config_file.write_text(self._configuration())

    def configure(self, **settings: object) -> None:
        """Other settings from now on, by RELOAD."""
        self._settings.update(settings)
        self._write_configuration()
        self.admin("RELOAD")

    # -- life

    def start(self) -> None:
        """Start and wait until it answers. A port that somebody took meanwhile is exchanged at the first start only."""
        first_start = self.port == 0
        for _ in range(10 if first_start else 1):
            if first_start:
                self.port = free_port()
            self._write_configuration()
            mark = len(self.log())
            process = spawn([PGBOUNCER, str(self.config_file)], log=self.log_file, user=self._user, cwd=self.root)
            self._process = process
            wait_until(lambda p=process: p.poll() is not None or self._answers(), what="PgBouncer answers")
            # Without its port it would go on with the socket alone.
            if process.poll() is None and "cannot listen on" not in self.log()[mark:]:
                return
            self.stop()
        raise ServerError(f"PgBouncer did not start:\n{self.log()}")

    def _answers(self) -> bool:
        try:
            self.admin("SHOW VERSION")
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it at once: from 1.23 on SIGTERM would wait for its clients."""
        if self._process is not None:
            stop_process(self._process, how, patience=DEADLINE)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove its directory."""
        try:
            self.stop()
        finally:
            remove_tree(self.root)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    # -- who connects, and what it says of them

    @property
    def conninfo(self) -> str:
        return f"host={self.socket_dir} port={self.port} dbname={DATABASE} user={ROLE}"

    @property
    def tcp_conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} dbname={DATABASE} user={ROLE}"

    def admin(self, command: str) -> list[dict[str, Any]]:
        """A command of the admin console, on a connection for just that; its rows."""
        conn = psycopg2.connect(
            f"host={self.socket_dir} port={self.port} dbname=pgbouncer user={ADMIN} password={ADMIN} connect_timeout=5"
        )
        try:
            conn.autocommit = True  # the console knows no BEGIN
            with conn.cursor() as cursor:
                cursor.execute(command)
                if cursor.description is None:
                    return []
                names = [column.name for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        finally:
            conn.close()

    def connections(self) -> tuple[int, int]:
        """How many clients and how many server connections the site's database has here."""
        clients = [row for row in self.admin("SHOW CLIENTS") if row["database"] == DATABASE]
        servers = [row for row in self.admin("SHOW SERVERS") if row["database"] == DATABASE]
        return len(clients), len(servers)
