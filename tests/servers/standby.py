"""A streaming standby of a private PostgreSQL."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psycopg2

from servers.base import make_public_dir, remove_tree, run
from servers.postgres import ADMIN, DATABASE, PostgresServer, bin_directory, database_user


def allow_replication(primary: PostgresServer) -> None:
    """Let a standby in. The primary is to be made with `wal_level="replica"` and some `max_wal_senders`."""
    hba: Path = primary.data / "pg_hba.conf"
    if "replication" not in hba.read_text():
        hba.write_text(hba.read_text() + "local replication all trust\n")
        primary.execute("SELECT pg_reload_conf()")


class Standby:
    """A streaming standby of *primary*, on a Unix socket only; the same interface for what the tests need."""

    def __init__(self, primary: PostgresServer) -> None:
        self.root = make_public_dir("mps-")
        self.data = self.root / "data"
        self._user = database_user()
        if self._user:
            shutil.chown(self.root, self._user)
        self._bin = bin_directory()
        address = f"host={primary.socket_dir} port={primary.port} user={ADMIN}"
        run(
            [str(self._bin / "pg_basebackup"), "-d", address, "-D", str(self.data), "-R", "-X", "stream", "-c", "fast"],
            user=self._user,
            cwd=self.root,
        )
        self.port = primary.port
        self.socket_dir = self.root
        # A standby refuses to start with smaller limits than its primary's.
        settings = {
            **primary.settings,
            "port": str(self.port),
            "unix_socket_directories": str(self.root),
            "listen_addresses": "",
        }
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        try:
            self._ctl("start")
        except BaseException:
            remove_tree(self.root)
            raise

    def _ctl(self, action: str, *options: str) -> None:
        run(
            [str(self._bin / "pg_ctl"), "-D", str(self.data), "-w", "-l", str(self.root / "log"), action, *options],
            user=self._user,
            cwd=self.root,
        )

    @property
    def admin_conninfo(self) -> str:
        return f"host={self.socket_dir} port={self.port} dbname={DATABASE} user={ADMIN} application_name=admin"

    def execute(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        """Run *sql* as superuser on a connection for just that; the rows, or [] if it returns none."""
        conn = psycopg2.connect(self.admin_conninfo)
        try:
            conn.autocommit = True
            with conn.cursor() as cursor:
                cursor.execute(sql, args or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            conn.close()

    def promote(self) -> None:
        self._ctl("promote")

    def stop(self) -> None:
        self._ctl("stop", "-m", "immediate")

    def close(self) -> None:
        try:
            self.stop()
        finally:
            remove_tree(self.root)
